"""How far MGCAM's graph attention is from uniform attention, on real features, without training.

    python -m benchmarks.attention --teacher=runs/demo/teacher --student=runs/demo/ours

Reads both networks, draws augmented training batches as training does (the student's batch norm
in training mode) and prints a row for every reading of the loss, means over the batches:

contrast  largest over smallest weight of a row of the attention A; 1 is uniform
clips     e^entropy of a row: how many clips it attends to, of the batch
own       weight on the clip itself
class     weight on other clips of the same class over that on all other clips; 1 is by chance
loss      of the student; `place` is where it lies from uniform (0) to identity attention (1)
cos       of the gradient to the student's stage maps with the one under uniform and under
          identity attention
through A share of that gradient that flows through the attention: |g - g detached| / |g|
size      gradient to the student's parameters over that of the cross-entropy

Needs two trained runs and their data. Nothing here is a time.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.distillers import mgcam
from jax_irkd.host.files import expanded
from jax_irkd.models.outputs import Outputs
from jax_irkd.runs.network import load_network
from jax_irkd.training import objective
from jax_irkd.training.evaluation import Network
from jax_irkd.training.setup import make_augmentation, make_reader

SHARP = {"sigma": 0.3, "temperature": 0.1}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "identity": {"attention": "identity"},
    "temperature 0.1": {"temperature": 0.1},
    "temperature 0.01": {"temperature": 0.01},
    "sum of distances (E = I)": {"distance": "sum"},
    "sigma 0.3": {"sigma": 0.3},
    "sigma 0.1": {"sigma": 0.1},
    "sigma median": {"sigma": "median"},
    "sigma median, temperature 0.05": {"sigma": "median", "temperature": 0.05},
    "sharp: sigma 0.3, temperature 0.1": SHARP,
    "sigma 0.3, temperature 0.05": {"sigma": 0.3, "temperature": 0.05},
    "mean of squares": {"activation": "mean_sq"},
    "l2 maps": {"activation": "l2"},
    "min-max maps": {"activation": "minmax"},
    "l2 maps, sharp": {"activation": "l2", **SHARP},
    "min-max maps, sharp": {"activation": "minmax", **SHARP},
    "same stages": {"pairs": "same"},
    "same stages, sharp": {"pairs": "same", **SHARP},
    "frames": {"vertex": "frame"},
    "frames, sharp": {"vertex": "frame", **SHARP},
    "frames, l2 maps, sharp": {"vertex": "frame", "activation": "l2", **SHARP},
}
GRAPH = ("sigma", "temperature", "attention", "distance")


class Pair(NamedTuple):
    """What one batch gives: outputs of both networks, labels, and the student's side of it."""

    student: Outputs
    teacher: Outputs
    labels: Float[Array, " b"]
    clips: Float[Array, "b t h w 1"]


def batches(
    student: Network, teacher: Network, config: ConfigDict, size: int, count: int, seed: int
) -> Iterator[Pair]:
    """The first `count` training batches of `seed`, through both networks."""
    dataset = loading.open_dataset(config.dataset.name, config.dataset.data_dir)
    reader = make_reader(config, dataset, "train", ("rgb", "infrared"))
    stream = loading.training_batches(
        reader, seed=seed, batch_size=size, first_step=0, threads=config.input.threads
    )
    prepare = make_augmentation(config.input)

    @jax.jit
    def outputs(variables, taught_by, batch):
        keys = jax.vmap(lambda s: jax.random.fold_in(jax.random.key(seed), s))(batch["seed"])
        clips = prepare(batch["clips"], keys)
        taught = teacher.model.apply(taught_by, clips["rgb"], train=False)
        return forward(student, variables, clips["infrared"]), taught, clips["infrared"]

    for _, batch in zip(range(count), stream):
        batch.pop("clip_id")
        one, two, clips = outputs(student.variables, teacher.variables, batch)
        yield Pair(one, two, jnp.asarray(batch["label"]), clips)


def forward(student: Network, variables: Mapping, clips: Array) -> Outputs:
    """The student as it trains, but for dropout."""
    model = student.model.clone(dropout=0.0)
    return model.apply(variables, clips, train=True, mutable=["batch_stats"])[0]


def make_pull(student: Network):
    """A function: gradients to the student's outputs -> norm of those to its parameters."""

    @jax.jit
    def pull(variables, clips, cotangents):
        fixed = {"batch_stats": variables["batch_stats"]}
        own = lambda params: forward(student, fixed | {"params": params}, clips)  # noqa: E731
        [gradient] = jax.vjp(own, variables["params"])[1](cotangents)
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(gradient)))

    return pull


def make_measure(fields: Mapping[str, Any]):
    """A function of (student, teacher, labels): results of a reading, and its gradient."""
    kinds = {
        "graph": mgcam.Distiller(**fields),
        "detached": mgcam.Distiller(**{**fields, "detach": True}),
        "uniform": mgcam.Distiller(**{**fields, "attention": "uniform"}),
        "identity": mgcam.Distiller(**{**fields, "attention": "identity"}),
    }

    @jax.jit
    def measure(student: Outputs, teacher: Outputs, labels: Array):
        def loss(features, kind):
            own = student._replace(features=features)
            return kinds[kind].apply({}, own, teacher, labels)["mgcam"]

        slopes = {k: jax.value_and_grad(loss)(student.features, k) for k in kinds}
        losses = {k: value for k, (value, _) in slopes.items()}
        flat = {
            k: jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(g)])
            for k, (_, g) in slopes.items()
        }
        gap = losses["identity"] - losses["uniform"]
        length = jnp.linalg.norm(flat["graph"])
        found = attention_results(attention(fields, student, teacher), labels) | {
            "loss": losses["graph"],
            "place": (losses["graph"] - losses["uniform"]) / gap,
            "cos uniform": _cosine(flat["graph"], flat["uniform"]),
            "cos identity": _cosine(flat["graph"], flat["identity"]),
            "through A": jnp.linalg.norm(flat["graph"] - flat["detached"]) / length,
        }
        return found, slopes["graph"][1]

    return measure


def attention(fields: Mapping[str, Any], student: Outputs, teacher: Outputs) -> Array:
    """The attention `k k n n` of a reading."""
    distiller = mgcam.Distiller(**fields)
    maps = [distiller.maps(outputs) for outputs in (student, teacher)]
    chosen = {name: value for name, value in fields.items() if name in GRAPH}
    return mgcam.attention_matrices(*maps, **chosen)


def attention_results(weights: Float[Array, "k k n n"], labels: Array) -> dict[str, Array]:
    """Contrast, entropy, own weight and weight on the same class; frames take their clip's label.

    Frames of one clip count as its own, not as others of the class.
    """
    vertices = weights.shape[-1]
    clip = jnp.arange(vertices) // (vertices // len(labels))
    label = labels[clip]
    own = clip[:, None] == clip[None]
    alike = (label[:, None] == label[None]) & ~own
    entropy = -jnp.sum(jax.scipy.special.xlogy(weights, weights), axis=-1)
    others = jnp.sum(weights * ~own) / jnp.sum(~own)
    same = jnp.sum(weights * alike) / jnp.maximum(jnp.sum(alike), 1)
    return {
        "contrast": mgcam.attention_contrast(weights),
        "clips": jnp.mean(jnp.exp(entropy)),
        "own": jnp.mean(jnp.sum(weights * own, axis=-1)),
        "class": jnp.where(jnp.any(alike), same / jnp.maximum(others, 1e-30), jnp.nan),
    }


def _cosine(first: Array, second: Array) -> Array:
    return jnp.vdot(first, second) / (jnp.linalg.norm(first) * jnp.linalg.norm(second))


def compare(
    student: Network, pairs: list[Pair], variants: Mapping[str, Mapping]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Every variant with its results, one value a batch."""
    pull = make_pull(student)

    def entropy(logits, labels):
        return objective.cross_entropy(logits, labels)

    whole = []
    for pair in pairs:
        zeros = jax.tree.map(jnp.zeros_like, pair.student)
        slope = jax.grad(entropy)(pair.student.logits, pair.labels)
        whole.append(pull(student.variables, pair.clips, zeros._replace(logits=slope)))
    for title, fields in variants.items():
        measure, found = make_measure(fields), []
        for pair, entropy_norm in zip(pairs, whole):
            results, gradient = measure(pair.student, pair.teacher, pair.labels)
            sent = Outputs(jnp.zeros_like(pair.student.logits), gradient)
            size = pull(student.variables, pair.clips, sent) / entropy_norm
            found.append(jax.device_get(results | {"size": size}))
        yield title, {name: np.array([f[name] for f in found]) for name in found[0]}


COLUMNS = {
    "contrast": "{:.3g}",
    "clips": "{:.2f}",
    "own": "{:.3f}",
    "class": "{:.2f}",
    "loss": "{:.3g}",
    "place": "{:.3f}",
    "cos uniform": "{:.4f}",
    "cos identity": "{:.4f}",
    "through A": "{:.4f}",
    "size": "{:.3g}",
}


def row(title: str, results: Mapping[str, np.ndarray]) -> str:
    """A line of a Markdown table; means over the batches."""
    cells = [form.format(np.nanmean(results[name])) for name, form in COLUMNS.items()]
    return "| " + " | ".join([title, *cells]) + " |"


def _progress(text: str) -> None:
    """A line that the next one takes the place of; the table goes to another stream."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}\r", end="", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True, help="a teacher's run folder")
    parser.add_argument("--student", required=True, help="an infrared run folder")
    parser.add_argument("--batch_sizes", default="8,32")
    parser.add_argument("--batches", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="variants with this in their name")
    parser.add_argument("--json", default="", help="write every value to this file")
    arguments = parser.parse_args()
    folders = [expanded(folder) for folder in (arguments.teacher, arguments.student)]
    (teacher, _), (student, meta) = map(load_network, folders)
    print(__doc__.split("\n\n")[3])  # what the columns are
    config, every = ConfigDict(meta["config"]), {}
    variants = {title: f for title, f in VARIANTS.items() if arguments.only in title}
    for size in map(int, arguments.batch_sizes.split(",")):
        drawn = []
        for pair in batches(student, teacher, config, size, arguments.batches, arguments.seed):
            drawn.append(pair)
            _progress(f"batch {len(drawn)} of {arguments.batches} drawn, {size} clips")
        print(f"\n{arguments.batches} batches of {size} clips\n")
        print("| " + " | ".join(["reading", *COLUMNS]) + " |")
        print("| --- |" + " ---: |" * len(COLUMNS))
        found = compare(student, drawn, variants)
        for number, title in enumerate(variants, 1):
            _progress(f"reading {number} of {len(variants)}: {title}")
            title, results = next(found)
            print(row(title, results), flush=True)
            every[f"{size}: {title}"] = {name: values.tolist() for name, values in results.items()}
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(every, file, indent=1)


if __name__ == "__main__":
    main()
