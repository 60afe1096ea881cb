"""What a person does in one long film: the ten actions, and between them nothing of the kind.

In a stretch where nothing happens the person stands or sits, sways, looks about, moves a hand here
and there, and may hold a thing: the same things that the actions need, so that neither a still
picture nor a thing in the hand tells them apart. Half a second after an action and before the next
one the body passes from pose to pose.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from jax_irkd.data.synthetic import acting, actors, motions, staging, things
from jax_irkd.data.synthetic.acting import Performance, Prop, Script, Take, blend, ramp
from jax_irkd.data.synthetic.actors import Look, Solid
from jax_irkd.data.synthetic.skeleton import SIDES, Points, Scalars

NOTHING = 0
SIT_DOWN, STAND_UP = 8, 9
SEATED = (1, 2, 3, 4, 10)  # actions that people also do on a chair
LASTING, BETWEEN = (1.7, 2.5), (2.0, 6.0)  # seconds: of an action before the tempo, of nothing
PASSING = 0.5  # seconds from one pose to the next
WITHIN = 0.3  # metres from a hand in which a thing moves with it
AWAY = (0.0, -50.0, 0.0)  # where things are that are not in the picture
KINDS = ("cup", "bottle", "apple", "bread", "ball", "box")
# What generators are for; staging's own purposes count from 0.
PLOT, MOTION, FURNITURE = 40, 41, 42


class Piece(NamedTuple):
    """One action (1 to 10, or NOTHING) from `begin` to `end`, in seconds, on a chair or not."""

    action: int
    begin: float
    end: float
    seated: bool


def plot(tempo: float, rng: np.random.Generator) -> list[Piece]:
    """Every action once, in any order in which it can be done, nothing before, between and after.

    Who has sat down may drink, eat, brush, clap there, and then stands up.
    """
    on_chair = [a for a in rng.permutation(SEATED).tolist() if rng.uniform() < 0.25]
    chair = [SIT_DOWN, *on_chair, STAND_UP]
    others = [a for a in range(1, 11) if a not in chair]
    order = rng.permutation(others).tolist()
    at = int(rng.integers(len(order) + 1))
    pieces, clock, seated = [], 0.0, False
    for action in [*order[:at], *chair, *order[at:], NOTHING]:
        end = clock + rng.uniform(*BETWEEN)
        pieces.append(Piece(NOTHING, clock, end, seated))
        if action != NOTHING:
            clock = end + rng.uniform(*LASTING) / tempo
            pieces.append(Piece(action, end, clock, seated))
            seated = action != STAND_UP and (seated or action == SIT_DOWN)
    return pieces


def scene(
    look: Look, pieces: Sequence[Piece], seconds: Scalars, seed: int, *key: int
) -> list[Solid]:
    """Everything that stands in the room at `seconds`: the person, what is held, a chair.

    At every instant the joints are the mean of those of the pieces, weighted by `weights`.
    """
    joints: dict[str, Points] = {}
    face, acts = np.zeros((len(seconds), 3)), []
    for number, (piece, weight) in enumerate(zip(pieces, weights(pieces, seconds), strict=True)):
        there = np.flatnonzero(weight > 0)
        rng = staging.generator(seed, MOTION, *key, number)
        acted, share = act(look, piece, seconds[there], rng), weight[there, None]
        for name, points in acted.joints.items():
            joints.setdefault(name, np.zeros_like(face))[there] += share * points
        face[there] += share * acted.face
        # What is held while nothing happens is put down before the next action begins.
        acts.append((acted, there, share[:, 0] > (0 if piece.action else 0.99)))
    solids = actors.person(look, Performance(joints, face, [], None))
    furniture = staging.generator(seed, FURNITURE, *key)
    for acted, there, shown in acts:
        own = {name: points[there] for name, points in joints.items()}
        for prop in acted.props:
            place, axis = np.full_like(face, AWAY), np.broadcast_to([0.0, 1.0, 0.0], face.shape)
            axis = axis.copy()
            moved = _carried(prop.position, acted.joints, own)
            place[there[shown]], axis[there[shown]] = moved[shown], prop.axis[shown]
            solids += things.prop(Prop(prop.kind, place, axis), furniture)
    seat = (furniture.uniform(-0.05, 0.05), -0.24 * look.body.height)
    return solids + things.chair(*seat, len(seconds), furniture)


def weights(pieces: Sequence[Piece], seconds: Scalars) -> Float[np.ndarray, "p t"]:
    """What part each piece has in the pose: an action all of it from its begin to its end, less
    and less for `PASSING` seconds around it; nothing has the rest. They sum to one."""
    found = np.zeros((len(pieces), len(seconds)))
    for own, piece in zip(found, pieces):
        if piece.action != NOTHING:
            own += ramp(seconds, piece.begin - PASSING, piece.begin)
            own -= ramp(seconds, piece.end, piece.end + PASSING)
    rest = 1 - found.sum(axis=0)
    for number, (own, piece) in enumerate(zip(found, pieces)):
        if piece.action == NOTHING:
            begun = seconds >= piece.begin if number else True
            own += rest * (begun & (seconds < piece.end if number < len(pieces) - 1 else True))
    return found


def act(look: Look, piece: Piece, seconds: Scalars, rng: np.random.Generator) -> Performance:
    """The performance of a piece at instants of the film, also around its begin and its end."""
    own, duration = seconds - piece.begin, piece.end - piece.begin
    take = Take(
        own / duration, own, duration, look.body, look.side,
        lambda low, high: float(rng.uniform(low, high)),
        lambda kinds: kinds[int(rng.integers(len(kinds)))],
    )  # fmt: skip
    script = motions.ACTIONS[piece.action](take) if piece.action else idle(take)
    script = script._replace(may_sit=False, chair=False)
    if piece.seated and piece.action != STAND_UP:
        script = script._replace(sit=1.0)
    return acting.play(script, take)


def idle(take: Take) -> Script:
    """Nothing: each hand goes somewhere below the face and back now and then; a thing may be held.

    Turns of head and trunk and shifts of weight come beside it.
    """
    draw, zero = take.draw, np.zeros_like(take.phase)
    props: list[Callable] = []

    def wandering(side: int, holds: bool):
        rest, stops = acting.resting(take, side), int(draw(0, 3.99))
        bends = [(draw(0.0, 0.8), draw(0.4, 0.9), draw(0.2, 1.2)) for _ in range(stops)]
        spots = [(side * draw(-0.02, 0.2), draw(-0.32, 0.02), draw(0.05, 0.28)) for _ in bends]
        low = (side * draw(0.03, 0.12), draw(-0.31, -0.12), draw(0.16, 0.22))

        def place(base):
            found = base.reach(*low) if holds else rest(base)
            for (share, up, stay), spot in zip(bends, spots):
                begin = share * take.duration
                weight = ramp(take.seconds, begin, begin + up)
                weight = weight - ramp(take.seconds, begin + up + stay, begin + 2 * up + stay)
                found = blend(found, base.reach(*spot), weight)
            return found

        if holds:
            kind = take.choose(list(KINDS))
            props.append(
                lambda found: Prop(kind, acting.hand_of(found, side), acting.upright(take.phase))
            )
        return place

    hands = {side: wandering(side, draw(0, 1) < 0.3) for side in SIDES}
    turn, weight = draw(0.0, 0.35), draw(0.0, 0.06)
    slow, shift = draw(0.5, 1.5), draw(0, 6.3)
    wave = zero + np.sin(slow * take.seconds + shift)
    return Script(
        hands[take.side], hands[-take.side],
        lambda base, found: [make(found) for make in props],
        twist=turn * wave, roll=weight * np.cos(slow * take.seconds), nod=0.3 * turn * wave,
    )  # fmt: skip


def _carried(thing: Points, before: dict[str, Points], after: dict[str, Points]) -> Points:
    """A thing that a hand holds goes with it when the pose is not that of the action alone."""
    for side in ("left_hand", "right_hand"):
        near = np.linalg.norm(thing - before[side], axis=-1, keepdims=True) < WITHIN
        if near.any():
            return thing + near * (after[side] - before[side])
    return thing
