"""What a compiled program asks of a device, read from its text (`compiled.as_text()`).

XLA gives no cost analysis of programs compiled for a GPU that is not there. Here every kernel is
counted as written: operations of convolutions and matrix products, bytes of all that a kernel reads
and writes, once each. Caches, launches and what cuDNN does inside are not reckoned with.
"""

import itertools
import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_SIZES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f64": 8, "s64": 8}
_SIZES |= {"u64": 8, "s4": 0.5, "u4": 0.5, "token": 0, "c64": 8}  # else 4
_ARRAY = re.compile(r"([a-z]+[0-9]*(?:e[0-9]m[0-9]\w*)?)\[([0-9,]*)\]")
_LINE = re.compile(r"^\s+(ROOT )?%(\S+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?(\S+) \(.*\{$")
_FREE = {"parameter", "constant", "bitcast", "tuple", "get-tuple-element", "after-all", "iota"}
_FREE |= {"partition-id", "replica-id", "opt-barrier"}
_COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


class Shape(NamedTuple):
    dtype: str
    dims: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.dims)

    @property
    def bytes(self) -> float:
        return self.count * _SIZES.get(self.dtype, 4)


class Instruction(NamedTuple):
    name: str
    shapes: tuple[Shape, ...]  # more than one for a tuple
    opcode: str
    operands: tuple[str, ...]
    rest: str  # the attributes
    root: bool

    def attribute(self, pattern: str) -> str:
        found = re.search(pattern, self.rest)
        return found.group(1) if found else ""


class Kernel(NamedTuple):
    """One launch: operations by the arithmetic they are in, bytes moved, how often it runs."""

    instruction: Instruction
    flops: dict[str, float]  # keys bfloat16, tf32, float32
    bytes: float
    times: int


class Program:
    """The computations of a module, by name."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, current = "", None
        for line in text.splitlines():
            head = _HEAD.match(line)
            if head and "=" not in line.split("(")[0]:
                current = self.computations[head.group(2)] = {}
                self.entry = head.group(2) if head.group(1) else self.entry
            elif current is not None and (made := _instruction(line)):
                current[made.name] = made
        if not self.entry:
            raise ValueError("the text is no HLO module: it has no ENTRY computation")

    def kernels(self, name: str = "", times: int = 1, *, every: bool = False) -> Iterator[Kernel]:
        """Every launch of a computation, those inside loops and calls too.

        Of a conditional those of the branch that moves the least, as one of them runs; all of them
        with `every`.
        """
        body = self.computations[name or self.entry]
        for made in body.values():
            if made.opcode in _FREE or made.opcode.endswith("-done"):
                continue
            called = made.attribute(r"(?:body|to_apply|calls)=%?([\w.-]+)")
            if made.opcode == "while":
                trips = int(made.attribute(r'known_trip_count":\{"n":"(\d+)"') or 1)
                yield from self.kernels(called, times * trips, every=every)
            elif made.opcode in ("call", "async-start") and called:
                yield from self.kernels(called, times, every=every)
            elif made.opcode == "conditional":
                ways = [list(self.kernels(way, times, every=every)) for way in _branches(made)]
                yield from itertools.chain(*ways) if every else min(ways, key=_moved)
            else:
                yield Kernel(made, self._flops(made, body), self._bytes(made, body), times)

    def _flops(self, made: Instruction, body: dict[str, Instruction]) -> dict[str, float]:
        if made.opcode == "custom-call" and "__cudnn$conv" in made.rest:
            return _convolution(made, body)
        if made.opcode == "custom-call" and "gemm" in made.attribute(r'target="([^"]*)"'):
            return _product(made, body)
        if made.opcode in ("dot", "convolution"):
            return _product(made, body) if made.opcode == "dot" else _convolution(made, body)
        if made.opcode != "fusion":
            return {}
        inner = self.computations[made.attribute(r"calls=%?([\w.-]+)")]
        return _sum(self._flops(one, inner) for one in inner.values())

    def _bytes(self, made: Instruction, body: dict[str, Instruction]) -> float:
        """Inputs and outputs; of an input that is only sliced, the slices."""
        written = sum(shape.bytes for shape in made.shapes if not _is_workspace(made, shape))
        read = {name: sum(s.bytes for s in body[name].shapes) for name in set(made.operands)}
        called = made.attribute(r"calls=%?([\w.-]+)")
        if made.opcode == "fusion" and called:
            inner = list(self.computations[called].values())
            for one in inner:
                if one.opcode == "parameter":
                    users = [user for user in inner if one.name in user.operands]
                    if users and all(u.opcode in ("slice", "dynamic-slice") for u in users):
                        outer = made.operands[int(one.rest.split(")")[0])]
                        taken = sum(s.bytes for user in users for s in user.shapes)
                        read[outer] = min(read[outer], taken)
        return written + sum(read.values())

    def convolutions(self) -> list[tuple[Instruction, tuple[Shape, ...]]]:
        """Those of the library, with the shapes of their operands."""
        return [
            (made, tuple(body[name].shapes[0] for name in made.operands))
            for body in self.computations.values()
            for made in body.values()
            if (made.opcode == "custom-call" and "__cudnn$conv" in made.rest)
            or made.opcode == "convolution"
        ]

    def rearrangements(self, above: float) -> list[Instruction]:
        """Kernels of more than so many bytes that only copy or transpose.

        Not those whose result leaves the program at once: a new parameter whose gradient a
        convolution gave in another order is put in the place of the old one by a copy.
        """
        found = []
        leaving = self._leaving()
        for kernel in self.kernels(every=True):
            made = kernel.instruction
            called = made.attribute(r"calls=%?([\w.-]+)") if made.opcode == "fusion" else ""
            inner = self.computations[called].values() if called else [made]
            working = {one.opcode for one in inner} - _FREE
            only = working and working <= {"copy", "transpose", "copy-start"}
            if made.name in leaving or made.opcode in ("copy-start", "copy-done"):
                continue
            if only and sum(shape.bytes for shape in made.shapes) > above:
                found.append(made)
        return found

    def _leaving(self) -> set[str]:
        """The results of the module, and what they are put together from without a kernel."""
        body = self.computations[self.entry]
        [last] = [one for one in body.values() if one.root]
        found, open_ends = set(), list(last.operands) if last.opcode == "tuple" else []
        while open_ends:
            name = open_ends.pop()
            if name not in found:
                found.add(name)
                if body[name].opcode in ("bitcast", "tuple", "get-tuple-element", "opt-barrier"):
                    open_ends += body[name].operands
        return found

    def collectives(self) -> list[tuple[str, float]]:
        """What devices send each other: the operation and the bytes of its result."""
        found = []
        for kernel in self.kernels(every=True):
            made = kernel.instruction
            opcode = made.opcode.removesuffix("-start")
            if opcode in _COLLECTIVES:
                shapes = made.shapes
                if made.opcode == "all-gather-start":  # (inputs, outputs)
                    shapes = shapes[len(shapes) // 2 :]
                found.append((opcode, kernel.times * sum(shape.bytes for shape in shapes)))
        return found


def _instruction(line: str) -> Instruction | None:
    found = _LINE.match(line)
    if not found:
        return None
    root, name, shape, opcode, tail = found.groups()
    shapes = tuple(
        Shape(dtype, tuple(int(size) for size in dims.split(",") if size))
        for dtype, dims in _ARRAY.findall(re.sub(r"\{[^{}]*\}", "", shape))
    )
    inside = tail.split(")", 1)[0]
    operands = tuple(re.findall(r"%([^\s,()]+)", inside)) if opcode != "constant" else ()
    return Instruction(name, shapes, opcode, operands, tail, bool(root))


def _moved(kernels: list[Kernel]) -> float:
    return sum(kernel.times * kernel.bytes for kernel in kernels)


def _branches(made: Instruction) -> list[str]:
    listed = made.attribute(r"branch_computations=\{([^}]*)\}")
    if listed:
        return re.findall(r"%([\w.-]+)", listed)
    return re.findall(r"(?:true|false)_computation=%([\w.-]+)", made.rest)


def _is_workspace(made: Instruction, shape: Shape) -> bool:
    return made.opcode == "custom-call" and len(made.shapes) > 1 and shape.dtype in ("u8", "s8")


def _convolution(made: Instruction, body: dict[str, Instruction]) -> dict[str, float]:
    """2 x outputs x kernel places x input channels, of the forward convolution for all three."""
    first, second = (body[name].shapes[0] for name in made.operands[:2])
    kernel_labels = made.attribute(r"dim_labels=\w+_(\w+)->")
    places = math.prod(map(int, (made.attribute(r"window=\{size=([\dx]+)") or "1").split("x")))
    if "convBackwardFilter" in made.rest:
        kernel, outputs = made.shapes[0], second
    elif "convBackwardInput" in made.rest:
        kernel, outputs = second, first
    else:
        kernel, outputs = second, made.shapes[0]
    channels = kernel.dims[kernel_labels.index("i")]
    return {_arithmetic(made, first.dtype): 2.0 * outputs.count * places * channels}


def _product(made: Instruction, body: dict[str, Instruction]) -> dict[str, float]:
    left = body[made.operands[0]].shapes[0]
    axes = made.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    axes = axes or made.attribute(r'lhs_contracting_dimensions":\[([^\]]*)\]').replace('"', "")
    summed = math.prod(left.dims[int(axis)] for axis in axes.split(",") if axis)
    return {_arithmetic(made, left.dtype): 2.0 * made.shapes[0].count * summed}


def _arithmetic(made: Instruction, dtype: str) -> str:
    if dtype in ("bf16", "f16"):
        return "bfloat16"
    precise = re.search(r"highest|HIGHEST|F32_F32_F32", made.rest)
    return "float32" if precise else "tf32"


def _sum(parts: Iterable[dict[str, float]]) -> dict[str, float]:
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


def total_flops(kernels: Iterable[Kernel]) -> float:
    return sum(kernel.times * sum(kernel.flops.values()) for kernel in kernels)
