"""Share of every distillation loss, forward and backward, in the step it belongs to.

    python -m benchmarks.losses [--resolution=224] [--clips=8] [--segments=8] [--repeats=5]

The step is what distillation costs without a loss: a ResNet-50 forward pass on RGB and a
ResNet-18 update on infrared, over clips x segments frames, in bfloat16 on GPUs as training has it.
The losses read stage maps of the sizes and the type that these networks give. Step and losses take
turns, so that a noisy neighbour meets all of them alike; a share is the median over the turns. On
CPUs it is of processor time, elsewhere of the clock. A loss that is compiled into the step costs
less than alone, never more.

Then every loss alone, in turns with its textbook version (`_textbook.py`) and, on a processor where
PyTorch is installed, with that in PyTorch on one thread (`_textbook_torch.py`), and the temporary
memory of relational distillation, which is the compiler's own count.

Needs jax, flax, optax only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike

import jax_irkd
from benchmarks import _measure, _textbook
from jax_irkd import distillers
from jax_irkd.host.devices import start
from jax_irkd.models.outputs import Outputs

CLASSES = 60
TARGET = "≤ 3 %"
# The methods as they are by default.
METHODS = ("st", "dkd", "at", "sp", "cc", "rkd", "ccskd", "mgcam")
# Other readings: what they cost is for their users to know.
OPTIONS = {
    "sp, frames": ("sp", {"vertex": "frame"}),
    "cc, embedding": ("cc", {"form": "embedding"}),
    "cc, embedding kernel": ("cc", {"form": "embedding_kernel"}),
    "rkd, frames": ("rkd", {"layer": "stage4", "vertex": "frame"}),
    "mgcam, detached": ("mgcam", {"detach": True}),
    "mgcam, frames": ("mgcam", {"vertex": "frame"}),
    "mgcam, learned": ("mgcam", {"activation": "conv1x1"}),
}
ASKED = ("rkd, frames",)  # options that have the target too


def results(
    *, resolution: int = 224, clips: int = 8, segments: int = 8, repeats: int = 5
) -> list[_measure.Result]:
    """The time of a step and the share of every loss in it."""
    keys = jax.random.split(jax.random.key(2))
    shape, dtype = (clips, segments, resolution), training_type()
    pair = outputs(keys[0], shape, 64, dtype), outputs(keys[1], shape, 256, dtype)
    calls = {"step": make_step(*shape, dtype)}
    for name in METHODS:
        calls[name] = make_loss(name, {}, pair)
    for title, (name, fields) in OPTIONS.items():
        calls[title] = make_loss(name, fields, pair)
    timings = _measure.alternate(calls, repeats)
    clock = "processor" if jax.default_backend() == "cpu" else "wall"
    step = timings.pop("step")
    size = f"{clips} x {segments} frames of {resolution} pixels"
    found = [_measure.spread(step.wall).result(f"step without a loss, {size}", "s")]
    for title, timing in timings.items():
        share = _measure.Spread(*(100 * part for part in _measure.ratio(timing, step, clock)))
        target = TARGET if title in METHODS + ASKED else ""
        found.append(share.result(f"share of a step: {title}", "%", target))
    return found + textbooks(resolution=resolution, clips=clips, repeats=repeats)


def textbooks(*, resolution: int = 224, clips: int = 8, repeats: int = 5) -> list[_measure.Result]:
    """Value and gradient to the student of each loss: our time over the textbook version's."""
    clock = "processor" if jax.default_backend() == "cpu" else "wall"
    found = []
    for name, (title, target, *arrays) in _alone(resolution // 4, clips).items():
        ours, theirs = getattr(jax_irkd, f"{name}_loss"), getattr(_textbook, name)
        calls = {
            side: _waiting(jax.jit(jax.value_and_grad(loss)), *arrays)
            for side, loss in (("ours", ours), ("textbook", theirs))
        }
        if torch_loss := _in_torch(name, *arrays):
            calls["PyTorch"] = torch_loss
        timings = _measure.alternate(calls, 5 * repeats, warm=2)
        times = {
            side: _measure.number(1e3 * _measure.spread(getattr(timing, clock)).median)
            for side, timing in timings.items()
        }
        for side in list(calls)[1:]:
            ratio = _measure.ratio(timings["ours"], timings[side], clock)
            what = "a textbook version" if side == "textbook" else side
            note = f"{times['ours']} for {times[side]} ms"
            goal = target if side == "textbook" else ""
            found.append(ratio.result(f"against {what}: {title}", "×", goal, note))
    return found + [_relations_memory(batch, target) for batch, target in RELATIONS.items()]


def _in_torch(name: str, *arrays) -> Callable[[], object] | None:
    """The textbook version in PyTorch, on the processor and one thread; None without it."""
    if jax.default_backend() != "cpu":
        return None
    try:
        import torch

        from benchmarks import _textbook_torch
    except ImportError:
        return None
    torch.set_num_threads(1)
    student, teacher, *labels = jax.tree.map(lambda x: torch.from_numpy(np.array(x)), arrays)
    learned = student if isinstance(student, list) else [student]
    for array in learned:
        array.requires_grad_()

    def call() -> object:
        value = getattr(_textbook_torch, name)(student, teacher, *[x.long() for x in labels])
        return value, torch.autograd.grad(value, learned)

    return call


# Batch of relational distillation and what its temporary memory should not exceed, in MB.
RELATIONS = {64: "≤ 2", 256: "≤ 10", 1024: "≤ 60"}


def _alone(size: int, clips: int) -> dict[str, tuple]:
    """For each loss a title, the target and its arguments."""
    keys = iter(jax.random.split(jax.random.key(3), 16))
    logits = [3 * jax.random.normal(next(keys), (256, 1000)) for _ in range(2)]
    labelled = (*logits, jnp.arange(256))
    pooled = [jnp.abs(jax.random.normal(next(keys), (256, width))) for width in (512, 2048)]
    few = [features[:64] for features in pooled]

    def maps(size: int, width: int) -> jax.Array:
        return jnp.abs(jax.random.normal(next(keys), (clips, size, size, width)))

    first = maps(size, 64), maps(size, 256)
    second = maps(size // 2, 128), maps(size // 2, 512)
    stages = [list(pair) for pair in zip(first, second)]
    named = f"maps of {size}², b {clips}"
    return {
        "st": ("st (b 256, k 1000)", "≤ 1.3", *logits),
        "dkd": ("dkd (b 256, k 1000)", "≤ 1.3", *labelled),
        "selective_st": ("selective st (b 256, k 1000)", "≤ 1.3", *labelled),
        "at": (f"at ({named})", "≤ 1.3", *first),
        "mgcam": (f"mgcam (two stages, {named})", "≤ 1.3", *stages),
        "sp": (f"sp ({named})", "≤ 1.2", *first),
        "cc": ("cc (pooled, b 256)", "≤ 1.2", *pooled),
        "rkd": ("rkd (pooled, b 64)", "≤ 1", *few),
    }


def _relations_memory(batch: int, target: str) -> _measure.Result:
    shapes = [jax.ShapeDtypeStruct((batch, width), jnp.float32) for width in (512, 2048)]
    program = jax.jit(jax.value_and_grad(jax_irkd.rkd_loss)).lower(*shapes).compile()
    size = program.memory_analysis().temp_size_in_bytes / 1e6
    return _measure.Result(f"temporary memory of rkd, b {batch}", size, "MB", target)


def training_type() -> DTypeLike:
    """What networks compute in where the configuration leaves `dtype` to the device."""
    return jnp.bfloat16 if jax.default_backend() == "gpu" else jnp.float32


def outputs(
    key: jax.Array, shape: tuple[int, int, int], width: int, dtype: DTypeLike = jnp.float32
) -> Outputs:
    """Random features of a ResNet in `dtype` whose first stage has `width` channels."""
    clips, segments, resolution = shape
    features = {}
    for i in range(4):
        size = -(-resolution // (4 * 2**i))
        full = (clips, segments, size, size, width * 2**i)
        before = jax.random.normal(jax.random.fold_in(key, i), full)
        features[f"stage{i + 1}_preact"], features[f"stage{i + 1}"] = before, jnp.abs(before)
    pooled = features["stage4"].mean((1, 2, 3))
    features = {name: maps.astype(dtype) for name, maps in features.items()} | {"pooled": pooled}
    return Outputs(jax.random.normal(key, (clips, CLASSES)), features)


def make_loss(name: str, fields: dict, pair: tuple[Outputs, Outputs]) -> Callable[[], object]:
    """Computes a loss and its gradients to the student's outputs and to what the method learns."""
    student, teacher = pair
    labels = jnp.arange(len(student.logits)) % CLASSES
    distiller = distillers.get(name)(**fields)
    variables = jax.jit(distiller.init)(jax.random.key(0), student, teacher, labels)
    variables = {"params": {}, "batch_stats": {}} | dict(variables)

    def loss(params, student, teacher):
        own = variables | {"params": params}
        terms, _ = distiller.apply(own, student, teacher, labels, mutable=["batch_stats"])
        return sum(terms.values())

    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    return _waiting(gradient, variables["params"], student, teacher)


def make_step(
    clips: int, segments: int, resolution: int, dtype: DTypeLike = jnp.float32
) -> Callable[[], object]:
    """Computes a teacher's forward pass and a student's update, without a distillation loss."""
    from jax_irkd.models.folding import without_norms
    from jax_irkd.models.tsn import TSN

    teacher = TSN(CLASSES, depth=50, dtype=dtype)
    student = TSN(CLASSES, depth=18, dropout=0.0, dtype=dtype)
    size = (clips, segments, resolution, resolution)
    rgb, infrared = jnp.ones((*size, 3)), jnp.ones((*size, 1))
    labels = jnp.arange(clips) % CLASSES
    small = [jnp.ones((1, 1, 64, 64, channels)) for channels in (3, 1)]
    taught = jax.jit(lambda x: teacher.init(jax.random.key(0), x, train=False))(small[0])
    if dtype == jnp.bfloat16:  # in float32 as the shares on CPUs were measured, with the norms
        teacher, taught = without_norms(teacher, taught)
    learned = jax.jit(lambda x: student.init(jax.random.key(1), x, train=False))(small[1])

    def loss(params, statistics, logits):
        variables = {"params": params, "batch_stats": statistics}
        out, updated = student.apply(variables, infrared, train=True, mutable=["batch_stats"])
        entropy = optax.softmax_cross_entropy_with_integer_labels(out.logits, labels).mean()
        # A factor of 0 that the compiler cannot see keeps the teacher in the program.
        return entropy + jnp.mean(logits) * jnp.sum(params["head"]["bias"]), updated

    @jax.jit
    def step(taught, learned, rgb):
        logits = teacher.apply(taught, rgb, train=False).logits
        gradients, updated = jax.grad(loss, has_aux=True)(
            learned["params"], learned["batch_stats"], jax.lax.stop_gradient(logits)
        )
        params = jax.tree.map(lambda p, g: p - 1e-3 * g, learned["params"], gradients)
        return params, updated

    return _waiting(step, taught, learned, rgb)


def _waiting(function: Callable, *arguments) -> Callable[[], object]:
    return lambda: jax.block_until_ready(function(*arguments))


def main() -> None:
    start("off")  # programs are kept: a GPU takes minutes to compile them
    parser = _measure.make_parser(__doc__.splitlines()[0])
    parser.add_argument("--resolution", type=int, default=224)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = vars(parser.parse_args())
    path = arguments.pop("json")
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}")
    _measure.show(_measure.run("losses", lambda options: results(**options), arguments, path))


if __name__ == "__main__":
    main()
