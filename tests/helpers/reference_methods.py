"""The newer methods once more, in float64 NumPy, loops first, to compare with."""

import itertools
import math

import numpy as np

from tests.helpers.reference_losses import divergence, log_softmax, normalize, pool


def fitnet(student, teacher):
    return np.mean((student - teacher) ** 2)


def smaller(student, teacher):
    size = tuple(min(pair) for pair in zip(student.shape[1:3], teacher.shape[1:3]))
    return pool(student, size), pool(teacher, size)


def ft(student, teacher, power=1):
    flat = [normalize(f.reshape(len(f), -1)) for f in (student, teacher)]
    return np.mean(np.abs(flat[0] - flat[1]) ** power)


def pkt(student, teacher, itself=True):
    b = len(student)
    p, q = np.zeros((b, b)), np.zeros((b, b))
    for matrix, features in ((p, student), (q, teacher)):
        rows = normalize(features.reshape(b, -1))
        for n, m in itertools.product(range(b), repeat=2):
            matrix[n, m] = (1 + rows[n] @ rows[m]) / 2 if itself or n != m else 0
        matrix /= np.maximum(matrix.sum(1, keepdims=True), 1e-300)
    return np.sum(q * np.log((q + 1e-7) / (p + 1e-7))) / b**2


def vid(student, teacher, variance):
    variance = np.asarray(variance, np.float64)
    total = 0.0
    for c, v in enumerate(variance):
        total += np.mean((teacher[..., c] - student[..., c]) ** 2 / v + math.log(v)) / 2
    return total / len(variance)


def nst(student, teacher):
    student, teacher = smaller(student, teacher)

    def kernel(x, y):
        return np.mean([[(i @ j) ** 2 for j in y] for i in x])

    losses = []
    for s, t in zip(student, teacher):
        s, t = (normalize(x.reshape(-1, x.shape[-1]).T) for x in (s, t))
        losses.append(kernel(t, t) + kernel(s, s) - 2 * kernel(s, t))
    return np.mean(losses)


def fsp(students, teachers):
    def flow(first, second):
        first, second = smaller(first, second)
        positions = first.shape[1] * first.shape[2]
        return (
            sum(
                first[:, i, j, :, None] * second[:, i, j, None, :]
                for i in range(first.shape[1])
                for j in range(first.shape[2])
            )
            / positions
        )

    pairs = [[flow(*two) for two in itertools.pairwise(maps)] for maps in (students, teachers)]
    return sum(np.mean((s - t) ** 2) for s, t in zip(*pairs))


def ofd(student, teacher, margin):
    margin = np.asarray(margin, np.float64)
    total = 0.0
    for s, t, m in zip(student.reshape(-1), teacher.reshape(-1), np.resize(margin, teacher.size)):
        target = max(t, m)
        total += 0 if s <= target <= 0 else (s - target) ** 2
    return total / len(student)


def reviewkd(student, teacher):
    total, weights, weight = np.mean((student - teacher) ** 2), 1.0, 1.0
    for level in (4, 2, 1):
        if level < min(student.shape[1:3]):
            weight /= 2
            weights += weight
            pooled = [pool(maps, (level, level)) for maps in (student, teacher)]
            total += weight * np.mean((pooled[0] - pooled[1]) ** 2)
    return total / weights


def crd(student, teacher, labels=None, temperature=0.07, symmetric=True):
    b = len(student)
    cosines = normalize(student) @ normalize(teacher).T / temperature
    total = 0.0
    for c in (cosines, cosines.T) if symmetric else (cosines,):
        for n in range(b):
            told = [m for m in range(b) if m == n or labels is None or labels[m] != labels[n]]
            total += np.logaddexp.reduce([c[n, m] for m in told]) - c[n, n]
    return total / b


def correlation(x, y):
    x, y = x - x.mean(), y - y.mean()
    lengths = np.linalg.norm(x) * np.linalg.norm(y)
    return x @ y / lengths if lengths > 1e-14 else 0.0


def dist(student, teacher, inter_weight=2.0, intra_weight=2.0, temperature=1.0):
    p, q = (np.exp(log_softmax(z / temperature)) for z in (student, teacher))
    inter = np.mean([1 - correlation(*rows) for rows in zip(p, q)])
    intra = np.mean([1 - correlation(*columns) for columns in zip(p.T, q.T)])
    return temperature**2 * (inter_weight * inter + intra_weight * intra)


def mlkd(student, teacher, temperatures=(2, 3, 4, 5, 6)):
    total = 0.0
    for temperature in temperatures:
        log_p, log_q = log_softmax(student / temperature), log_softmax(teacher / temperature)
        total += temperature**2 * np.mean([divergence(q, p) for q, p in zip(log_q, log_p)])
        p, q = np.exp(log_p), np.exp(log_q)
        total += np.sum((p @ p.T - q @ q.T) ** 2) / len(p)
        total += np.sum((p.T @ p - q.T @ q) ** 2) / p.shape[1]
    return total
