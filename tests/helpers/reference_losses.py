"""The distillation losses once more, in float64 NumPy, loops first, to compare with."""

import math

import numpy as np


def log_softmax(z):
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def divergence(log_q, log_p):
    return sum(math.exp(q) * (q - p) for q, p in zip(log_q, log_p))


def st(student, teacher, temperature=4.0):
    log_p, log_q = log_softmax(student / temperature), log_softmax(teacher / temperature)
    return temperature**2 * np.mean([divergence(q, p) for q, p in zip(log_q, log_p)])


def dkd(student, teacher, labels, target_weight=0.7, nontarget_weight=0.35, temperature=4.0):
    losses = []
    for s, t, y in zip(student / temperature, teacher / temperature, labels):
        log_p, log_q = log_softmax(s), log_softmax(t)
        rest_p, rest_q = log_softmax(np.delete(s, y)), log_softmax(np.delete(t, y))
        others = [np.logaddexp.reduce(np.delete(x, y)) for x in (log_p, log_q)]
        tckd = divergence([log_q[y], others[1]], [log_p[y], others[0]])
        losses.append(target_weight * tckd + nontarget_weight * divergence(rest_q, rest_p))
    return temperature**2 * np.mean(losses)


def selective_st(student, teacher, labels, decay=1.0):
    losses = []
    for s, t, y in zip(student, teacher, labels):
        m = decay * (1 + (np.argmax(t) == y))
        log_p, log_q = log_softmax(s), log_softmax(t)
        losses.append(sum(m * np.exp(q) * (np.log(m) + q - m * p) for q, p in zip(log_q, log_p)))
    return np.mean(losses)


def normalize(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)


def at(student, teacher, power=2):
    maps = [normalize((f**power).mean(-1).reshape(len(f), -1)) for f in (student, teacher)]
    return np.mean((maps[0] - maps[1]) ** 2)


def sp(student, teacher):
    flat = [f.reshape(len(f), -1) for f in (student, teacher)]
    grams = [normalize(f @ f.T) for f in flat]
    return np.sum((grams[0] - grams[1]) ** 2) / len(student) ** 2


def cc(student, teacher, gamma=0.4, order=2):
    def kernel(features):
        cosines = normalize(features) @ normalize(features).T
        terms = [
            math.exp(-2 * gamma) * (2 * gamma) ** p / math.factorial(p) * cosines**p
            for p in range(order + 1)
        ]
        return np.sum(terms, axis=0)

    return np.mean((kernel(student) - kernel(teacher)) ** 2)


def cc_embedding(student, teacher):
    e = np.abs(student - teacher)
    return sum(e[n] @ e[n + 1] for n in range(len(e) - 1)) / (len(e) - 1)


def cc_embedding_kernel(student, teacher, gamma=0.4, order=2):
    def kernel(rows):
        inner = [[x @ y for y in rows] for x in rows]
        taylor = [(2 * gamma) ** p / math.factorial(p) for p in range(order + 1)]
        return [[sum(t * i**p for p, t in enumerate(taylor)) for i in row] for row in inner]

    difference = np.array(kernel(student)) - np.array(kernel(teacher))
    return math.exp(-2 * gamma) * np.linalg.norm(difference) / len(student) ** 2


def huber(x):
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def rkd(student, teacher, distance_weight=25.0, angle_weight=50.0):
    relations = [rkd_relations(f) for f in (student, teacher)]
    distance, angle = (huber(s - t).mean() for s, t in zip(*relations))
    return distance_weight * distance + angle_weight * angle


def rkd_relations(f):
    b = len(f)
    distances = np.zeros((b, b))
    angles = np.zeros((b, b, b))
    for n in range(b):
        units = normalize(f - f[n])
        angles[n] = units @ units.T
        distances[n] = np.sqrt(np.maximum(((f - f[n]) ** 2).sum(1), 1e-12))
        distances[n, n] = 0
    return distances / distances[distances > 0].mean(), angles


def pool(maps, size):
    """Adaptive average pooling over windows floor(iH/h) .. ceil((i+1)H/h)."""
    b, height, width, c = maps.shape
    pooled = np.zeros((b, *size, c))
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i * height // size[0], math.ceil((i + 1) * height / size[0]))
            columns = slice(j * width // size[1], math.ceil((j + 1) * width / size[1]))
            pooled[:, i, j] = maps[:, rows, columns].mean((1, 2))
    return pooled


def graph(maps, sigma=1.0, distance="mean"):
    x = maps.reshape(len(maps), -1)
    reduce = {"mean": np.mean, "sum": np.sum}[distance]
    squared = np.array([[reduce((p - q) ** 2) for q in x] for p in x])
    if sigma == "median":
        sigma = math.sqrt(np.median(squared[~np.eye(len(x), dtype=bool)]))
    e = np.exp(-squared / (2 * sigma**2))
    d = np.diag(1 / np.sqrt(e.sum(1)))
    return d @ e @ d


def attention(student_graph, teacher_graph, temperature=None):
    b = len(student_graph)
    scores = student_graph @ teacher_graph.T / (temperature or math.sqrt(b))
    return np.exp(log_softmax(scores))


ACTIVATIONS = {
    "mean": lambda m: m.mean(-1),
    "mean_sq": lambda m: (m**2).mean(-1),
    "l2": lambda m: normalize((m**2).mean(-1).reshape(len(m), -1)).reshape(m.shape[:3]),
    "minmax": lambda m: (m.mean(-1) - m.mean(-1).min()) / np.ptp(m.mean(-1)),
}


def mgcam(
    students,
    teachers,
    sigma=1.0,
    temperature=None,
    pairs="all",
    attention_kind="graph",
    distance="mean",
    activation="mean",
):
    b, k, total = len(students[0]), len(students), 0.0
    for i, student in enumerate(students):
        for j, teacher in enumerate(teachers):
            if pairs == "same" and i != j:
                continue
            a = {"uniform": np.full((b, b), 1 / b), "identity": np.eye(b)}.get(attention_kind)
            if a is None:
                graphs = graph(student, sigma, distance), graph(teacher, sigma, distance)
                a = attention(*graphs, temperature)
            size = tuple(min(s, t) for s, t in zip(student.shape[1:3], teacher.shape[1:3]))
            maps = [ACTIVATIONS[activation](m)[..., None] for m in (student, teacher)]
            attended = [np.einsum("nm,mhwc->nhwc", a, pool(m, size)) for m in maps]
            total += np.mean((attended[0] - attended[1]) ** 2)
    return total / k


def slope(loss, x, direction, step=1e-5):
    """Derivative of a float64 loss along a direction, by central differences."""
    return (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)


def check_gradients(gradients, loss, pair, directions):
    """Our gradients to both arguments along `directions` against the slopes of a float64 loss."""
    student, teacher = pair
    slopes = [
        slope(lambda x: loss(x, teacher), student, directions[0]),
        slope(lambda x: loss(student, x), teacher, directions[1]),
    ]
    ours = [np.sum(np.asarray(g, np.float64) * d) for g, d in zip(gradients, directions)]
    np.testing.assert_allclose(ours, slopes, rtol=1e-3, atol=1e-5)
