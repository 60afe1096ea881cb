"""The losses on logits in mpmath, four hundred digits, with closed forms of their gradients."""

import mpmath
import numpy as np

DIGITS = 400


def softmax(logits):
    top = max(logits)
    powers = [mpmath.exp(z - top) for z in logits]
    total = mpmath.fsum(powers)
    return [x / total for x in powers], [z - top - mpmath.log(total) for z in logits]


def divergence(teacher, student):
    """KL(q || p) of two rows of logits, p and q."""
    q, log_q = softmax(teacher)
    p, log_p = softmax(student)
    return mpmath.fsum(a * (x - y) for a, x, y in zip(q, log_q, log_p)), p, q


def st(student, teacher, label, temperature):
    """Loss of one clip and its gradient to the student's logits."""
    t = mpmath.mpf(float(temperature))
    value, p, q = divergence(_over(teacher, t), _over(student, t))
    return t**2 * value, [t * (x - y) for x, y in zip(p, q)]


def dkd(student, teacher, label, temperature, target_weight=0.7, nontarget_weight=0.35):
    t = mpmath.mpf(float(temperature))
    student, teacher = _over(student, t), _over(teacher, t)
    rest = [i for i in range(len(student)) if i != label]
    nontarget, p, q = divergence(*([z[i] for i in rest] for z in (teacher, student)))
    (x, log_x), (y, log_y) = _binary(teacher, rest, label), _binary(student, rest, label)
    target = mpmath.fsum(a * (b - c) for a, b, c in zip(x, log_x, log_y))
    a, b = mpmath.mpf(target_weight), mpmath.mpf(nontarget_weight)
    gradient = [mpmath.mpf(0)] * len(student)
    gradient[label] = a * t * (y[0] - x[0])
    for i, p_i, q_i in zip(rest, p, q):
        gradient[i] = -gradient[label] * p_i + b * t * (p_i - q_i)
    return t**2 * (a * target + b * nontarget), gradient


def selective_st(student, teacher, label, temperature):
    one = mpmath.mpf(1)
    m = 2 * one if int(np.argmax(teacher)) == label else one
    value, p, q = divergence(_over(teacher, one), _over(student, one))
    _, log_q = softmax(_over(teacher, one))
    entropy = mpmath.fsum(a * b for a, b in zip(q, log_q))
    offset = m * (1 - m) * entropy + m * mpmath.log(m)
    return m**2 * value + offset, [m**2 * (x - y) for x, y in zip(p, q)]


def _over(logits, temperature):
    return [mpmath.mpf(float(z)) / temperature for z in logits]


def _binary(logits, rest, label):
    """[p_y, 1 - p_y] and their logarithms, without a difference of rounded numbers."""
    others = [logits[i] for i in rest]
    top = max(others)
    odds = logits[label] - top - mpmath.log(mpmath.fsum(mpmath.exp(z - top) for z in others))
    pair = [1 / (1 + mpmath.exp(-odds)), 1 / (1 + mpmath.exp(odds))]
    return pair, [mpmath.log(x) for x in pair]


def evaluate(loss, students, teachers, labels, temperatures):
    """Values and gradients of all cases as float64."""
    with mpmath.workdps(DIGITS):
        found = [loss(*case) for case in zip(students, teachers, labels, temperatures)]
        values = np.array([float(value) for value, _ in found])
        gradients = np.array([[float(x) for x in row] for _, row in found])
    return values, gradients
