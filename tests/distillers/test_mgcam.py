"""MGCAM: equations, options, the near-uniformity of its attention, edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import distillers, mgcam_loss
from jax_irkd.distillers._graph import clip_graph, squared_distances
from jax_irkd.distillers.mgcam import attention_contrast, attention_matrices
from jax_irkd.models.outputs import Outputs
from tests.helpers import networks
from tests.helpers import reference_losses as reference
from tests.helpers.quick_compile import quick_compile  # noqa: F401

STUDENT_SHAPES = [(6, 6, 3), (3, 3, 5)]
TEACHER_SHAPES = [(6, 6, 4), (4, 3, 6)]


def draw(clips=4, seed=0, scale=1.0):
    """Maps after a ReLU of a student and a teacher with two stages, in float64."""
    rng = np.random.default_rng(seed)
    shapes = STUDENT_SHAPES, TEACHER_SHAPES
    return [
        [scale * np.maximum(rng.standard_normal((clips, *shape)), 0) for shape in stages]
        for stages in shapes
    ]


def as_float32(*values):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), list(values))


def both_gradients(**options):
    loss = functools.partial(mgcam_loss, **options)
    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))


def assert_finite(*trees):
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trees))


def test_by_hand():
    # Two equal clips: E = 1 everywhere, A = 1/2, maps 3 and 1: both clips get (3 - 1)^2 = 4.
    student = [jnp.full((2, 1, 1, 2), 3.0)]
    teacher = [jnp.full((2, 1, 1, 5), 1.0)]
    np.testing.assert_allclose(mgcam_loss(student, teacher), 4.0, rtol=1e-6)
    # One clip per network is 2 and 0, the other 0 and 2: differences 2, -2, averaged by A = 1/2
    # to 0, kept by the identity.
    student, teacher = (
        [jnp.array([2.0, 0]).reshape(2, 1, 1, 1)],
        [jnp.array([0, 2.0]).reshape(2, 1, 1, 1)],
    )
    np.testing.assert_allclose(mgcam_loss(student, teacher, attention="uniform"), 0, atol=1e-6)
    np.testing.assert_allclose(mgcam_loss(student, teacher, attention="identity"), 4.0, rtol=1e-6)
    # e = e^-2 off the diagonal of E, D = 1 + e; a row of A is the softmax of the scores below.
    e = np.exp(-2.0)
    scores = np.array([1 + e**2, 2 * e]) / (1 + e) ** 2 / np.sqrt(2)
    a, b = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(mgcam_loss(student, teacher), (2 * (a - b)) ** 2, rtol=1e-5)


OPTIONS = [
    {},
    {"pairs": "same"},
    {"attention": "uniform"},
    {"attention": "identity"},
    {"distance": "sum"},
    {"distance": "sum", "sigma": 5.0, "temperature": 0.1},
    {"sigma": 0.3},
    {"sigma": "median"},
    {"temperature": 1},
    {"activation": "mean_sq"},
    {"activation": "l2"},
    {"activation": "minmax"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("clips", [2, 5])
def test_value_against_float64(options, clips):
    maps = draw(clips)
    renamed = {{"attention": "attention_kind"}.get(name, name): x for name, x in options.items()}
    expected = reference.mgcam(*maps, **renamed)
    ours = jax.jit(functools.partial(mgcam_loss, **options))(*as_float32(*maps))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{}, {"distance": "sum", "sigma": 5.0, "temperature": 0.1}, {"activation": "l2"}],
    ids=str,
)
def test_both_gradients_against_float64(options):
    maps = draw(4)
    _, gradients = both_gradients(**options)(*as_float32(*maps))
    rng = np.random.default_rng(9)
    for side in (0, 1):
        for stage in range(2):
            direction = rng.standard_normal(maps[side][stage].shape)

            def loss(x, side=side, stage=stage):
                moved = [list(maps[0]), list(maps[1])]
                moved[side][stage] = x
                return reference.mgcam(*moved, **options)

            slope = reference.slope(loss, maps[side][stage], direction)
            ours = np.sum(np.asarray(gradients[side][stage], np.float64) * direction)
            np.testing.assert_allclose(ours, slope, rtol=2e-3, atol=1e-5)


@pytest.mark.slow
def test_normalisation_is_a_field_of_its_own():
    maps = as_float32(*draw())
    loss = jax.jit(mgcam_loss, static_argnames=("activation", "normalisation"))
    for activation, normalisation, same in [("mean_sq", "l2", "l2"), ("mean", "minmax", "minmax")]:
        ours = loss(*maps, activation=activation, normalisation=normalisation)
        np.testing.assert_allclose(ours, loss(*maps, activation=same), rtol=1e-5)


@pytest.mark.slow
def test_median_sigma_has_no_scale():
    maps = as_float32(*draw())
    graphs = [clip_graph(factor * maps[0][0], sigma="median") for factor in (1, 100.0)]
    np.testing.assert_allclose(*graphs, rtol=1e-4)
    assert graphs[0].min() > 0.05


def test_graphs_are_normalised():
    # Q is symmetric and not negative; D^(1/2) 1 is an eigenvector of its largest eigenvalue, 1.
    for maps in as_float32(*draw(8, scale=2.0))[0]:
        graph = np.asarray(clip_graph(maps), np.float64)
        np.testing.assert_allclose(graph, graph.T, rtol=1e-6)
        assert graph.min() >= 0
        values, vectors = np.linalg.eigh(graph)
        np.testing.assert_allclose(values[-1], 1, rtol=1e-6)
        flat = np.asarray(maps, np.float64).reshape(8, -1)
        degree = np.exp(-np.mean((flat[:, None] - flat) ** 2, -1) / 2).sum(1)
        np.testing.assert_allclose(graph @ np.sqrt(degree), np.sqrt(degree), rtol=1e-6)
        np.testing.assert_allclose(
            np.abs(vectors[:, -1]), np.sqrt(degree / degree.sum()), rtol=1e-4
        )


@pytest.mark.parametrize("options", [{}, {"distance": "sum"}, {"sigma": 0.05}, {"sigma": "median"}])
def test_the_printed_attention_is_nearly_uniform(options):
    # Scores lie in [0, 1/sqrt b]: at b = 8 no two weights of a row differ by more than 1.42.
    matrices = jax.jit(functools.partial(attention_matrices, **options))
    for seed in range(5):
        weights = matrices(*as_float32(*draw(8, seed, scale=3.0)))
        assert weights.shape == (2, 2, 8, 8)
        np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
        assert (weights.max(-1) / weights.min(-1)).max() < 1.4242
        top = np.exp(8**-0.5)
        assert weights.min() >= 1 / (1 + 7 * top) - 1e-6
        assert weights.max() <= top / (top + 7) + 1e-6
        assert 1 <= attention_contrast(weights) < 1.4242


def test_limits_of_sigma():
    maps = as_float32(*draw(8))
    np.testing.assert_allclose(attention_matrices(*maps, sigma=1e30), 1 / 8, rtol=1e-6)
    np.testing.assert_allclose(clip_graph(maps[0][0], sigma=1e-30), np.eye(8), atol=1e-6)
    top = np.exp(8**-0.5)
    expected = np.where(np.eye(8), top, 1) / (top + 7)
    sharp = attention_matrices(*maps, sigma=1e-6)
    np.testing.assert_allclose(sharp, np.broadcast_to(expected, sharp.shape), rtol=1e-5)


@pytest.mark.slow
def test_one_clip_attends_to_itself():
    maps = as_float32(*draw(1))
    value, gradients = both_gradients(sigma="median")(*maps)
    np.testing.assert_allclose(value, reference.mgcam(*draw(1), attention_kind="identity"), 1e-5)
    assert_finite(value, gradients)


def test_zero_at_identity():
    maps = as_float32(*draw())[0]
    value, gradients = both_gradients(pairs="same")(maps, maps)
    np.testing.assert_allclose(value, 0, atol=1e-12)
    for leaf in jax.tree.leaves(gradients):
        np.testing.assert_allclose(leaf, 0, atol=1e-6)


def test_order_of_the_clips_does_not_matter():
    maps = as_float32(*draw(6))
    moved = jax.tree.map(lambda x: x[np.array([3, 1, 5, 0, 2, 4])], maps)
    loss = jax.jit(mgcam_loss)
    np.testing.assert_allclose(loss(*moved), loss(*maps), rtol=1e-5)


@pytest.mark.slow
def test_equal_zero_and_large_clips_have_finite_gradients():
    student, teacher = as_float32(*draw())
    equal = jax.tree.map(lambda x: x.at[1].set(x[0]), (student, teacher))
    cases = {
        "equal": equal,
        "all equal": jax.tree.map(lambda x: jnp.repeat(x[:1], 4, 0), (student, teacher)),
        "zero row": jax.tree.map(lambda x: x.at[1].set(0), (student, teacher)),
        "zero": jax.tree.map(jnp.zeros_like, (student, teacher)),
        "large": jax.tree.map(lambda x: 1e4 * x, (student, teacher)),
        "tiny": jax.tree.map(lambda x: 1e-30 * x, (student, teacher)),
    }
    for options in ({"sigma": 1e-20, "distance": "sum"}, {"sigma": "median", "activation": "l2"}):
        function = both_gradients(**options)
        for pair in cases.values():
            assert_finite(function(*pair))
    bare = both_gradients(attention="identity", activation="minmax")(*cases["zero"])
    assert_finite(bare)


@pytest.mark.slow
def test_detach_stops_the_gradient_through_the_attention_only():
    maps = as_float32(*draw(8, scale=2.0))
    sharp = {"temperature": 0.05}
    (value, kept), (same, stopped) = (
        both_gradients(**sharp)(*maps),
        both_gradients(**sharp, detach=True)(*maps),
    )
    np.testing.assert_allclose(value, same, rtol=1e-6)
    assert np.abs(kept[0][0] - stopped[0][0]).max() > 0.01 * np.abs(kept[0][0]).max()
    # With the printed temperature the attention's share of the gradient is below 1 %.
    kept, stopped = both_gradients()(*maps)[1], both_gradients(detach=True)(*maps)[1]
    norm = np.linalg.norm
    assert norm(kept[0][0] - stopped[0][0]) < 0.01 * norm(kept[0][0])


@pytest.mark.slow
def test_many_vertices_use_the_expansion_with_the_same_result():
    rng = np.random.default_rng(5)
    frames = 3 + rng.standard_normal((40, 30))
    frames[7] = frames[3]
    exact = np.mean((frames[:, None] - frames[None]) ** 2, -1)
    ours = np.asarray(squared_distances(jnp.asarray(frames, jnp.float32), "mean"))
    np.testing.assert_allclose(ours, exact, rtol=1e-4, atol=1e-6)
    assert ours[3, 7] == 0 and np.all(np.diagonal(ours) == 0)
    for scale in (1e30, 1e-30):
        graph = jax.jit(jax.grad(lambda x: clip_graph(x).sum()))(
            jnp.asarray(scale * frames, jnp.float32)
        )
        assert_finite(graph)


@pytest.mark.slow
def test_bfloat16_and_vmap():
    maps = as_float32(*draw())
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), maps)
    whole = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    loss = jax.jit(mgcam_loss)
    assert loss(*half).dtype == jnp.float32
    np.testing.assert_allclose(loss(*half), loss(*whole), rtol=1e-6)
    stacked = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), maps)
    doubled = jax.tree.map(lambda x: 2 * x, maps)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(mgcam_loss))(*stacked), [loss(*maps), loss(*doubled)], rtol=1e-5
    )


def outputs(stages, segments=2):
    """Stage maps as clips whose segments differ but average to the maps."""
    features = {}
    for i, maps in enumerate(stages):
        shift = jnp.arange(segments) - (segments - 1) / 2
        features[f"stage{i + 1}"] = maps[:, None] + 0.1 * shift[:, None, None, None]
    return Outputs(jnp.zeros((len(stages[0]), 3)), features)


def apply(pair, labels=None, **fields):
    distiller = distillers.get("mgcam")(layers=("stage1", "stage2"), **fields)
    labels = jnp.zeros(len(pair[0].logits), jnp.int32)
    apply = functools.partial(distiller.apply, {}, mutable=["diagnostics"])
    return jax.jit(apply)(*pair, labels)


@pytest.mark.slow
def test_distiller_averages_segments_weighs_and_reports_the_contrast():
    student, teacher = as_float32(*draw())
    terms, updated = apply((outputs(student), outputs(teacher)), weight=2)
    np.testing.assert_allclose(terms["mgcam"], 2 * mgcam_loss(student, teacher), rtol=1e-5)
    (contrast,) = updated["diagnostics"]["contrast"]
    expected = attention_contrast(attention_matrices(student, teacher))
    np.testing.assert_allclose(contrast, expected, rtol=1e-5)


@pytest.mark.slow
def test_frames_as_vertices():
    student, teacher = as_float32(*draw())
    pair = outputs(student), outputs(teacher)
    terms, _ = apply(pair, vertex="frame")
    frames = [
        [o.features[f"stage{i}"].reshape(8, *o.features[f"stage{i}"].shape[2:]) for i in (1, 2)]
        for o in pair
    ]
    np.testing.assert_allclose(terms["mgcam"], mgcam_loss(*frames), rtol=1e-5)


@pytest.mark.slow
def test_the_learned_map_has_an_adapter_for_every_pair():
    student, teacher = as_float32(*draw())
    pair = outputs(student), outputs(teacher)
    distiller = distillers.get("mgcam")(layers=("stage1", "stage2"), activation="conv1x1")
    labels = jnp.zeros(4, jnp.int32)
    variables = jax.jit(distiller.init)(jax.random.key(0), *pair, labels)
    assert set(variables) == {"params", "batch_stats"}
    assert len(variables["params"]) == 4
    kernel = variables["params"]["adapter_stage1_stage2"]["Dense_0"]["kernel"]
    assert kernel.shape == (3, 6)

    def loss(params, student):
        updated = {**variables, "params": params}
        terms, _ = distiller.apply(updated, student, pair[1], labels, mutable=["batch_stats"])
        return terms["mgcam"]

    gradients = jax.jit(jax.grad(loss, argnums=(0, 1)))(variables["params"], pair[0])
    assert_finite(gradients)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradients[0]))


@pytest.mark.slow
def test_messages():
    student, teacher = as_float32(*draw())
    with pytest.raises(ValueError, match="the student has 1 stages and the teacher 2"):
        mgcam_loss(student[:1], teacher)
    with pytest.raises(
        ValueError, match=r"student's maps hold \[3, 3\] clips and the teacher's \[4, 4\]"
    ):
        mgcam_loss([maps[:3] for maps in student], teacher)
    with pytest.raises(ValueError, match=r"student_maps\[0\] must have the shape \(b h w c\)"):
        mgcam_loss([student[0][0]], teacher[:1])
    with pytest.raises(ValueError, match=r"unknown attention 'full'; choose one of \['graph'"):
        mgcam_loss(student, teacher, attention="full")
    with pytest.raises(ValueError, match=r"unknown pairs 'some'; choose one of \['all', 'same'\]"):
        mgcam_loss(student, teacher, pairs="some")
    with pytest.raises(
        ValueError, match="unknown sigma 'mean'; give a positive number or 'median'"
    ):
        mgcam_loss(student, teacher, sigma="mean")
    with pytest.raises(ValueError, match="sigma must be positive, got -1"):
        mgcam_loss(student, teacher, sigma=-1)
    with pytest.raises(ValueError, match="'conv1x1' is learned; use the Distiller"):
        mgcam_loss(student, teacher, activation="conv1x1")
    with pytest.raises(ValueError, match="unknown distance 'max'"):
        distillers.get("mgcam")(distance="max")
    with pytest.raises(ValueError, match="leave normalisation at 'none', got 'l2'"):
        distillers.get("mgcam")(activation="conv1x1", normalisation="l2")


@pytest.mark.parametrize("clips", [4, 20])
def test_gpus_take_care_without_deciding(clips, monkeypatch):
    x = networks.normal(clips, 6, 6, 3)

    def learn(x):
        return jax.value_and_grad(lambda x: (clip_graph(x) ** 2).sum())(x)

    asked = ["5.000000e-02" in text for text in networks.lowered(learn, x)]  # of the total
    assert asked == [False, True]
    wanted, slope = learn(x)
    monkeypatch.setattr(jax.lax, "platform_dependent", lambda *x, cuda, **others: cuda(*x))
    value, gradient = learn(x)
    np.testing.assert_allclose(value, wanted, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)
