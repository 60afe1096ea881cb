"""A jointed body: from trunk angles, hand targets and feet to joint positions.

Metres and radians. The person stands at the origin and looks along +z, y points up,
x to the person's left. Every quantity is an array over time, first axis `t`.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Scalars = Float[np.ndarray, " t"]
Points = Float[np.ndarray, "t 3"]
Turns = Float[np.ndarray, "t 3 3"]

SIDES = (-1, 1)  # right, left: the sign of x
THIGH, SHIN, ANKLE = 0.245, 0.246, 0.039  # all in units of body height
TORSO, NECK_TO_HEAD = 0.285, 0.112
UPPER_ARM, FOREARM, HAND = 0.178, 0.150, 0.042
SEAT = 0.44  # height of a chair's seat, metres


class Body(NamedTuple):
    """Proportions of one subject."""

    height: float
    shoulder: float  # half the distance between the shoulders, metres
    hip: float
    girth: float  # multiplies every thickness, about 1


class Trunk(NamedTuple):
    """Pelvis to head, before arms and legs are placed."""

    body: Body
    pelvis: Points
    neck: Points
    head: Points
    turn: Turns
    head_turn: Turns

    def reach(self, x, y, z) -> Points:
        """A point beside the neck, in trunk axes and units of body height."""
        return self.neck + _apply(self.turn, self.body.height, x, y, z)

    def face(self, x, y, z) -> Points:
        """A point beside the centre of the head, in head axes and units of body height."""
        return self.head + _apply(self.head_turn, self.body.height, x, y, z)

    def mouth(self, x=0.0, y=0.0, z=0.0) -> Points:
        return self.face(x, y - 0.032, z + 0.058)


def trunk(
    body: Body, *, sit: Scalars, crouch: Scalars, lean: Scalars, roll: Scalars, twist: Scalars,
    step: Scalars, nod: Scalars, look: Scalars, tilt: Scalars,
) -> Trunk:  # fmt: skip
    """Places pelvis, neck and head.

    `sit` moves from standing (0) to seated (1); `crouch` lowers the pelvis and `step` moves it
    forward, both in units of body height; the others are angles in radians.
    """
    tall = body.height * (THIGH + SHIN + ANKLE)
    lowered = np.maximum(crouch, 0.004) * body.height  # never quite straight knees
    pelvis_y = (1 - sit) * (tall - lowered) + sit * (SEAT + 0.09)
    pelvis_z = body.height * (step - 0.20 * sit) - 0.45 * body.height * crouch
    pelvis = np.stack([0 * sit, pelvis_y, pelvis_z], axis=-1)
    turn = _rotation(lean, twist, roll)
    neck = pelvis + _apply(turn, body.height, 0.0, TORSO, 0.0)
    head_turn = turn @ _rotation(nod, look, tilt)
    head = neck + _apply(turn, body.height, 0.0, 0.03, 0.0)
    head = head + _apply(head_turn, body.height, 0.0, NECK_TO_HEAD - 0.03, 0.012)
    return Trunk(body, pelvis, neck, head, turn, head_turn)


def joints(
    base: Trunk, hands: dict[int, Points], feet: dict[int, Points], elbows: dict[int, Scalars]
) -> dict[str, Points]:
    """Adds arms that reach for `hands` (wrist targets) and legs that stand on `feet` (ankles).

    `elbows` lifts the elbow from hanging (0) to level with the shoulder (1). Targets out of reach
    are approached as far as the limb goes.
    """
    body, found = base.body, {"pelvis": base.pelvis, "neck": base.neck, "head": base.head}
    for side in SIDES:
        name = "left" if side > 0 else "right"
        shoulder = base.reach(side * body.shoulder / body.height, -0.028, 0.0)
        lift = elbows[side]
        pole = _apply(base.turn, 1.0, side * (0.35 + 0.9 * lift), 0.5 * lift - 1.0, -0.55)
        elbow, wrist = _two_bones(
            shoulder, hands[side], UPPER_ARM * body.height, FOREARM * body.height, pole
        )
        along = _unit(wrist - elbow)
        hip = base.pelvis + _apply(base.turn, 1.0, side * body.hip, 0.0, 0.0) * [1, 0.3, 1]
        outward = np.broadcast_to(np.array([0.12 * side, 0.15, 1.0]), hip.shape)
        knee, ankle = _two_bones(hip, feet[side], THIGH * body.height, SHIN * body.height, outward)
        found |= {
            f"{name}_shoulder": shoulder, f"{name}_elbow": elbow, f"{name}_wrist": wrist,
            f"{name}_hand": wrist + along * HAND * body.height, f"{name}_hip": hip,
            f"{name}_knee": knee, f"{name}_ankle": ankle,
            f"{name}_toe": ankle + np.array([0.04 * side, -0.025, 0.10 * body.height]),
        }  # fmt: skip
    return found


def _two_bones(
    root: Points, target: Points, upper: float, lower: float, pole: Points
) -> tuple[Points, Points]:
    """Joint and end of a limb of two bones; the joint bends towards `pole`."""
    offset = target - root
    reach = np.linalg.norm(offset, axis=-1, keepdims=True)
    along = offset / np.maximum(reach, 1e-6)
    reach = np.clip(reach, abs(upper - lower) + 0.02, 0.997 * (upper + lower))
    toward = (upper**2 - lower**2 + reach**2) / (2 * reach)
    aside = np.sqrt(np.maximum(upper**2 - toward**2, 0.0))
    bend = _unit(pole - along * np.sum(pole * along, axis=-1, keepdims=True))
    return root + along * toward + bend * aside, root + along * reach


def _rotation(pitch: Scalars, yaw: Scalars, roll: Scalars) -> Turns:
    """Turns by `roll` about z, then `pitch` about x (forward), then `yaw` about y."""
    zero, one = np.zeros_like(pitch), np.ones_like(pitch)

    def matrix(*rows):
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    sin, cos = np.sin, np.cos
    about_x = matrix(
        (one, zero, zero), (zero, cos(pitch), -sin(pitch)), (zero, sin(pitch), cos(pitch))
    )
    about_y = matrix((cos(yaw), zero, sin(yaw)), (zero, one, zero), (-sin(yaw), zero, cos(yaw)))
    about_z = matrix((cos(roll), -sin(roll), zero), (sin(roll), cos(roll), zero), (zero, zero, one))
    return about_y @ about_x @ about_z


def _apply(turn: Turns, scale: float, x, y, z) -> Points:
    vector = np.stack(np.broadcast_arrays(x, y, z, turn[:, 0, 0])[:3], axis=-1)
    return scale * np.einsum("tij,tj->ti", turn, vector)


def _unit(vector: Points) -> Points:
    return vector / np.maximum(np.linalg.norm(vector, axis=-1, keepdims=True), 1e-6)
