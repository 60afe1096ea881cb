"""Divergences of softmax distributions that keep their digits in float32.

Three things cost digits in the textbook forms. KL = sum q (log q - log p) adds terms of the size
of log q / p to reach its square, which fails for similar networks or high temperatures: here the
terms are q (r + e^-r - 1), each of the size of the result, and the gradient's are q (e^-r - 1)
for p - q. The log ratio r = log q - log p is the difference of two rounded logarithms: here
logits are subtracted from logits, and what rounding is left in the log sums shows in the sum of
p - q, which must be 0, and is taken away. And log(sum exp) rounds 1 + 1e-10 to 1 where a
prediction is nearly certain: here the largest entry is left out of the sum and log1p is taken.

Ratios are carried as temperature x r, of the size of the logits: no temperature over- or
underflows them.
"""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

from jax_irkd.distillers._checks import Labels, Number, check_labels, one_hot

# The last power of the series of (r + e^-r - 1) / r^2, and from where on binary terms are one.
ORDER = {"float32": 8, "float64": 16}
TINY = {"float32": 1e-2, "float64": 1e-5}

Rows = Float[Array, "*b k"]
PerRow = Float[Array, "*b 1"]


def largest(x: Array) -> float:
    """Bound of logits below their top, before and after the division by the temperature: 1e37 in
    float32. Whoever checks the range of logits (`over_temperature`) never gets there."""
    return float(jnp.finfo(x.dtype).max) / 32


def clipped(x: Array) -> Array:
    return jnp.clip(x, -largest(x), largest(x))


def series(r: Float[Array, "..."]) -> Float[Array, "..."]:
    """(r + e^-r - 1) / r^2 = 1/2 - r/6 + r^2/24 - ... for |r| < 1/2, by Horner's rule."""
    factors = [(-1) ** n / math.factorial(n) for n in range(ORDER[r.dtype.name], 1, -1)]
    return functools.reduce(lambda total, factor: total * r + factor, factors, jnp.zeros_like(r))


@jax.custom_jvp
def same(value: Float[Array, "..."], rounded: Float[Array, "..."]) -> Float[Array, "..."]:
    """`value`, with the derivative of `rounded`, which is the same number with fewer digits."""
    del rounded
    return value


@same.defjvp
def _same_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    return same(*primals), tangents[1]


# One prediction


class Softmax(NamedTuple):
    """softmax(z / t) over the kept classes, t the temperature."""

    below: Rows  # z - top
    scaled: Rows  # the same over t
    top: PerRow
    log_sum: PerRow  # of exp(scaled)
    energy: PerRow  # t times that

    @property
    def log(self) -> Rows:
        """The log-probabilities."""
        return self.scaled - self.log_sum


def predict(logits: Rows, temperature: Number, kept: Bool[Array, "*b k"] | None) -> Softmax:
    """The prediction; classes that are not kept have probability 0.

    The difference to the top comes before the division, which keeps the digits at |z| = 1e4.
    """
    logits = logits if kept is None else jnp.where(kept, logits, -30 * largest(logits))
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    below = jnp.maximum(logits - top, -largest(logits))
    scaled = clipped(below / temperature)
    return Softmax(below, scaled, top, _log_sum(scaled), _energy(below, temperature))


@jax.custom_jvp
def _log_sum(scaled: Rows) -> PerRow:
    """log sum exp of rows whose largest entry is 0."""
    is_top = scaled == 0
    tops = jnp.sum(is_top, axis=-1, keepdims=True, dtype=scaled.dtype)
    others = jnp.sum(jnp.where(is_top, 0.0, jnp.exp(scaled)), axis=-1, keepdims=True)
    return jnp.log1p(others + (tops - 1.0))


@_log_sum.defjvp
def _log_sum_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (scaled,), (change,) = primals, tangents
    log_sum = _log_sum(scaled)
    return log_sum, jnp.sum(jnp.exp(scaled - log_sum) * change, axis=-1, keepdims=True)


@jax.custom_jvp
def _energy(below: Rows, temperature: Number) -> PerRow:
    """t log sum exp(below / t), whose gradient is p at every temperature."""
    return temperature * _log_sum(clipped(below / temperature))


@_energy.defjvp
def _energy_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    (below, temperature), (change, change_of_t) = primals, tangents
    scaled = clipped(below / temperature)
    log_sum = _log_sum(scaled)
    p = jnp.exp(scaled - log_sum)
    by_t = log_sum - jnp.sum(p * scaled, axis=-1, keepdims=True)
    moved = jnp.sum(p * change, axis=-1, keepdims=True) + by_t * change_of_t
    return temperature * log_sum, moved


def is_first_largest(logits: Rows) -> Bool[Array, "*b k"]:
    """Where the argmax is; XLA takes far longer for an argmax than for two plain reductions."""
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    largest = logits == jnp.max(logits, axis=-1, keepdims=True)
    first = jnp.min(jnp.where(largest, classes, logits.shape[-1]), axis=-1, keepdims=True)
    return classes == first


def cross_entropy(logits: Rows, labels: Labels) -> Float[Array, ""]:
    """Mean over the batch of -log softmax(z)_y; a label that is no class counts as 0."""
    labels = check_labels("labels", labels, logits.shape[:-1], logits.shape[-1])
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    chosen = one_hot(labels, logits.shape[-1], logits.dtype)
    return -jnp.mean(jnp.sum(chosen * predict(logits, 1.0, None).log, axis=-1))


# Two predictions


class Comparison(NamedTuple):
    """Teacher q and student p over the kept classes, t the temperature."""

    teacher: Softmax
    student: Softmax
    q: Rows
    p: Rows
    ratio: Rows  # t (log q - log p)
    terms: Rows  # t^2 (q log q/p + p - q), not negative
    excess: Rows  # t (p - q)
    rounding: PerRow  # the sum of `excess`, 0 but for rounding


def compare(
    teacher: Rows, student: Rows, temperature: Number, kept: Bool[Array, "*b k"] | None
) -> Comparison:
    """Everything that the divergence and its derivatives are made of."""
    taught, learned = (predict(z, temperature, kept) for z in (teacher, student))
    exact = difference(taught.below, learned.below, teacher - student, taught.top - learned.top)
    ratio = same(exact, taught.below - learned.below)
    ratio -= energy_difference(taught, learned, temperature)
    if kept is not None:
        ratio = jnp.where(kept, ratio, 0.0)
    q, p = jnp.exp(taught.log), jnp.exp(learned.log)
    near = jnp.abs(ratio) < 0.5 * temperature
    big = jnp.where(near, ratio, 0.0)
    small = big / temperature
    second = q * series(small) * big
    excess = jnp.where(near, second * small - q * big, temperature * (p - q))
    terms = jnp.where(near, second * big, temperature * (q * ratio + excess))
    rounding = jnp.sum(excess, axis=-1, keepdims=True)
    return Comparison(taught, learned, q, p, ratio, terms, excess, rounding)


def energy_difference(teacher: Softmax, student: Softmax, temperature: Number) -> PerRow:
    value = jax.lax.stop_gradient(temperature * (teacher.log_sum - student.log_sum))
    return same(value, teacher.energy - student.energy)


def difference(teacher: Array, student: Array, logits: Array, tops: Array) -> Array:
    """teacher - student, both relative to their tops, without derivative.

    `logits` and `tops` are the differences of the two networks. Subtracting network by network or
    class by class: whichever rounds less.
    """
    by_network, by_class = teacher - student, logits - tops
    closer = jnp.abs(teacher) + jnp.abs(student) <= jnp.abs(logits) + jnp.abs(tops)
    nearest = jnp.where(closer, by_network, by_class)
    return jax.lax.stop_gradient(clipped(nearest))


@jax.custom_jvp
def divergence(
    teacher: Rows, student: Rows, temperature: Number, kept: Bool[Array, "*b k"] | None = None
) -> Float[Array, "*b"]:
    """temperature^2 KL(q || p) per row, over the `kept` classes."""
    return _divergence(compare(teacher, student, temperature, kept))


def _divergence(both: Comparison) -> Float[Array, "*b"]:
    terms = jnp.sum(both.terms, axis=-1, keepdims=True)
    return jnp.maximum(terms - 0.5 * both.rounding**2, 0.0)[..., 0]


@functools.partial(divergence.defjvp, symbolic_zeros=True)
def _divergence_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    temperature = primals[2]
    both = compare(*primals)
    value = _divergence(both)
    to_student = both.excess - both.rounding * both.p
    to_teacher = both.q * (both.ratio + both.rounding - value[..., None] / temperature)
    change = jnp.zeros_like(value)
    if not isinstance(tangents[0], SymbolicZero):
        change += jnp.sum(to_teacher * tangents[0], axis=-1)
    if not isinstance(tangents[1], SymbolicZero):
        change += jnp.sum(to_student * tangents[1], axis=-1)
    if not isinstance(tangents[2], SymbolicZero):
        moved = to_teacher * both.teacher.below + to_student * both.student.below
        change += (2 * value - jnp.sum(moved, axis=-1)) * (tangents[2] / temperature)
    return value, change


# Two classes


class Odds(NamedTuple):
    """Log odds of one class against the rest, times the temperature, and teacher - student."""

    teacher: Float[Array, "*b"]
    student: Float[Array, "*b"]
    gap: Float[Array, "*b"]


@jax.custom_jvp
def binary_divergence(odds: Odds, temperature: Number) -> Float[Array, "*b"]:
    """temperature^2 KL between two Bernoulli distributions.

    With v = q (1 - q) and d = gap / temperature, where |d| is small it is
    v gap^2 (1/2 - (1 - 2q) d / 6 + (1 - 6v) d^2 / 24).
    """
    teacher, student, d = (clipped(x / temperature) for x in odds)
    gap = odds.gap
    q, other = jax.nn.sigmoid(teacher), jax.nn.sigmoid(-teacher)
    near, tiny = jnp.abs(d) < 1, jnp.abs(d) < TINY[d.dtype.name]
    small = jnp.where(tiny, d, 0.0)
    v, gaps = q * other, jnp.where(tiny, gap, 0.0)
    closest = v * gaps * gaps * (0.5 - (other - q) * small / 6 + (1 - 6 * v) * small**2 / 24)
    small = jnp.where(near, d, 0.0)
    total = jnp.zeros_like(gap)
    for sign in (1, -1):
        log_q, log_p = jax.nn.log_sigmoid(sign * teacher), jax.nn.log_sigmoid(sign * student)
        # log q - log p = log(1 + (1 - q)(e^d - 1)), without a difference of rounded numbers.
        close = jnp.log1p(jax.nn.sigmoid(-sign * teacher) * jnp.expm1(sign * small))
        ratio = jnp.where(near, close, log_q - log_p)
        total += _binary_terms(log_q, log_p, ratio, temperature)
    return jnp.where(tiny, closest, total)


@functools.partial(binary_divergence.defjvp, symbolic_zeros=True)
def _binary_divergence_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    odds, temperature = primals
    value = binary_divergence(odds, temperature)
    teacher, student, d = (clipped(x / temperature) for x in odds)
    to_teacher = jax.nn.sigmoid(teacher) * jax.nn.sigmoid(-teacher) * odds.gap
    # p - q, as a product: -sigmoid(student) sigmoid(-teacher) (e^d - 1), or its mirror image.
    up = d > 0
    larger, smaller = jnp.where(up, teacher, student), jnp.where(up, student, teacher)
    size = jax.nn.sigmoid(larger) * jax.nn.sigmoid(-smaller) * jnp.expm1(-jnp.abs(d))
    to_student = temperature * jnp.where(up, size, -size)
    change = jnp.zeros_like(value)
    if not isinstance(tangents[0].teacher, SymbolicZero):
        change += to_teacher * tangents[0].teacher
    if not isinstance(tangents[0].student, SymbolicZero):
        change += to_student * tangents[0].student
    if not isinstance(tangents[1], SymbolicZero):
        moved = to_teacher * odds.teacher + to_student * odds.student
        change += (2 * value - moved) * (tangents[1] / temperature)
    return value, change


def _binary_terms(log_q: Array, log_p: Array, ratio: Array, temperature: Number) -> Array:
    """t^2 (q log(q / p) + p - q), which is never negative, as in `compare`."""
    near = jnp.abs(ratio) < 0.5
    r = jnp.where(near, ratio, 0.0)
    q = jnp.exp(log_q)
    scaled = q * (temperature * ratio) + temperature * (jnp.exp(log_p) - q)
    return temperature * jnp.where(near, q * series(r) * r * (temperature * r), scaled)
