"""What a stream's long memory does to accuracy: a causal network frame by frame, and whole windows.

    python -m benchmarks.past [--steps=300] [--actions=120]

In a stream a causal network's frames depend on those before, a ResNet-18's on eight of them, across
the beginning of a window, where it learned to see zeros. A narrow ResNet-18 is trained here on
generated clips, squares that move or change in one of six ways which only the order of frames tells
apart, and watches a film of such actions one after the other both ways. Windows that lie within one
action count.
"""

import argparse
import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import _measure
from benchmarks._measure import Result
from jax_irkd.data.sampling import frame_indices, segment_positions
from jax_irkd.detection import consensus
from jax_irkd.detection.consensus import Frames
from jax_irkd.host import devices
from jax_irkd.models.tsn import TSN, frame_logits, no_past
from jax_irkd.video import grid, timing
from jax_irkd.video.windows import Window

SIDE, LENGTH, SEGMENTS, STRIDE = 32, 96, 8, 16
KINDS = ("right", "left", "down", "up", "brighter", "darker")
WINDOW = 64


def action(kind: int, rng: np.random.Generator, frames: int = LENGTH) -> np.ndarray:
    """uint8 `t h w 1`: a square that drifts or changes a little, trembling, in noise."""
    film = rng.integers(0, 120, (frames, SIDE, SIDE, 1))
    size, drift = 8, rng.integers(8, 13)
    across, begin = rng.integers(3, SIDE - size - 3), rng.integers(3, SIDE - size - 3 - drift)
    path, light = np.full(frames, begin), np.full(frames, rng.integers(130, 200))
    if KINDS[kind] in ("brighter", "darker"):
        light = np.linspace(130, 180, frames).astype(int) + rng.integers(-20, 21, frames)
        light = light if KINDS[kind] == "brighter" else light[::-1]
    else:
        path = begin + np.linspace(0, drift, frames).astype(int)
        path = path if KINDS[kind] in ("right", "down") else path[::-1]
    trembling = rng.integers(-1, 2, (2, frames))
    upright = KINDS[kind] in ("down", "up")
    for number in range(frames):
        place = path[number] + trembling[0, number], across + trembling[1, number]
        row, column = place if upright else place[::-1]
        film[number, row : row + size, column : column + size] = light[number]
    return film.astype(np.uint8)


def clips(count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training clips `b t h w 1` as windows have them: a part of an action, a frame a segment."""
    labels = rng.integers(0, len(KINDS), count)
    made = []
    for label in labels:
        start = rng.integers(0, LENGTH - WINDOW + 1)
        places = start + frame_indices(segment_positions(SEGMENTS, rng), WINDOW)
        made.append(action(int(label), rng)[places])
    return np.stack(made), labels


def ready(pixels):
    return (jnp.asarray(pixels, jnp.float32) / 255 - 0.2) / 0.25


def trained(model: TSN, steps: int, seed: int):
    """Variables of the network after `steps` updates with 24 clips each."""
    rng, tx = np.random.default_rng(seed), optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    shape = (1, SEGMENTS, SIDE, SIDE, 1)
    variables = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(seed), np.zeros(shape, np.float32)
    )

    @jax.jit
    def update(params, stats, state, pixels, labels):
        def loss(params):
            outputs, new = model.apply(
                {"params": params, "batch_stats": stats},
                ready(pixels),
                train=True,
                mutable="batch_stats",
            )
            losses = optax.softmax_cross_entropy_with_integer_labels(outputs.logits, labels)
            return losses.mean(), new["batch_stats"]

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        change, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, change), stats, state, value

    params, stats = variables["params"], variables["batch_stats"]
    state = tx.init(params)
    for _ in range(steps):
        params, stats, state, _ = update(params, stats, state, *clips(24, rng))
    return {"params": params, "batch_stats": stats}


def watched(count: int, rng: np.random.Generator) -> tuple[list[Window], np.ndarray, np.ndarray]:
    """Windows of a film of `count` actions, their actions, and whether each lies within one."""
    labels = rng.integers(0, len(KINDS), count)
    film = np.concatenate([action(int(label), rng) for label in labels])
    planned = grid.plan(timing.steady(len(film), 1.0), WINDOW, STRIDE, SEGMENTS, slack=0)
    found = [
        Window(start, stop, film[list(places)], places, lane)
        for start, stop, places, lane in planned
    ]
    spans = np.array([window[:2] for window in found])
    first, last = spans[:, 0] // LENGTH, (spans[:, 1] - 1) // LENGTH
    return found, labels[first], first == last


def results(flags: argparse.Namespace) -> list[Result]:
    """Top-1 both ways and the difference, with the windows that only one way gets right."""
    made = []
    for seed in range(flags.seeds):
        model = TSN(num_classes=len(KINDS), depth=18, width=8, dropout=0.0, temporal="causal")
        variables = trained(model, flags.steps, seed)
        windows, labels, inside = watched(flags.actions, np.random.default_rng(1000 + seed))

        @jax.jit
        def score(pixels, model=model, variables=variables):
            return jax.nn.softmax(model.apply(variables, ready(pixels), train=False).logits)

        @jax.jit
        def step(pixels, past, model=model, variables=variables):
            return frame_logits(model, variables, ready(pixels), past)

        frames = Frames(step, no_past(model, (SIDE, SIDE, 1)))
        sizes = {"batch_size": 8, "frames_at_once": 64}
        right = {}
        for name, way in (("whole windows", None), ("stream", frames)):
            found = consensus.scores(windows, score, way, **sizes).probabilities
            right[name] = (found.argmax(1) == labels)[inside]
        whole, stream = right.values()
        gain, loss = int((stream & ~whole).sum()), int((whole & ~stream).sum())
        made += [
            Result(f"seed {seed}: top-1 of {name}", 100 * hits.mean(), "%")
            for name, hits in right.items()
        ]
        since = np.array([window.start % LENGTH for window in windows])[inside]
        by_past = {
            int(frames): 100 * (stream[since == frames].mean() - whole[since == frames].mean())
            for frames in np.unique(since)
        }
        note = (
            f"{inside.sum()} windows, {gain} right in the stream only, {loss} in windows only; by "
            "frames since the action began: "
            + ", ".join(f"{frames}: {value:+.1f}" for frames, value in by_past.items())
        )
        change = 100 * (stream.mean() - whole.mean())
        made.append(Result(f"seed {seed}: stream - whole windows", change, "points", note=note))
        _measure.show(made[-3:])
    return made


def main() -> None:
    parser = _measure.make_parser(__doc__)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--actions", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=3)
    flags = parser.parse_args()
    logging.getLogger("absl").setLevel(logging.ERROR)
    devices.start("off")
    _measure.run("past", results, flags, flags.json)


if __name__ == "__main__":
    main()
