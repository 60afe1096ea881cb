"""The losses as textbooks and public codes write them, in JAX: to compare the time with.

They are what a careful user would write without thinking of float32: exact enough on the inputs
of a benchmark, not elsewhere.
"""

import math

import jax
import jax.numpy as jnp


def st(student, teacher, temperature=4.0):
    log_p, log_q = (jax.nn.log_softmax(z / temperature) for z in (student, teacher))
    return temperature**2 * jnp.mean(jnp.sum(jnp.exp(log_q) * (log_q - log_p), axis=-1))


def dkd(student, teacher, labels, temperature=4.0, target_weight=0.7, nontarget_weight=0.35):
    """As in the official code: probabilities of two classes, the target masked by -1000."""
    is_target = jax.nn.one_hot(labels, student.shape[1], dtype=bool)
    pairs, rest = [], []
    for z in (student / temperature, teacher / temperature):
        p = jax.nn.softmax(z)
        pairs.append([jnp.sum(p * part, axis=1) for part in (is_target, ~is_target)])
        rest.append(jax.nn.log_softmax(z - 1000.0 * is_target))
    target = sum(jnp.mean(q * (jnp.log(q) - jnp.log(p))) for p, q in zip(*pairs))
    nontarget = jnp.mean(jnp.sum(jnp.exp(rest[1]) * (rest[1] - rest[0]), axis=-1))
    return temperature**2 * (target_weight * target + nontarget_weight * nontarget)


def selective_st(student, teacher, labels):
    log_p, log_q = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
    m = (1.0 + (jnp.argmax(teacher, axis=1) == labels))[:, None]
    return jnp.mean(jnp.sum(m * jnp.exp(log_q) * (jnp.log(m) + log_q - m * log_p), axis=-1))


def normalised(x):
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def at(student, teacher):
    student, teacher = (
        normalised(jnp.mean(maps**2, axis=-1).reshape(len(maps), -1)) for maps in (student, teacher)
    )
    return jnp.mean((student - teacher) ** 2)


def sp(student, teacher):
    flat = [maps.reshape(len(maps), -1) for maps in (student, teacher)]
    student, teacher = (normalised(x @ x.T) for x in flat)
    return jnp.mean((student - teacher) ** 2)


def cc(student, teacher, gamma=0.4, order=2):
    def kernel(features):
        rows = normalised(features)
        factors = [(2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(f * (rows @ rows.T) ** p for p, f in enumerate(factors))

    return jnp.mean((kernel(student) - kernel(teacher)) ** 2)


def rkd(student, teacher, distance_weight=25.0, angle_weight=50.0):
    def relations(x):
        norms, clips = jnp.sum(x**2, axis=1), len(x)
        squared = norms[:, None] + norms[None] - 2 * x @ x.T
        distances = jnp.sqrt(jnp.maximum(squared, 1e-12)) * (1 - jnp.eye(clips))
        differences = x[None] - x[:, None]
        units = differences / jnp.sqrt(jnp.sum(differences**2, -1, keepdims=True) + 1e-12)
        cosines = jnp.einsum("nmf,nkf->nmk", units, units)
        return distances * clips * (clips - 1) / jnp.sum(distances), cosines

    def huber(x):
        return jnp.mean(jnp.where(jnp.abs(x) < 1, x**2 / 2, jnp.abs(x) - 0.5))

    distance, angle = (huber(s - t) for s, t in zip(relations(student), relations(teacher)))
    return distance_weight * distance + angle_weight * angle


def mgcam(students, teachers):
    """Graphs from inner products; sizes that divide each other."""

    def graph(maps):
        x = maps.reshape(len(maps), -1)
        norms = jnp.sum(x**2, axis=1)
        squared = (norms[:, None] + norms[None] - 2 * x @ x.T) / x.shape[1]
        e = jnp.exp(-squared / 2)
        scale = jax.lax.rsqrt(jnp.sum(e, axis=1))
        return e * scale[:, None] * scale[None]

    def pooled(maps, size):
        part = maps.shape[1] // size
        return maps.reshape(len(maps), size, part, size, part).mean((2, 4)).reshape(len(maps), -1)

    clips, total = len(students[0]), 0.0
    graphs = [[graph(maps) for maps in stages] for stages in (students, teachers)]
    maps = [[m.mean(-1) for m in stages] for stages in (students, teachers)]
    for i, student in enumerate(maps[0]):
        for j, teacher in enumerate(maps[1]):
            attention = jax.nn.softmax(graphs[0][i] @ graphs[1][j].T / clips**0.5)
            size = min(student.shape[1], teacher.shape[1])
            difference = pooled(student, size) - pooled(teacher, size)
            total += jnp.mean((attention @ difference) ** 2)
    return total / len(students)
