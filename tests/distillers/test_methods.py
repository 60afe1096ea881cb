"""The newer losses: by hand, against float64 and against what public code computes."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_irkd
from jax_irkd import (
    crd_loss,
    dist_loss,
    fitnet_loss,
    fsp_loss,
    ft_loss,
    mlkd_loss,
    nst_loss,
    ofd_loss,
    pkt_loss,
    reviewkd_loss,
    simkd_loss,
    vid_loss,
)
from jax_irkd.distillers import cc
from jax_irkd.distillers._standardise import standardised
from jax_irkd.distillers.ft import energy
from jax_irkd.distillers.ofd import negative_means
from jax_irkd.distillers.reviewkd import nearest
from jax_irkd.distillers.simkd import simkd_logits
from tests.helpers import reference_losses
from tests.helpers import reference_methods as reference
from tests.helpers.quick_compile import quick_compile  # noqa: F401

RNG = np.random.default_rng(1)
LABELS = np.array([0, 1, 0, 2, 1])
VARIANCE = jnp.array([0.5, 2.0, 1.0])
MARGIN = -jnp.array([0.1, 0.5, 1.0])
# Our loss, the reference, shapes of student and teacher without the batch.
LOSSES = {
    "fitnet": (fitnet_loss, reference.fitnet, (2, 2, 3), (2, 2, 3)),
    "simkd": (simkd_loss, reference.fitnet, (2, 2, 3), (2, 2, 3)),
    "ft": (ft_loss, reference.ft, (2, 2, 3), (2, 2, 3)),
    "ft_squares": (
        lambda s, t: ft_loss(s, t, power=2),
        lambda s, t: reference.ft(s, t, 2),
        (7,),
        (7,),
    ),
    "pkt": (pkt_loss, reference.pkt, (6,), (6,)),
    "pkt_others": (
        lambda s, t: pkt_loss(s, t, itself=False),
        lambda s, t: reference.pkt(s, t, itself=False),
        (6,),
        (2, 4),
    ),
    "vid": (
        lambda s, t: vid_loss(s, t, VARIANCE),
        lambda s, t: reference.vid(s, t, VARIANCE),
        (2, 2, 3),
        (2, 2, 3),
    ),
    "nst": (nst_loss, reference.nst, (4, 4, 2), (4, 5, 3)),
    "nst_many_channels": (nst_loss, reference.nst, (2, 2, 7), (2, 2, 7)),
    "ofd": (
        lambda s, t: ofd_loss(s, t, MARGIN),
        lambda s, t: reference.ofd(s, t, MARGIN),
        (2, 2, 3),
        (2, 2, 3),
    ),
    "reviewkd": (reviewkd_loss, reference.reviewkd, (5, 6, 2), (5, 6, 2)),
    "crd": (crd_loss, reference.crd, (6,), (6,)),
    "crd_classes": (
        lambda s, t: crd_loss(s, t, LABELS[: len(s)], temperature=0.5, symmetric=False),
        lambda s, t: reference.crd(s, t, LABELS, temperature=0.5, symmetric=False),
        (6,),
        (6,),
    ),
    "dist": (dist_loss, reference.dist, (6,), (6,)),
    "mlkd": (mlkd_loss, reference.mlkd, (6,), (6,)),
}
EQUAL_SHAPES = [name for name in LOSSES if LOSSES[name][2] == LOSSES[name][3]]
ZERO_AT_IDENTITY = sorted(set(EQUAL_SHAPES) - {"vid", "ofd", "crd", "crd_classes"})
MASKED = ("fitnet", "ft", "pkt", "nst", "reviewkd", "crd", "dist", "mlkd")
SCALE_FREE = ("ft", "pkt", "nst", "crd")
RELATIONAL = ("pkt", "crd", "dist", "mlkd")


def draw(name, clips=5, seed=2):
    rng = np.random.default_rng(seed)
    return [0.3 + rng.standard_normal((clips, *shape)) for shape in LOSSES[name][2:]]


def as_float32(*values):
    return [jnp.asarray(x, jnp.float32) for x in values]


@functools.cache  # one program for all tests of a loss
def both_gradients(name):
    return jax.jit(jax.value_and_grad(LOSSES[name][0], argnums=(0, 1)))


def array(*rows):
    return jnp.array(rows, jnp.float32)


@pytest.mark.slow
def test_by_hand():
    def check(ours, expected):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)

    check(fitnet_loss(array([1, 2]), array([0, 4])), (1 + 4) / 2)
    # Unit vectors (0.6, 0.8) and (1, 0).
    check(ft_loss(array([3, 4]), array([5, 0])), (0.4 + 0.8) / 2)
    # Cosines 0 and 1: rows (2/3, 1/3) of the student, (1/2, 1/2) of the teacher, two of each.
    student, teacher = array([1, 0], [0, 1]), array([1, 0], [2, 0])
    check(pkt_loss(student, teacher), 2 * (np.log(3 / 4) + np.log(3 / 2)) / 2 / 4)
    check(pkt_loss(student, teacher, itself=False), 0)  # one other clip only
    check(vid_loss(array([1, 2]), array([3, 2]), array(4, 1)), (4 / 4 + np.log(4) + 0 + 0) / 4)
    # A channel at the left, one at the right, against two at the left: 1/2 + 1 - 2/2.
    two = array([[[1, 0], [0, 2]]]).reshape(1, 1, 2, 2)
    left = array([[[1, 3], [0, 0]]]).reshape(1, 1, 2, 2)
    check(nst_loss(two, left), 1 / 2 + 1 - 1)
    # Below both zero and the target; below zero but above the target -0.5; a response of 2.
    student, teacher = array([-3, -0.25, 1]), array([-1, -2, 2])
    check(ofd_loss(student, teacher, -0.5), 0 + 0.25**2 + 1)
    # Differences 1 and 3 side by side, 4 x 1: no coarser level than the map.
    check(reviewkd_loss(jnp.zeros((1, 1, 2, 1)), array([[[1], [3]]])), 5)
    # 2 x 2: the mean of the squares, and half the square of the mean, over 3/2.
    check(
        reviewkd_loss(jnp.zeros((1, 2, 2, 1)), array([[[1], [3]], [[1], [3]]])), (5 + 4 / 2) / 1.5
    )
    # Cosines 1 with the own clip, 0 with the other: two directions of log(1 + e^-1).
    check(crd_loss(*[array([1, 0], [0, 2])] * 2, temperature=1), 2 * np.log(1 + np.exp(-1)))
    check(crd_loss(*[array([1, 0], [0, 2])] * 2, None, temperature=1), 2 * np.log(1 + np.exp(-1)))
    for labels in (jnp.array([1, 1]), array([0, 1], [0, 1])):
        check(crd_loss(*[array([1, 0], [0, 2])] * 2, labels), 0)
    # The student has the opposite opinion on everything: correlations of -1.
    opinions = array([2, 0], [0, 2])
    check(dist_loss(opinions, opinions[::-1]), 2 * 2 + 2 * 2)
    # Uniform against certain: KL = log 2; Gram matrices 1/2 against 1; class ones 1/4 against 1, 0.
    certain = array([1e3, 0])
    parts = np.log(2), (1 / 2 - 1) ** 2, ((1 / 4 - 1) ** 2 + 3 / 16) / 2
    for weights, part in zip(np.eye(3), parts):
        names = ("instance_weight", "batch_weight", "class_weight")
        options = dict(zip(names, weights.tolist()))
        check(mlkd_loss(jnp.zeros((1, 2)), certain, temperatures=(1.0,), **options), part)


@pytest.mark.slow
def test_options_of_the_older_losses_by_hand():
    def check(ours, expected):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)

    # Twice the logits, and a shift: the same standardised.
    student, teacher = array([1, 2, 4], [0, 1, 0]), array([3, 5, 9], [2, 3, 2])
    labels = jnp.array([0, 1])
    check(jax_irkd.st_loss(student, teacher, standardise=True), 0)
    check(jax_irkd.dkd_loss(student, teacher, labels, standardise=True), 0)
    # Maps (1, 1)/sqrt(2) against (1, 0).
    student, teacher = jnp.ones((1, 1, 2, 3)), jnp.array([[[[2.0], [0.0]]]])
    check(jax_irkd.at_loss(student, teacher, form="paper"), np.sqrt(2 - 2**0.5))
    # Off the diagonal cosines 0 against 1.
    student, teacher = array([1, 0], [0, 3]), array([1, 0], [2, 0])
    check(jax_irkd.cc_loss(student, teacher, kernel="bilinear"), 2 / 4)


def test_standardised_logits_have_gradients_everywhere():
    logits = array([1, 1, 1], [1e30, 0, -1e30], [1e-30, 0, 0], [5, 5, 5 + 1e-5])
    gradient = jax.jit(jax.grad(lambda z: jnp.sum(standardised(z) ** 3)))
    assert np.isfinite(gradient(logits)).all()
    np.testing.assert_array_equal(gradient(logits)[0], 0)
    found = standardised(array([1, 2, 6], [1e30, 2e30, 6e30]))
    np.testing.assert_allclose(found, [np.array([-2, -1, 3]) / np.sqrt(7)] * 2, rtol=1e-6)


def test_fsp_by_hand_and_against_float64():
    # Channels (1, 2) then (3, 4) of one pixel: the flow is [[3], [4]] for the first channel.
    first, second = array([[[1.0, 2.0]]]), array([[[3.0]]])
    np.testing.assert_allclose(fsp_loss([first, second], [0 * first, second]), (9 + 36) / 2)
    shapes = [(3, 4, 6, 2), (3, 2, 3, 3), (3, 2, 3, 4)]
    student, teacher = ([RNG.standard_normal(shape) for shape in shapes] for _ in range(2))
    pair = as_float32(*student), as_float32(*teacher)
    np.testing.assert_allclose(jax.jit(fsp_loss)(*pair), reference.fsp(student, teacher), 1e-5)
    with pytest.raises(ValueError, match=r"\[2, 3\] channels and the teacher's \[3, 4\]"):
        fsp_loss(pair[0][:2], pair[1][1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", LOSSES)
def test_value_and_both_gradients_against_float64(name):
    expected = LOSSES[name][1]
    student, teacher = draw(name)
    value, gradients = both_gradients(name)(*as_float32(student, teacher))
    np.testing.assert_allclose(value, expected(student, teacher), rtol=1e-4, atol=1e-7)
    directions = [RNG.standard_normal(x.shape) for x in (student, teacher)]
    reference_losses.check_gradients(gradients, expected, (student, teacher), directions)


CASES = json.loads((pathlib.Path(__file__).parents[1] / "golden" / "methods.json").read_text())


def rebuild(spec):
    rng = np.random.Generator(np.random.PCG64(spec["seed"]))
    x = spec.get("scale", 1.0) * rng.standard_normal(spec["shape"]) + spec.get("shift", 0.0)
    x = np.float32(x)
    return jnp.asarray(np.maximum(x, 0) if spec.get("relu") else x)


def arguments(case):
    """Arrays that go before the options, and the options."""
    options = dict(case["options"])
    if "labels" in case:
        return [jnp.array(case["labels"])], options
    if "raw_variance" in case["options"]:
        return [jax.nn.softplus(rebuild(options.pop("raw_variance"))) + 1e-5], options
    if "minus_margin" in case["options"]:
        return [-rebuild(options.pop("minus_margin"))], options
    return [], options


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=[case["case"] for case in CASES])
def test_public_code(case):
    modules = jax_irkd, cc
    [loss] = [f for m in modules if (f := getattr(m, f"{case['method']}_loss", None)) is not None]
    positional, options = arguments(case)
    many = isinstance(case["student"], list)
    student, teacher = (
        [rebuild(spec) for spec in (case[role] if many else [case[role]])]
        for role in ("student", "teacher")
    )

    def ours(student):
        pair = student, teacher
        if options.get("attention"):
            size = min(student[0].shape[1], teacher[0].shape[1])
            pair = [[energy(pooled(maps, size))] for (maps,) in pair]
        kept = {key: value for key, value in options.items() if key != "attention"}
        return loss(*(pair if many else [x[0] for x in pair]), *positional, **kept)

    value, gradients = jax.jit(jax.value_and_grad(ours))(student)
    np.testing.assert_allclose(value, case["loss"], rtol=2e-5)
    slope = sum(
        np.sum(g * np.random.Generator(np.random.PCG64(1000 + i)).standard_normal(g.shape))
        for i, g in enumerate(np.asarray(x, np.float64) for x in gradients)
    )
    np.testing.assert_allclose(slope, case["slope"], atol=1e-4 * case["norm"])


def pooled(maps, size):
    return jax_irkd.distillers._common.adaptive_average_pool(maps, (size, size))


@pytest.mark.parametrize("name", ZERO_AT_IDENTITY)
def test_zero_at_identity(name):
    student = as_float32(draw(name)[0])[0]
    value, gradients = both_gradients(name)(student, student)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    if name != "ft":  # has a kink there
        np.testing.assert_allclose(gradients, 0, atol=1e-6)


def hard(name):
    """Inputs on which a careless implementation divides by zero or overflows."""
    student, teacher = (np.float32(x) for x in draw(name))
    zero_row, equal = student.copy(), student.copy()
    zero_row[1], equal[2] = 0, equal[0]
    cases = {
        "zero row": (zero_row, teacher),
        "all zero": (0 * student, 0 * teacher),
        "equal rows": (equal, teacher),
        "large": (1e4 * student, 1e4 * teacher),
        "opposite": (student, -np.resize(student, teacher.shape)),
    }
    if name in SCALE_FREE:
        cases |= {f"times {scale}": (scale * student, teacher) for scale in (1e-8, 1e15, 1e30)}
    return cases


@pytest.mark.parametrize("name", LOSSES)
def test_hard_features_are_exact_and_have_finite_gradients(name):
    expected = LOSSES[name][1]
    function = both_gradients(name)
    for case, (student, teacher) in hard(name).items():
        value, gradients = function(*as_float32(student, teacher))
        assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients), case
        with np.errstate(invalid="ignore"):
            exact = expected(np.float64(student), np.float64(teacher))
        np.testing.assert_allclose(value, exact, rtol=1e-4, atol=1e-6, err_msg=case)


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKED)
def test_masked_clips_might_as_well_not_be_there(name):
    loss = LOSSES[name][0]
    student, teacher = as_float32(*draw(name))
    where = np.array([True, True, False, True, False])
    expected = loss(student[where], teacher[where])
    student, teacher = (x.at[2].set(jnp.nan) for x in (student, teacher))
    masked = jax.jit(jax.value_and_grad(functools.partial(loss, where=jnp.array(where))))
    value, gradient = masked(student, teacher)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_array_equal(gradient[~where], 0)


@pytest.mark.parametrize("name", RELATIONAL)
def test_relational_losses_see_the_clips_of_all_devices(name):
    loss = LOSSES[name][0]
    pair = as_float32(*draw(name))
    split = [x[:, None] for x in pair]  # a clip a device
    loss_of_all = functools.partial(loss, axis_name="devices")
    each = jax.jit(jax.vmap(loss_of_all, axis_name="devices"))(*split)
    np.testing.assert_allclose(each, np.full(5, both_gradients(name)(*pair)[0]), rtol=1e-5)


def test_margins_are_the_means_of_what_is_below_zero():
    maps = array([[1.0, 2.0], [-3.0, 4.0]], [[-1.0, 0.0], [5.0, 6.0]])
    np.testing.assert_allclose(negative_means(maps), [-2, 0])


def test_simkd_logits_are_the_classifier_on_the_mean_over_positions():
    maps, kernel, bias = RNG.random((2, 3, 2, 2, 4)), RNG.random((4, 5)), RNG.random(5)
    expected = maps.mean((1, 2, 3)) @ kernel + bias
    np.testing.assert_allclose(simkd_logits(*as_float32(maps, kernel, bias)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: crd_loss(*[jnp.ones((2, 3))] * 2, temperature=0), "temperature must be positive"),
        (lambda: mlkd_loss(*[jnp.ones((2, 3))] * 2, temperatures=()), "list of positive numbers"),
        (lambda: mlkd_loss(*[jnp.ones((2, 3))] * 2, temperatures=(1, -1)), "must be positive"),
        (lambda: ft_loss(*[jnp.ones((2, 3))] * 2, power=0), "power must be a whole number"),
        (lambda: fitnet_loss(jnp.ones((2, 3)), jnp.ones((2, 4))), "they must be equal"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("size", [(7, 5), (14, 10), (13, 9), (4, 17)])
def test_reviewkd_resizes_to_the_nearest_place_and_back(size):
    maps = jnp.asarray(RNG.normal(size=(2, 7, 5, 3)), jnp.float32)
    theirs = functools.partial(jax.image.resize, shape=(2, *size, 3), method="nearest")
    np.testing.assert_array_equal(nearest(maps, size), theirs(maps))
    pulls = [
        jax.grad(lambda x, resize=resize: jnp.sum(resize(x) ** 3))(maps)
        for resize in (theirs, lambda x: nearest(x, size))
    ]
    np.testing.assert_allclose(*pulls, rtol=1e-5)
