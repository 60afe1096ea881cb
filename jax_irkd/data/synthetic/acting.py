"""From the script of an action to a moving body: hands, feet, chair and things held.

A `Script` says what one action asks of the body as functions of time; `play` adds what every
person does besides, such as swaying, and solves for the joints.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_irkd.data.synthetic import skeleton
from jax_irkd.data.synthetic.skeleton import Body, Points, Scalars, Trunk


class Prop(NamedTuple):
    """A thing in the scene: where it is and where its long axis points."""

    kind: str
    position: Points
    axis: Points


class Performance(NamedTuple):
    """One take, sampled in time."""

    joints: dict[str, Points]
    face: Points  # the direction of the nose
    props: list[Prop]
    chair: tuple[float, float] | None  # x and z of the seat's centre


class Take(NamedTuple):
    """What an action may ask about the take: instants, body, dominant side, random numbers."""

    phase: Scalars  # 0 at the beginning of the take, 1 at its end
    seconds: Scalars
    duration: float
    body: Body
    side: int
    draw: Callable[..., float]  # draw(low, high)
    choose: Callable[[list[str]], str]


class Script(NamedTuple):
    """What an action asks of the body. Hands are functions of the trunk that carries them."""

    main: Callable[[Trunk], Points]
    other: Callable[[Trunk], Points] | None = None
    props: Callable[[Trunk, dict[str, Points]], list[Prop]] = lambda trunk, joints: []
    elbow: Scalars | float = 0.0
    other_elbow: Scalars | float = 0.0
    sit: Scalars | float = 0.0
    crouch: Scalars | float = 0.0
    lean: Scalars | float = 0.0
    roll: Scalars | float = 0.0
    twist: Scalars | float = 0.0
    step: Scalars | float = 0.0  # from 0 to 1
    stride: float = 0.0  # length of the step, in body heights
    nod: Scalars | float = 0.0
    tilt: Scalars | float = 0.0
    may_sit: bool = False
    chair: bool = False


def ramp(phase: Scalars, start: float, end: float) -> Scalars:
    """Rises smoothly from 0 at `start` to 1 at `end`."""
    x = np.clip((phase - start) / (end - start), 0.0, 1.0)
    return x * x * (3 - 2 * x)


def plateau(phase: Scalars, start: float, up: float, down: float, end: float) -> Scalars:
    """0, then 1 between `up` and `down`, then 0 again."""
    return ramp(phase, start, up) - ramp(phase, down, end)


def blend(first: Points, second: Points, weight: Scalars) -> Points:
    return first + (second - first) * weight[:, None]


def play(script: Script, take: Take) -> Performance:
    draw, body, side, zero = take.draw, take.body, take.side, np.zeros_like(take.phase)
    seated = draw(0, 1) < 0.06 and script.may_sit
    chair = seated or script.chair or draw(0, 1) < 0.15
    sway, speed, shift = draw(0.005, 0.025), draw(1.0, 2.5), draw(0, 6.3)
    rock = np.sin(speed * take.seconds + shift)
    base = skeleton.trunk(
        body,
        sit=zero + (1.0 if seated else script.sit),
        crouch=zero + script.crouch + draw(0.0, 0.012),
        lean=zero + script.lean + draw(-0.03, 0.07) + sway * rock,
        roll=zero + script.roll + sway * np.cos(speed * take.seconds + shift),
        twist=zero + script.twist + draw(-0.12, 0.12) + 2 * sway * rock,
        step=zero + script.stride * script.step,
        nod=zero + script.nod + draw(-0.08, 0.10),
        look=zero + draw(-0.15, 0.15) + 3 * sway * rock,
        tilt=zero + script.tilt + draw(-0.05, 0.05),
    )
    idle = resting(take, -side) if script.other is None else script.other
    hands = {side: script.main(base), -side: idle(base)}
    lift = draw(-0.1, 0.25)
    elbows = {side: zero + script.elbow + lift, -side: zero + script.other_elbow + 0.05}
    found = skeleton.joints(base, hands, _feet(script, take, zero), elbows)
    face = base.face(0, 0, 1) - base.head
    where = (draw(-0.05, 0.05), -0.24 * body.height)
    if chair and not (seated or script.chair):  # a chair that nobody uses stands aside
        where = (draw(0.5, 0.8) * (1 if draw(0, 1) < 0.5 else -1), draw(-0.7, -0.2))
    return Performance(found, face, script.props(base, found), where if chair else None)


def _feet(script: Script, take: Take, zero: Scalars) -> dict[int, Points]:
    """Ankles on the floor; in a step they follow the pelvis one after the other."""
    height, width = take.body.height, take.draw(0.06, 0.13)
    feet = {}
    for side in skeleton.SIDES:
        moved = np.clip(1.6 * (zero + script.step) - (0.6 if side == take.side else 0.0), 0, 1)
        forward = height * script.stride * moved + take.draw(-0.05, 0.05)
        y = height * (skeleton.ANKLE + 0.3 * script.stride * np.sin(np.pi * moved))
        feet[side] = np.stack([zero + side * width, zero + y, forward], axis=-1)
    return feet


def resting(take: Take, side: int) -> Callable[[Trunk], Points]:
    """The arm hangs beside the hip, or lies on the lap when the person sits."""
    x, z = take.draw(0.13, 0.17), take.draw(0.0, 0.06)
    sway, shift = take.draw(0.0, 0.012), take.draw(0, 6.3)

    def hang(base: Trunk) -> Points:
        low = np.clip((base.pelvis[:, 1] / base.body.height - 0.36) / 0.15, 0, 1)
        swing = z + sway * np.sin(2 * take.seconds + shift)
        down = base.reach(side * x, -0.35, swing)
        lap = base.reach(side * 0.07, -0.25, 0.16)
        return blend(lap, down, low)

    return hang


def carrying(
    take: Take, kind: str, chance: float, height: tuple[float, float]
) -> tuple[Callable[[Trunk], Points], Callable[[dict[str, Points]], list[Prop]]]:
    """The other hand and what it holds: with `chance` a thing at `height` over the neck, or none.

    `height` is a range in units of body height.
    """
    side, holds = -take.side, take.draw(0, 1) < chance
    x, y, z = take.draw(0.05, 0.1), take.draw(*height), take.draw(0.17, 0.22)
    rest = resting(take, side)

    def hold(base: Trunk) -> Points:
        return base.reach(side * x, y, z) if holds else rest(base)

    def things(found: dict[str, Points]) -> list[Prop]:
        return [Prop(kind, hand_of(found, side), upright(take.phase))] if holds else []

    return hold, things


def hand_of(found: dict[str, Points], side: int) -> Points:
    return found["left_hand" if side > 0 else "right_hand"]


def upright(phase: Scalars) -> Points:
    return np.broadcast_to(np.array([0.0, 1.0, 0.0]), (len(phase), 3))
