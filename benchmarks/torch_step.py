"""The same distillation step in PyTorch, written as a careful user of it would.

Networks in channels-last memory, the teacher in eval mode without gradients, autocast, fused SGD
on GPUs. Names of modules are those of our networks, so that weights go from one to the other by
name. Needs PyTorch only.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCKS = {18: (False, (2, 2, 2, 2)), 50: (True, (3, 4, 6, 3))}
RGB = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INFRARED = ((0.449,), (0.226,))
# Our names of the parameters and statistics of a layer, and PyTorch's.
LEAVES = {
    nn.Conv2d: {"kernel": "weight"},
    nn.Linear: {"kernel": "weight", "bias": "bias"},
    nn.BatchNorm2d: {
        "scale": "weight",
        "bias": "bias",
        "mean": "running_mean",
        "var": "running_var",
    },
}


def conv(inside: int, outside: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, size, stride, size // 2, bias=False)


class Block(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3 and 1x1 ones, and a shortcut."""

    def __init__(self, inside: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        outside = width * 4 if bottleneck else width
        if bottleneck:
            sizes = [(inside, width, 1, 1), (width, width, 3, stride), (width, outside, 1, 1)]
        else:
            sizes = [(inside, width, 3, stride), (width, width, 3, 1)]
        self.depth = len(sizes)
        for number, size in enumerate(sizes, start=1):
            self.add_module(f"conv{number}", conv(*size))
            self.add_module(f"norm{number}", nn.BatchNorm2d(size[1]))
        self.projection = self.projection_norm = None
        if stride > 1 or inside != outside:
            self.projection = conv(inside, outside, 1, stride)
            self.projection_norm = nn.BatchNorm2d(outside)

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.depth + 1):
            y = getattr(self, f"norm{number}")(getattr(self, f"conv{number}")(y))
            y = y.relu() if number < self.depth else y
        if self.projection is not None:
            x = self.projection_norm(self.projection(x))
        return (y + x).relu()


class Backbone(nn.Module):
    """A ResNet without its classifier: frames `n c h w` to four stage maps."""

    def __init__(self, depth: int, channels: int, width: int):
        super().__init__()
        self.stem = nn.Module()
        self.stem.conv = nn.Conv2d(channels, width, 7, 2, 3, bias=False)
        self.stem.norm = nn.BatchNorm2d(width)
        bottleneck, counts = BLOCKS[depth]
        self.stages, inside = [], width
        for level, count in enumerate(counts):
            names = [f"stage{level + 1}_block{index}" for index in range(count)]
            for index, name in enumerate(names):
                stride = 2 if level and not index else 1
                self.add_module(name, Block(inside, width * 2**level, stride, bottleneck))
                inside = width * 2**level * (4 if bottleneck else 1)
            self.stages.append(names)
        self.outside = inside

    def forward(self, frames: Tensor) -> list[Tensor]:
        x = F.max_pool2d(self.stem.norm(self.stem.conv(frames)).relu(), 3, 2, 1)
        maps = []
        for names in self.stages:
            for name in names:
                x = getattr(self, name)(x)
            maps.append(x)
        return maps


class TSN(nn.Module):
    """Clips as frames `n c h w` to clip logits `b k` and clip maps `b h w c`, both float32."""

    def __init__(self, depth: int, channels: int, classes: int, width: int = 64):
        super().__init__()
        self.backbone = Backbone(depth, channels, width)
        self.head = nn.Linear(self.backbone.outside, classes)

    def forward(self, frames: Tensor, segments: int) -> tuple[Tensor, list[Tensor]]:
        maps = self.backbone(frames)
        with torch.autocast(frames.device.type, enabled=False):
            logits = self.head(maps[-1].mean((2, 3), dtype=torch.float32))
            clips = [_clip_map(x, segments) for x in maps]
        return logits.unflatten(0, (-1, segments)).mean(1), clips


def _clip_map(maps: Tensor, segments: int) -> Tensor:
    """Mean over the segments. Channels last is the order in memory, so that nothing is copied."""
    last = maps.permute(0, 2, 3, 1)
    return last.unflatten(0, (-1, segments)).mean(1, dtype=torch.float32)


def normalise(clips: Tensor, statistics: tuple) -> Tensor:
    """uint8 `b t h w c` to float frames `b·t c h w`, a view in channels-last memory."""
    mean, std = (torch.tensor(value, device=clips.device) for value in statistics)
    return ((clips.float() / 255 - mean) / std).flatten(0, 1).permute(0, 3, 1, 2)


def dkd(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Decoupled distillation in log space: 0.7 target and 0.35 non-target, temperature 4."""
    temperature = 4.0
    target = F.one_hot(labels, student.shape[1]).bool()

    def split(logits: Tensor) -> tuple[Tensor, Tensor]:
        scaled = logits / temperature
        rest = scaled.masked_fill(target, -math.inf).logsumexp(1)
        odds = scaled.gather(1, labels[:, None])[:, 0] - rest
        return odds, scaled - rest[:, None]

    (odds, log_rest), (taught_odds, taught_rest) = split(student), split(teacher)
    in_target = sum(
        torch.sigmoid(sign * taught_odds)
        * (F.logsigmoid(sign * taught_odds) - F.logsigmoid(sign * odds))
        for sign in (1, -1)
    )
    terms = taught_rest.exp() * (taught_rest - log_rest)
    in_rest = terms.masked_fill(target, 0.0).sum(1)
    return temperature**2 * (0.7 * in_target + 0.35 * in_rest).mean()


def graph(maps: Tensor) -> Tensor:
    """D^(-1/2) exp(-|x_n - x_m|² / 2d) D^(-1/2) of the clips, from inner products."""
    x = maps.flatten(1)
    squares = x.square().sum(1)
    distance = (squares[:, None] + squares[None] - 2 * x @ x.T).clamp_min(0) / x.shape[1]
    similarity = torch.exp(-distance / 2)
    scale = (similarity.sum(1) + 1e-12).rsqrt()
    return similarity * scale[:, None] * scale[None]


def mgcam(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Cross-attention between the graphs of all pairs of stages, mixing the activation maps."""
    graphs = [graph(maps) for maps in student], [graph(maps) for maps in teacher]
    active = [maps.mean(3) for maps in student], [maps.mean(3) for maps in teacher]
    batch, total = len(student[0]), 0.0
    for own_graph, own in zip(graphs[0], active[0], strict=True):
        for taught_graph, taught in zip(graphs[1], active[1], strict=True):
            attention = (own_graph @ taught_graph.T / math.sqrt(batch)).softmax(1)
            size = min(own.shape[1], taught.shape[1])
            difference = _pool(own, size) - _pool(taught, size)
            total = total + (attention @ difference.flatten(1)).square().mean()
    return total / len(student)


def _pool(maps: Tensor, size: int) -> Tensor:
    return maps if maps.shape[1] == size else F.adaptive_avg_pool2d(maps, size)


class Step:
    """One update of the student; call it with uint8 clips and labels on its device.

    `teacher` and `student` are our variables. `half` computes in bfloat16 by autocast, `compiled`
    compiles forward pass and losses with torch.compile. Returns the terms of the loss, which
    nothing has waited for.
    """

    def __init__(
        self,
        teacher: Mapping,
        student: Mapping,
        *,
        classes: int,
        device: str,
        half: bool,
        compiled: bool = False,
        width: int = 64,
    ):
        self.device, self.half = torch.device(device), half
        self.teacher = self._network(teacher, 50, 3, classes, width).eval().requires_grad_(False)
        self.student = self._network(student, 18, 1, classes, width).train()
        self.optimizer = torch.optim.SGD(
            self.student.parameters(),
            lr=1e-3,
            momentum=0.9,
            weight_decay=5e-4,
            fused=self.device.type == "cuda",
        )
        self.terms = torch.compile(self._terms) if compiled else self._terms

    def _network(self, variables: Mapping, depth: int, channels: int, classes: int, width: int):
        network = TSN(depth, channels, classes, width)
        load(network, variables)
        return network.to(self.device, memory_format=torch.channels_last)

    def __call__(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.terms(batch["rgb"], batch["infrared"], batch["label"])
        sum(terms.values()).backward()
        self.optimizer.step()
        return {name: term.detach() for name, term in terms.items()}

    def _terms(self, rgb: Tensor, infrared: Tensor, labels: Tensor) -> dict[str, Tensor]:
        segments = rgb.shape[1]
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
            with torch.no_grad():
                taught, taught_maps = self.teacher(normalise(rgb, RGB), segments)
            logits, maps = self.student(normalise(infrared, INFRARED), segments)
        return {
            "ce": F.cross_entropy(logits, labels),
            "dkd": 0.1 * dkd(logits, taught, labels),
            "mgcam": mgcam(maps, taught_maps),
        }

    def put(self, batch: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        """Arrays on the device; labels as PyTorch wants them."""
        tensors = {name: torch.from_numpy(np.array(x)) for name, x in batch.items()}
        tensors["label"] = tensors["label"].long()
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def leaves(network: nn.Module) -> dict[tuple[str, ...], Tensor]:
    """Parameters and statistics under our names."""
    return {
        (*path.split("."), ours): getattr(module, theirs)
        for path, module in network.named_modules()
        for ours, theirs in LEAVES.get(type(module), {}).items()
    }


def load(network: nn.Module, variables: Mapping) -> None:
    """Our variables into `network`. Raises ValueError naming what fits on one side only."""
    ours = {**flatten(variables["params"]), **flatten(variables["batch_stats"])}
    theirs = leaves(network)
    if ours.keys() != theirs.keys():
        raise ValueError(f"the networks differ: {sorted(ours.keys() ^ theirs.keys())[:5]}")
    with torch.no_grad():
        for path, tensor in theirs.items():
            tensor.copy_(torch.from_numpy(as_torch(ours[path]).reshape(tensor.shape)))


def flatten(tree: Mapping, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], np.ndarray]:
    """A nested dictionary's leaves by their path."""
    flat = {}
    for name, child in tree.items():
        inner = (*path, name)
        flat |= flatten(child, inner) if isinstance(child, Mapping) else {inner: child}
    return flat


def as_torch(value: np.ndarray) -> np.ndarray:
    """A kernel `h w i o` or `i o` in PyTorch's order: `o i h w` or `o i`."""
    array = np.asarray(value, np.float32)
    order = {4: (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return np.ascontiguousarray(array.transpose(order) if order else array)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """float32 products without shortcuts, for comparing results."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = False
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value
