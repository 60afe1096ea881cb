"""The ten actions A001 to A010 as joint trajectories, continuous in time.

`perform` may be called for any instants of the same take, so that two cameras with their own
frame rates see one performance. All randomness is drawn before time enters.
"""

import numpy as np

from jax_irkd.data.synthetic.acting import (
    Performance,
    Prop,
    Script,
    Take,
    blend,
    carrying,
    hand_of,
    plateau,
    play,
    ramp,
    resting,
    upright,
)
from jax_irkd.data.synthetic.skeleton import Body, Scalars

GRAVITY = 9.81


def perform(
    action: int, seconds: Scalars, duration: float, body: Body, side: int, rng: np.random.Generator
) -> Performance:
    """Acts class `action` (1 to 10) and returns the scene at `seconds`.

    `side` is -1 for a right-handed person and 1 for a left-handed one. The same generator state
    gives the same performance whatever the instants.
    """
    take = Take(
        seconds / duration, seconds, duration, body, side,
        lambda low, high: float(rng.uniform(low, high)),
        lambda kinds: kinds[int(rng.integers(len(kinds)))],
    )  # fmt: skip
    script = ACTIONS[action](take)
    return play(script, take)


def drink(take: Take) -> Script:
    """One slow lift, the head tips back while swallowing, the hand comes down."""
    draw, side = take.draw, take.side
    lift = plateau(take.phase, draw(-0.1, 0.05), draw(0.15, 0.25), draw(0.8, 0.9), draw(0.95, 1.1))
    tip = ramp(lift, 0.6, 1.0) * draw(0.9, 1.3)
    kind, hold = take.choose(["cup", "cup", "bottle"]), draw(-0.31, -0.2)
    fx = draw(0.03, 0.1)
    other, held = carrying(take, "bottle", 0.4, (-0.28, -0.2))

    def main(base):
        return blend(
            base.reach(side * fx, hold, 0.17), base.mouth(side * 0.045, -0.045, 0.055), lift
        )

    def props(base, found):
        hand = hand_of(found, side)
        toward = base.mouth() - hand
        axis = upright(take.phase) * np.cos(tip)[:, None]
        axis = axis + toward / np.linalg.norm(toward, axis=-1, keepdims=True) * np.sin(tip)[:, None]
        return [Prop(kind, hand + 0.03 * axis, axis), *held(found)]

    return Script(
        main, other, props, elbow=0.35 * lift, nod=-0.42 * tip, lean=-0.08 * tip, may_sit=True
    )


def eat(take: Take) -> Script:
    """Two or three bites; between them the food rests before the chest."""
    draw, side = take.draw, take.side
    bites, shift = draw(1.7, 2.8), draw(-0.15, 0.15)
    wave = 0.5 - 0.5 * np.cos(2 * np.pi * (bites * take.phase + shift))
    near = 0.25 + 0.75 * ramp(wave, 0.15, 0.75)
    kind, (other, held) = (
        take.choose(["apple", "bread", "bread"]),
        carrying(take, "bowl", 0.85, (-0.12, -0.04)),
    )
    fx, low = draw(0.04, 0.09), draw(-0.2, -0.12)

    def main(base):
        return blend(base.reach(side * fx, low, 0.18), base.mouth(side * 0.03, -0.035, 0.06), near)

    def props(base, found):
        hand = hand_of(found, side)
        food = Prop(kind, hand + (base.mouth() - hand) * 0.25, upright(take.phase))
        return [food, *held(found)]

    chew = 0.05 * np.sin(2 * np.pi * 2.2 * take.seconds)
    return Script(main, other, props, elbow=0.15, nod=0.12 + chew, may_sit=True)


def brush_teeth(take: Take) -> Script:
    """The hand stays at the mouth and shuttles sideways, the elbow is raised."""
    draw, side = take.draw, take.side
    enter = ramp(take.phase, -0.15, draw(0.08, 0.2))
    rub = draw(0.010, 0.022) * np.sin(2 * np.pi * draw(2.6, 4.0) * take.seconds + draw(0, 6))
    far, low = draw(0.055, 0.085), draw(-0.03, 0.0)
    other, held = carrying(take, "tumbler", 0.4, (-0.28, -0.2))

    def main(base):
        at_mouth = base.mouth(side * (far + rub), low + 0.2 * rub, 0.035)
        return blend(base.reach(side * 0.08, -0.2, 0.17), at_mouth, enter)

    def props(base, found):
        hand = hand_of(found, side)
        tip = base.mouth(side * rub, 0.0, 0.015)
        axis = tip - hand
        axis = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-6)
        drape = base.reach(0.0, -0.10, 0.075)
        return [
            Prop("toothbrush", hand + 0.07 * axis, axis),
            Prop("towel", drape, base.reach(0.6, 0, 0) - base.reach(0, 0, 0)),
            *held(found),
        ]

    raised = draw(0.8, 1.2) * enter
    return Script(main, other, props, elbow=raised, nod=draw(0.0, 0.2), may_sit=True)


def brush_hair(take: Take) -> Script:
    """Strokes from the crown down the side of the head."""
    draw, side = take.draw, take.side
    beat = (draw(1.1, 1.7) * take.seconds + draw(0, 1)) % 1.0
    down = ramp(beat, 0.0, 0.65) - ramp(beat, 0.7, 1.0)
    enter, tilt = ramp(take.phase, -0.15, draw(0.08, 0.2)), draw(0.05, 0.28)
    back = draw(-0.05, 0.03)
    other, held = carrying(take, "mirror", 0.5, (-0.02, 0.06))

    def main(base):
        top = base.face(side * 0.03, 0.13, 0.02 + back)
        bottom = base.face(side * 0.105, -0.07, 0.02 + back)
        return blend(base.reach(side * 0.12, -0.1, 0.15), blend(top, bottom, down), enter)

    def props(base, found):
        hand = hand_of(found, side)
        axis = base.face(0.0, 0.06, 0.0) - hand
        axis = axis / np.maximum(np.linalg.norm(axis, axis=-1, keepdims=True), 1e-6)
        return [Prop("hairbrush", hand + 0.05 * axis, axis), *held(found)]

    return Script(main, other, props, elbow=1.2, tilt=side * tilt, may_sit=True)


def drop(take: Take) -> Script:
    """Holds a thing out in front and lets go; it falls and lies on the floor."""
    draw, side, height = take.draw, take.side, take.body.height
    release = draw(0.35, 0.5)
    away = ramp(take.phase, release + 0.3, release + 0.55)
    kind, out, low = take.choose(["ball", "box"]), draw(0.27, 0.33), draw(-0.12, -0.03)
    fx, roll_x = draw(0.03, 0.12), draw(-0.25, 0.25)

    def main(base):
        return blend(base.reach(side * fx, low, out), base.reach(side * 0.15, -0.34, 0.04), away)

    def props(base, found):
        start = base.reach(side * fx, low - 0.03, out + 0.05)
        since = np.maximum(take.phase - release, 0.0) * take.duration
        falling = start[:, 1] - 0.5 * GRAVITY * since**2
        landed = np.maximum(since - np.sqrt(2 * 0.5 * height / GRAVITY), 0.0)
        path = np.stack([
            start[:, 0] + roll_x * landed, np.maximum(falling, 0.07), start[:, 2] + 0.2 * landed,
        ], axis=-1)  # fmt: skip
        return [Prop(kind, path, upright(take.phase))]

    gaze = draw(0.4, 0.7) * ramp(take.phase, release - 0.1, release + 0.1)
    return Script(main, props=props, nod=gaze, lean=0.2 * gaze)


def pick_up(take: Take) -> Script:
    """Bends down, takes a thing from the floor and straightens up with it."""
    draw, side, height = take.draw, take.side, take.body.height
    grab = draw(0.42, 0.56)
    bend = plateau(take.phase, grab - 0.42, grab - 0.16, grab + 0.14, grab + draw(0.34, 0.44))
    held = ramp(take.phase, grab + 0.12, grab + 0.36)
    kind, knees = take.choose(["ball", "box"]), draw(0.08, 0.24)
    spot = np.array([side * draw(0.02, 0.2), 0.07, draw(0.24, 0.36) * height])

    def main(base):
        hanging = base.reach(side * 0.15, -0.34, 0.05)
        ground = np.broadcast_to(spot + np.array([0, 0.07, -0.02]), hanging.shape)
        risen = base.reach(side * 0.08, -0.24, 0.17)
        return blend(blend(hanging, ground, bend), risen, held)

    def props(base, found):
        lying = np.broadcast_to(spot, base.neck.shape)
        carried = (take.phase >= grab)[:, None]
        return [Prop(kind, np.where(carried, hand_of(found, side), lying), upright(take.phase))]

    stoop = draw(1.35, 1.6) - 2.2 * knees
    return Script(main, props=props, crouch=knees * bend, lean=stoop * bend, nod=0.25 * bend)


def throw(take: Take) -> Script:
    """Winds up beside the head, swings forward and lets fly."""
    draw, side = take.draw, take.side
    launch = draw(0.46, 0.62)
    wind = ramp(take.phase, launch - 0.5, launch - 0.25)
    swing = ramp(take.phase, launch - 0.12, launch + 0.06)
    follow = ramp(take.phase, launch + 0.15, launch + 0.45)
    kind, high, speed = take.choose(["ball", "box"]), draw(0.08, 0.18), draw(3.0, 4.5)
    climb = draw(0.3, 1.6)

    def main(base):
        ready = base.reach(side * 0.1, -0.22, 0.17)
        back = base.reach(side * 0.22, high, -0.1)
        front = base.reach(side * 0.08, 0.02, 0.33)
        down = base.reach(side * 0.04, -0.28, 0.2)
        return blend(blend(blend(ready, back, wind), front, swing), down, follow)

    def props(base, found):
        since = np.maximum(take.phase - launch, 0.0) * take.duration
        hand = hand_of(found, side)
        start = base.reach(side * 0.08, 0.02, 0.38)
        flight = np.stack([0 * since, climb * since - 0.5 * GRAVITY * since**2, speed * since], -1)
        flying = (take.phase >= launch)[:, None]
        path = np.where(flying, start + flight, hand)
        return [Prop(kind, np.maximum(path, [-9, 0.07, -9]), upright(take.phase))]

    twist = side * (-0.45 * wind + 0.9 * swing - 0.45 * follow)
    lean = -0.2 * wind + 0.65 * swing - 0.2 * follow
    stride, step = draw(0.08, 0.18), ramp(take.phase, launch - 0.3, launch)
    return Script(main, props=props, twist=-twist, lean=lean, step=step, stride=stride,
                  elbow=0.5 * wind)  # fmt: skip


def sit_down(take: Take) -> Script:
    """Standing before a chair, lowers onto it and settles; the hands reach for the seat."""
    draw, side = take.draw, take.side
    begin = draw(0.0, 0.12)
    sit = ramp(take.phase, begin, begin + draw(0.25, 0.35))
    moving = 4 * sit * (1 - sit)
    back = ramp(take.phase, begin + 0.35, begin + 0.6)

    def hand(which):
        rest = resting(take, which)

        def place(base):
            behind = base.reach(which * 0.15, -0.31, -0.07)
            return blend(rest(base), behind, moving)

        return place

    lean = draw(0.4, 0.7) * moving - draw(0.02, 0.12) * back
    return Script(hand(side), hand(-side), sit=sit, lean=lean, nod=0.25 * moving, chair=True)


def stand_up(take: Take) -> Script:
    """Seated, leans far forward, pushes on the knees, rises and steps away."""
    draw, side = take.draw, take.side
    begin = draw(0.04, 0.16)
    sit = 1 - ramp(take.phase, begin + 0.06, begin + draw(0.3, 0.4))
    forward = plateau(take.phase, begin - 0.1, begin + 0.16, begin + 0.24, begin + 0.5)
    push = plateau(take.phase, begin - 0.1, begin + 0.05, begin + 0.25, begin + 0.45)

    def hand(which):
        rest = resting(take, which)
        return lambda base: blend(rest(base), base.reach(which * 0.09, -0.27, 0.17), push)

    stride, step = draw(0.1, 0.22), ramp(take.phase, begin + 0.4, begin + 0.65)
    lean = draw(0.65, 0.95) * forward
    return Script(hand(side), hand(-side), sit=sit, lean=lean, nod=-0.2 * push, step=step,
                  stride=stride, chair=True)  # fmt: skip


def clap(take: Take) -> Script:
    """Both hands before the chest meet a few times a second."""
    draw, side = take.draw, take.side
    rate, shift = draw(1.8, 3.2), draw(0, 6.3)
    gap = 0.012 + draw(0.07, 0.13) * (0.5 + 0.5 * np.sin(2 * np.pi * rate * take.seconds + shift))
    enter, level = ramp(take.phase, -0.15, draw(0.08, 0.2)), draw(-0.16, -0.05)
    out = draw(0.19, 0.25)

    def hand(which):
        rest = resting(take, which)
        return lambda base: blend(rest(base), base.reach(which * gap, level, out), enter)

    wide = draw(0.3, 0.6)
    return Script(hand(side), hand(-side), elbow=wide, other_elbow=wide, may_sit=True)


ACTIONS = {
    1: drink, 2: eat, 3: brush_teeth, 4: brush_hair, 5: drop,
    6: pick_up, 7: throw, 8: sit_down, 9: stand_up, 10: clap,
}  # fmt: skip
