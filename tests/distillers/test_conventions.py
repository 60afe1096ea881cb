"""What all losses take alike: masks, weights, reductions, axes, labels, scalar hyper-parameters."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jax_irkd
from jax_irkd.distillers.cc import cc_embedding_kernel_loss, cc_embedding_loss
from tests.helpers.loss_table import CLASSES, CLIPS, LABELS, ROWS, draw, loss_of
from tests.helpers.quick_compile import quick_compile  # noqa: F401

KEEP = np.array([1, 1, 0, 1, 0, 1, 1, 0], bool)
PARTS = ("rkd_distance_loss", "rkd_angle_loss", "simkd_loss")  # other rows' code
every_loss = pytest.mark.parametrize("title", [title for title in ROWS if title not in PARTS])
LABELLED = [title for title in ROWS if ROWS[title].labelled]


@pytest.mark.slow
@every_loss
def test_masks_weights_and_reductions(title):
    student, teacher = draw(title)
    weights = jnp.arange(CLIPS, dtype=jnp.float32)

    @jax.jit
    def masked(student, where):
        if not ROWS[title].each:
            return *jax.value_and_grad(loss_of(title, where=where))(student, teacher), {}
        each = loss_of(title, where=where, reduction="none")(student, teacher)
        total = loss_of(title, where=where, weights=weights, reduction="sum")
        mean = loss_of(title, where=where, weights=weights)(student, teacher)
        _, gradient = jax.value_and_grad(total)(student, teacher)
        value = loss_of(title, where=where)(student, teacher)
        more = {"each": each, "total": total(student, teacher), "mean": mean}
        return value, gradient, more

    pair = jax.tree.map(lambda x: x[KEEP], (student, teacher))
    expected = jax.jit(loss_of(title, LABELS[KEEP]))(*pair)
    # Padding of any value has neither value nor gradient.
    value, gradient, more = masked(jax.tree.map(lambda x: x.at[~KEEP].set(jnp.nan), student), KEEP)
    np.testing.assert_allclose(value, expected, rtol=2e-5)
    for leaf in jax.tree.leaves(gradient):
        np.testing.assert_array_equal(leaf[~KEEP], 0)
        assert np.isfinite(leaf).all() and np.abs(leaf[KEEP]).max() > 0
    if more:
        each = more["each"]
        assert each.shape == (CLIPS,)
        np.testing.assert_array_equal(each[~KEEP], 0)
        np.testing.assert_allclose(each.sum() / KEEP.sum(), expected, rtol=2e-5)
        np.testing.assert_allclose(more["total"], np.sum(weights * each), rtol=2e-5)
        np.testing.assert_allclose(more["mean"], more["total"] / KEEP.sum(), rtol=2e-5)
    value, gradient, _ = masked(student, np.zeros(CLIPS, bool))
    assert value == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(gradient))


minmax_mgcam = functools.partial(jax_irkd.mgcam_loss, attention="uniform", activation="minmax")
OTHERS = [  # of the shapes of a row
    pytest.param("crd_loss", cc_embedding_loss, id="cc_embedding"),
    pytest.param("crd_loss", cc_embedding_kernel_loss, id="cc_embedding_kernel"),
    pytest.param("mgcam_loss", minmax_mgcam, id="mgcam_minmax"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "loss"),
    [pytest.param(title, None, id=title) for title in ROWS if title not in PARTS] + OTHERS,
)
def test_nan_is_no_agreement(title, loss):
    """Of either network, in one number or in all: an update is rejected, not taught nothing."""
    loss = jax.jit(loss or loss_of(title))
    for side in range(2):
        for where in (0, slice(None)):

            def spoilt(x, where=where):
                return x.ravel().at[where].set(jnp.nan).reshape(x.shape)

            given = draw(title)
            given[side] = jax.tree.map(spoilt, given[side])
            assert np.isnan(loss(*given)), (side, where)


@pytest.mark.parametrize("title", [title for title in ROWS if title.endswith("loss")])
def test_messages_name_the_loss(title):
    """Under tracing, so that nothing is computed: every mistake shows before."""
    student, teacher = draw(title)
    shorter = jax.tree.map(lambda x: x[:3], teacher)
    wrong = [
        ({"where": KEEP[:3]}, r"where has the shape \(3,\); it must broadcast to \(8,\)"),
        ({"where": LABELS}, "where must be bool, got int32; try where != 0"),
    ]
    if ROWS[title].each:
        wrong += [
            ({"weights": LABELS[:3]}, r"weights has the shape \(3,\)"),
            ({"reduction": "max"}, r"unknown reduction 'max'; choose one of \['mean', 'sum', 'n"),
        ]
    if ROWS[title].logits:
        wrong += [({"axis": 2}, "axis must be one of the 2 axes, got 2")]
    for key, parameter in inspect.signature(getattr(jax_irkd, title)).parameters.items():
        if isinstance(parameter.default, str):
            wrong += [({key: "?"}, rf"unknown {key} '\?'; choose one of ")]
    for key in ROWS[title].numbers:
        shapes = jnp.ones(1), jnp.ones(CLIPS), np.ones((1, 1))
        scalar = f"{key} must be a number, got an array of shape"
        wrong += [({key: value}, scalar) for value in shapes]
        wrong += [({key: float("nan")}, rf"{key} must be a finite number, got nan \(float\)")]
        if key == "temperature":
            hottest = ROWS[title].hottest
            out = rf"temperature must be from 1e-30 to {hottest:g}, got ".replace("+", r"\+")
            wrong += [({key: value}, out) for value in (1e-38, 9e-31, 1.1 * hottest)]
            wrong += [({key: 0.0}, r"temperature must be positive, got 0\.0")]
        with pytest.raises(ValueError, match=f"{title}: {scalar}"):
            jax.eval_shape(
                lambda x, key=key: loss_of(title, **{key: x})(student, teacher), jnp.ones(1)
            )
    if title == "mgcam_loss":
        wrong += [({"activation": "conv1x1"}, "activation 'conv1x1' is learned")]
        wrong += [({"activation": "l2", "normalisation": "l2"}, "activation 'l2' takes no ")]
    for options, message in wrong:
        with pytest.raises(ValueError, match=f"{title}: {message}"):
            jax.eval_shape(loss_of(title, **options), student, teacher)
    for pair in ((student, shorter), (shorter, teacher), ("logits", teacher), (student, None)):
        with pytest.raises(ValueError, match=f"{title}: "):
            jax.eval_shape(functools.partial(loss_of(title), *pair))
    complex_pair = jax.tree.map(lambda x: x + 1j, (student, teacher))
    with pytest.raises(ValueError, match=f"{title}: .* must be real, got complex64"):
        jax.eval_shape(loss_of(title), *complex_pair)


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title in ROWS if ROWS[title].logits])
def test_leading_axes_and_any_axis(title):
    rng = np.random.default_rng(2)
    student, teacher = jnp.asarray(rng.standard_normal((2, 3, 5, CLASSES)), jnp.float32)
    labels = rng.integers(0, CLASSES, (3, 5))
    options = {"reduction": "none"} if ROWS[title].each else {}

    @jax.jit
    def run(student, teacher):
        flat = [x.reshape(15, CLASSES) for x in (student, teacher)]
        moved = [jnp.moveaxis(x, -1, 1) for x in (student, teacher)]
        return (
            loss_of(title, labels.reshape(15), **options)(*flat),
            loss_of(title, labels, **options)(student, teacher),
            loss_of(title, labels, axis=1, **options)(*moved),
        )

    flat, found, moved = run(student, teacher)
    expected = flat.reshape(3, 5) if options else flat
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(moved, expected, rtol=1e-6, atol=1e-7)
    if title in LABELLED:
        known = np.where(np.arange(5) < 3, labels, -100)
        one_hot = np.eye(CLASSES, dtype=np.float32)[labels]

        @jax.jit
        def labelled(padded):
            return (
                loss_of(title, known, ignore_index=-100)(student, teacher),
                loss_of(title, padded, ignore_index=-100)(student, teacher),
                loss_of(title, one_hot)(student, teacher),
            )

        means = expected[:, :3].mean(), expected[:, :3].mean(), expected.mean()
        np.testing.assert_allclose(labelled(known), means, rtol=1e-5)


@pytest.mark.slow
def test_soft_labels():
    student, teacher = draw("dkd_loss")
    soft = 0.7 * np.eye(CLASSES) + 0.3 * np.eye(CLASSES)[::-1]
    with pytest.raises(ValueError, match="For mixup take share"):
        jax_irkd.dkd_loss(student, teacher, soft)
    with pytest.raises(ValueError, match="distributions over the classes, not negative"):
        jax_irkd.selective_st_loss(student, teacher, 2 * soft)
    # m = 1 + what the label gives the teacher's first choice: linear, so by way of one-hot ones.
    choice = np.argmax(teacher, 1)
    m = 1 + soft[np.arange(CLIPS), choice]
    right, wrong, found = (
        jax.jit(loss_of("selective_st_loss", y, reduction="none"))(student, teacher)
        for y in (choice, (choice + 1) % CLASSES, soft)
    )
    log_q = jax.nn.log_softmax(teacher)
    entropy = jnp.sum(jnp.exp(log_q) * log_q, -1)
    expected = m**2 * wrong + m * (1 - m) * entropy + m * np.log(m)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(right, 4 * wrong - 2 * entropy + 2 * np.log(2), rtol=1e-4, atol=1e-5)
