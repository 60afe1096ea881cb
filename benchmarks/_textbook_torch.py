"""The losses of `_textbook.py` in PyTorch, as its users write them: to compare the time with."""

import math

import torch
import torch.nn.functional as F


def st(student, teacher, temperature=4.0):
    log_p = F.log_softmax(student / temperature, dim=1)
    q = F.softmax(teacher / temperature, dim=1)
    return temperature**2 * F.kl_div(log_p, q, reduction="batchmean")


def dkd(student, teacher, labels, temperature=4.0, target_weight=0.7, nontarget_weight=0.35):
    """Probabilities of two classes, the target masked by -1000."""
    is_target = F.one_hot(labels, student.shape[1]).bool()
    pairs, rest = [], []
    for z in (student / temperature, teacher / temperature):
        p = F.softmax(z, dim=1)
        pairs.append(torch.stack([(p * part).sum(1) for part in (is_target, ~is_target)], 1))
        rest.append(F.log_softmax(z - 1000.0 * is_target, dim=1))
    target = F.kl_div(pairs[0].log(), pairs[1], reduction="batchmean")
    nontarget = F.kl_div(rest[0], rest[1].exp(), reduction="batchmean")
    return temperature**2 * (target_weight * target + nontarget_weight * nontarget)


def selective_st(student, teacher, labels):
    log_p, log_q = F.log_softmax(student, dim=1), F.log_softmax(teacher, dim=1)
    m = (1.0 + (teacher.argmax(1) == labels).float())[:, None]
    return (m * log_q.exp() * (m.log() + log_q - m * log_p)).sum(1).mean()


def at(student, teacher):
    pair = [F.normalize((maps**2).mean(-1).flatten(1)) for maps in (student, teacher)]
    return F.mse_loss(*pair)


def sp(student, teacher):
    flat = [maps.flatten(1) for maps in (student, teacher)]
    return F.mse_loss(*[F.normalize(x @ x.T) for x in flat])


def cc(student, teacher, gamma=0.4, order=2):
    def kernel(features):
        rows = F.normalize(features)
        factors = [(2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
        return math.exp(-2 * gamma) * sum(f * (rows @ rows.T) ** p for p, f in enumerate(factors))

    return F.mse_loss(kernel(student), kernel(teacher))


def rkd(student, teacher, distance_weight=25.0, angle_weight=50.0):
    def relations(x):
        norms, clips = (x**2).sum(1), len(x)
        squared = norms[:, None] + norms[None] - 2 * x @ x.T
        distances = squared.clamp(min=1e-12).sqrt() * (1 - torch.eye(clips))
        units = F.normalize(x[None] - x[:, None], dim=2)
        return distances * clips * (clips - 1) / distances.sum(), units @ units.transpose(1, 2)

    pairs = zip(relations(student), relations(teacher))
    distance, angle = (F.smooth_l1_loss(s, t) for s, t in pairs)
    return distance_weight * distance + angle_weight * angle


def mgcam(students, teachers):
    """Graphs from inner products; sizes that divide each other."""

    def graph(maps):
        x = maps.flatten(1)
        norms = (x**2).sum(1)
        e = torch.exp(-(norms[:, None] + norms[None] - 2 * x @ x.T) / x.shape[1] / 2)
        scale = e.sum(1).rsqrt()
        return e * scale[:, None] * scale[None]

    def pooled(maps, size):
        return F.adaptive_avg_pool2d(maps, size).flatten(1)

    clips, total = len(students[0]), 0.0
    graphs = [[graph(maps) for maps in stages] for stages in (students, teachers)]
    maps = [[m.mean(-1) for m in stages] for stages in (students, teachers)]
    for i, student in enumerate(maps[0]):
        for j, teacher in enumerate(maps[1]):
            attention = F.softmax(graphs[0][i] @ graphs[1][j].T / clips**0.5, dim=1)
            size = min(student.shape[1], teacher.shape[1])
            difference = pooled(student, size) - pooled(teacher, size)
            total = total + ((attention @ difference) ** 2).mean()
    return total / len(students)
