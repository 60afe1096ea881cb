"""Finding methods, their fields, what they return, and what they say when something is wrong."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

import jax_irkd
from jax_irkd import distillers
from jax_irkd.distillers.at import at_loss
from jax_irkd.distillers.cc import cc_embedding_loss, cc_loss
from jax_irkd.distillers.ccskd import schedule_factors, selective_st_loss
from jax_irkd.distillers.dkd import dkd_loss
from jax_irkd.distillers.rkd import rkd_loss
from jax_irkd.distillers.sp import sp_loss
from jax_irkd.distillers.st import st_loss
from jax_irkd.models.outputs import Outputs
from jax_irkd.models.tsn import TSN
from tests.helpers.quick_compile import quick_compile  # noqa: F401

NAMES = ["at", "cc", "ccskd", "crd", "dist", "dkd", "fitnet", "fsp", "ft", "mgcam", "mlkd"]
NAMES += ["nst", "ofd", "pkt", "reviewkd", "rkd", "simkd", "sp", "st", "vid"]
STAGES = ("stage1", "stage2", "stage3", "stage4")

THROW_AWAY = """
import flax.linen as nn
import jax.numpy as jnp


class Distiller(nn.Module):
    weight: float = 2.0

    @nn.compact
    def __call__(self, student, teacher, labels, *, epoch=None):
        return {"distance": self.weight * jnp.mean((student.logits - teacher.logits) ** 2)}
"""


def outputs(seed, channels, clips=4, segments=2, classes=5):
    rng = np.random.default_rng(seed)
    features = {
        stage: jnp.asarray(rng.random((clips, segments, 5 - i, 5 - i, channels + i)), jnp.float32)
        for i, stage in enumerate(STAGES)
    }
    features |= {f"{stage}_preact": features[stage] - 0.3 for stage in STAGES}
    features["pooled"] = features["stage4"].mean((1, 2, 3))
    logits = 3 * rng.standard_normal((clips, classes))
    return Outputs(jnp.asarray(logits, jnp.float32), features)


STUDENT, TEACHER = outputs(0, 3), outputs(1, 6)
LABELS = jnp.array([0, 4, 2, 1])


def apply(distiller, student=STUDENT, teacher=TEACHER, labels=LABELS, **options):
    init = jax.jit(distiller.init)
    variables = init(jax.random.key(0), student, teacher, labels, **options)
    run = jax.jit(distiller.apply, static_argnames="mutable")
    mutable = ("batch_stats", "diagnostics")
    return run(variables, student, teacher, labels, mutable=mutable, **options)[0]


@functools.cache
def program(name):
    """The terms of a method as a function of its weight and the outputs of both networks."""
    kind = distillers.get(name)
    variables = jax.jit(kind().init)(jax.random.key(0), STUDENT, TEACHER, LABELS)
    mutable = ["batch_stats", "diagnostics"]
    return jax.jit(
        lambda weight, *pair: kind(weight=weight).apply(variables, *pair, LABELS, mutable=mutable)[
            0
        ]
    )


@functools.cache
def default_terms(name):
    return program(name)(distillers.get(name).weight, STUDENT, TEACHER)


def clip(outputs, stage):
    return outputs.features[stage].mean(1)


@pytest.fixture
def unchecked():
    """What a user sees: without the shape checks of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_methods_are_found_by_file_name():
    assert set(NAMES) <= set(distillers.names())  # a file more is a method more
    for name in NAMES:
        assert distillers.get(name).__module__ == f"jax_irkd.distillers.{name}"


@pytest.mark.parametrize("name", ["spp", "_common", "", "Sp"])
def test_unknown_methods_list_the_known(name):
    with pytest.raises(ValueError) as error:
        distillers.get(name)
    assert str(error.value) == f"unknown distiller {name!r}; choose one of {distillers.names()}"


def test_a_new_method_is_one_new_file(tmp_path, monkeypatch):
    package = tmp_path / "my_methods"
    package.mkdir()
    (package / "distance.py").write_text(THROW_AWAY)
    (package / "empty.py").write_text("")
    (package / "broken.py").write_text("import no_such_library")
    monkeypatch.syspath_prepend(tmp_path)
    terms = apply(distillers.get("my_methods.distance")(weight=3.0))
    expected = 3 * jnp.mean((STUDENT.logits - TEACHER.logits) ** 2)
    np.testing.assert_allclose(terms["distance"], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"'my_methods\.empty'; the module has no"):
        distillers.get("my_methods.empty")
    with pytest.raises(ModuleNotFoundError, match="no_such_library"):
        distillers.get("my_methods.broken")
    for missing in ("my_methods.none", "no_such_package.method"):
        with pytest.raises(ValueError, match=f"unknown distiller '{missing}'; there is no such"):
            distillers.get(missing)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_terms_are_float32_scalars_that_scale_with_the_weight(name):
    terms = default_terms(name)
    doubled = program(name)(2 * distillers.get(name).weight, STUDENT, TEACHER)
    assert terms.keys() == doubled.keys() and all(key.startswith(name) for key in terms)
    for key, term in terms.items():
        assert term.shape == () and term.dtype == jnp.float32
        np.testing.assert_allclose(doubled[key], 2 * term, rtol=1e-5)
    assert sum(terms.values()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_outputs_give_float32_terms(name):
    half = [
        Outputs(o.logits, jax.tree.map(lambda x: x.astype(jnp.bfloat16), o.features))
        for o in (STUDENT, TEACHER)
    ]
    terms = program(name)(distillers.get(name).weight, *half)
    whole = default_terms(name)
    for key, term in terms.items():
        assert term.dtype == jnp.float32
        np.testing.assert_allclose(term, whole[key], rtol=0.1, atol=1e-2)


@pytest.mark.slow
def test_the_teacher_gets_no_gradient():
    chosen = ("at", "cc", "ccskd", "dkd", "mgcam", "ofd", "rkd", "sp", "st")  # read every feature
    made = {name: distillers.get(name)() for name in chosen}
    variables = {
        name: jax.jit(distiller.init)(jax.random.key(0), STUDENT, TEACHER, LABELS)
        for name, distiller in made.items()
    }

    def loss(student, teacher):
        terms = [
            made[name].apply(own, student, teacher, LABELS, mutable=["batch_stats"])[0]
            for name, own in variables.items()
        ]
        return sum(sum(term.values()) for term in terms)

    student, teacher = jax.jit(jax.grad(loss, argnums=(0, 1)))(STUDENT, TEACHER)
    for leaf in jax.tree.leaves(teacher):
        np.testing.assert_array_equal(leaf, 0)
    for leaf in jax.tree.leaves(student):
        assert np.abs(leaf).max() > 0


@pytest.mark.slow
def test_defaults_and_presets():
    def value(name, **fields):
        terms = apply(distillers.get(name)(**fields)) if fields else default_terms(name)
        return sum(terms.values())

    pairs = [(clip(STUDENT, stage), clip(TEACHER, stage)) for stage in STAGES]
    at, sp = (
        jax.jit(lambda: [at_loss(*p) for p in pairs]),
        jax.jit(lambda: [sp_loss(*p) for p in pairs]),
    )
    at, sp = np.array(at()), np.array(sp())
    pooled = STUDENT.features["pooled"], TEACHER.features["pooled"]
    logits = STUDENT.logits, TEACHER.logits
    expected = [
        (value("at"), 1000 * at.mean()),
        (value("at", reduce="sum"), 1000 * at.sum()),
        (value("sp"), 3000 * sp.mean()),
        (value("sp", layers=("stage4",)), 3000 * sp[3]),
        (value("cc"), 100 * cc_loss(*pooled)),
        (value("rkd"), jax.jit(rkd_loss)(*pooled)),
        (value("st"), 0.1 * st_loss(*logits)),
        (value("dkd"), 0.1 * dkd_loss(*logits, LABELS)),
    ]
    for ours, theirs in expected:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_frames_as_vertices_of_the_relational_methods():
    frames = [o.features["stage4"].mean((2, 3)).reshape(8, -1) for o in (STUDENT, TEACHER)]
    terms = apply(distillers.get("rkd")(layer="stage4", vertex="frame"))
    np.testing.assert_allclose(sum(terms.values()), jax.jit(rkd_loss)(*frames), rtol=1e-4)
    with pytest.raises(
        ValueError, match="feature 'pooled' holds clips; vertex='frame' needs a map"
    ):
        apply(distillers.get("rkd")(vertex="frame"))


def test_cc_embedding_is_learned():
    distiller = distillers.get("cc")(form="embedding", weight=0.02, size=7)
    variables = distiller.init(jax.random.key(0), STUDENT, TEACHER, LABELS)
    params = variables["params"]
    assert params["student"]["kernel"].shape == (6, 7) and params["teacher"]["bias"].shape == (7,)
    embedded = [
        o.features["pooled"] @ params[name]["kernel"] + params[name]["bias"]
        for name, o in (("student", STUDENT), ("teacher", TEACHER))
    ]
    terms = distiller.apply(variables, STUDENT, TEACHER, LABELS)
    np.testing.assert_allclose(terms["cc"], 0.02 * cc_embedding_loss(*embedded), rtol=1e-4)


@pytest.mark.slow
def test_ccskd_connectors_are_learned():
    distiller = distillers.get("ccskd")()
    variables = jax.jit(distiller.init)(jax.random.key(0), STUDENT, TEACHER, LABELS)
    assert set(variables) == {"params", "batch_stats"}
    for i, stage in enumerate(STAGES):
        kernel = variables["params"][f"connector_{stage}"]["Dense_0"]["kernel"]
        assert kernel.shape == (3 + i, 6 + i)
    terms = default_terms("ccskd")
    selective = selective_st_loss(STUDENT.logits, TEACHER.logits, LABELS)
    np.testing.assert_allclose(terms["ccskd_selective"], 0.1 * selective, rtol=1e-5)
    assert terms["ccskd_channel"] > 0 and terms["ccskd_relation"] > 0


@pytest.mark.slow
def test_dkd_warm_up_follows_the_epoch():
    full = default_terms("dkd")["dkd"]
    warm = distillers.get("dkd")(warmup_epochs=20)
    for epoch, factor in [(1.0, 0.05), (10.0, 0.5), (20.0, 1.0), (80.0, 1.0)]:
        term = apply(warm, epoch=jnp.float32(epoch))["dkd"]
        np.testing.assert_allclose(term, factor * full, rtol=1e-5)


@pytest.mark.slow
def test_ccskd_schedule_switches_the_cross_entropy_off_at_first():
    distiller = distillers.get("ccskd")(schedule="cifar", num_epochs=80)
    picked = jnp.take_along_axis(jax.nn.log_softmax(STUDENT.logits), LABELS[:, None], 1)
    off = apply(distiller, epoch=jnp.float32(24))
    np.testing.assert_allclose(off["ccskd_cross_entropy"], picked.mean(), rtol=1e-5)
    assert off["ccskd_selective"] == 0
    on = apply(distiller, epoch=jnp.float32(25))
    assert on["ccskd_cross_entropy"] == 0 and on["ccskd_selective"] > 0


@pytest.mark.parametrize(("schedule", "epochs"), [("cifar", 80), ("imagenet", 30), ("cifar", 7)])
def test_ccskd_first_phase_is_30_percent_of_the_run(schedule, epochs):
    off = [
        epoch
        for epoch in range(1, epochs + 1)
        if schedule_factors(jnp.float32(epoch), schedule, epochs)["cross_entropy"] == 0
    ]
    assert off == [epoch for epoch in range(1, epochs + 1) if 10 * epoch <= 3 * epochs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"), [("dkd", {"warmup_epochs": 20}), ("ccskd", {"schedule": "cifar"})]
)
def test_a_schedule_needs_the_epoch(name, fields):
    distiller = distillers.get(name)(**fields)
    variables = jax.jit(distiller.init)(jax.random.key(0), STUDENT, TEACHER, LABELS)
    with pytest.raises(
        ValueError, match=r"needs the current epoch; pass epoch=\.\.\., counted from 1"
    ):
        distiller.apply(variables, STUDENT, TEACHER, LABELS, mutable=["batch_stats"])


@pytest.mark.parametrize("name", NAMES)
def test_wrong_fields_are_named(name, unchecked):
    kind = distillers.get(name)
    for wrong in ("0.1", None, [1.0], True, float("nan"), float("inf")):
        with pytest.raises(ValueError) as error:
            kind(weight=wrong)
        assert str(error.value).startswith(f"weight must be a finite number, got {wrong!r}")
    if hasattr(kind, "layers"):
        for wrong in ("stage4", (), 4, (4,)):
            with pytest.raises(ValueError, match="layers must be a list of names such as"):
                kind(layers=wrong)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("at", {"reduce": "max"}, r"unknown reduce 'max'; choose one of \['mean', 'sum'\]"),
        ("sp", {"vertex": "pixel"}, r"unknown vertex 'pixel'; choose one of \['clip', 'frame'\]"),
        ("cc", {"form": "td"}, r"unknown form 'td'; choose one of \['kernel', 'embedding'"),
        ("ccskd", {"schedule": "step"}, r"unknown schedule 'step'; choose one of \['constant'"),
        ("ccskd", {"num_epochs": 0}, "num_epochs must be positive, got 0"),
        ("mgcam", {"sigma": "half"}, "unknown sigma 'half'; give a positive number or 'median'"),
        ("mgcam", {"detach": "yes"}, "detach must be True or False, got 'yes'"),
        ("mgcam", {"temperature": 0}, "temperature must be positive, got 0"),
        ("ft", {"form": "factor"}, r"unknown form 'factor'; choose one of \['attention', 'para"),
        ("crd", {"negatives": "some"}, r"unknown negatives 'some'; choose one of \['other_classes"),
        ("mlkd", {"temperatures": 4.0}, "temperatures must be a list of positive numbers, got 4.0"),
        ("fsp", {"layers": ("stage4",)}, "layers must name at least two stages"),
        ("vid", {"variance": 0}, "variance must be positive, got 0"),
    ],
)
def test_wrong_choices_are_named(name, fields, message, unchecked):
    with pytest.raises(ValueError, match=message):
        distillers.get(name)(**fields)


@pytest.mark.parametrize(
    "name", ["at", "sp", "ccskd", "mgcam", "cc", "rkd", "fitnet", "reviewkd", "crd"]
)
def test_a_missing_feature_is_named(name):
    kind = distillers.get(name)
    field = {"layers": ("stage5",)} if hasattr(kind, "layers") else {"layer": "stage5"}
    with pytest.raises(ValueError) as error:
        kind(**field).init(jax.random.key(0), STUDENT, TEACHER, LABELS)
    offers = sorted(STUDENT.features)
    assert str(error.value) == f"the model has no feature 'stage5'; it offers {offers}"


@pytest.mark.parametrize("name", NAMES)
def test_batches_must_agree(name):
    shorter = jax.tree.map(lambda x: x[:3], TEACHER)
    with pytest.raises(ValueError, match=r"4\b.*\b3\b.* must (all )?describe the same batch"):
        apply(distillers.get(name)(), teacher=shorter)


@functools.cache
def real_shapes():
    """What a ResNet-18 student and a ResNet-50 teacher return for two clips of four segments."""

    def run(depth, clips):
        model = TSN(num_classes=10, depth=depth)
        return model.init_with_output(jax.random.key(0), clips, train=False)[0]

    clips = [jax.ShapeDtypeStruct((2, 4, 112, 112, c), jnp.float32) for c in (1, 3)]
    return [jax.eval_shape(functools.partial(run, d), c) for d, c in zip((18, 50), clips)]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_method_fits_a_small_student_of_a_large_teacher(name):
    distiller, pair = distillers.get(name)(), real_shapes()
    labels = jnp.zeros(2, int)
    variables = jax.eval_shape(distiller.init, jax.random.key(0), *pair, labels)

    def loss(params, student, teacher, statistics):
        own = {"params": params, "batch_stats": statistics}
        terms, _ = distiller.apply(own, student, teacher, labels, mutable=["batch_stats"])
        return sum(terms.values())

    params, statistics = (variables.get(name, {}) for name in ("params", "batch_stats"))
    gradients = jax.eval_shape(jax.grad(loss, argnums=(0, 1)), params, *pair, statistics)
    assert jax.tree.structure(gradients) == jax.tree.structure((params, pair[0]))


@pytest.mark.slow
def test_every_method_takes_the_labels_of_mixed_clips():
    pair, soft = real_shapes(), jax.ShapeDtypeStruct((2, 10), jnp.float32)
    for name in NAMES:
        jax.eval_shape(distillers.get(name)().init, jax.random.key(0), *pair, soft)


@pytest.mark.slow
def test_dkd_of_mixed_clips_has_two_targets():
    share, others = jnp.array([0.3, 0.6, 1.0, 0.5]), (LABELS + 2) % 5
    mixed = share[:, None] * jax.nn.one_hot(LABELS, 5)
    mixed += (1 - share[:, None]) * jax.nn.one_hot(others, 5)
    networks = STUDENT.logits, TEACHER.logits
    parts = (dkd_loss(*networks, LABELS, reduction="none") * share).mean()
    parts += (dkd_loss(*networks, others, reduction="none") * (1 - share)).mean()
    distiller = distillers.get("dkd")(weight=1.0)
    np.testing.assert_allclose(apply(distiller, labels=mixed)["dkd"], parts, rtol=1e-5)
    whole = apply(distiller, labels=jax.nn.one_hot(LABELS, 5))["dkd"]
    np.testing.assert_allclose(whole, apply(distiller)["dkd"], rtol=1e-6)


@pytest.mark.slow
def test_labels_are_checked():
    for name, fields in (("dkd", {}), ("ccskd", {"layers": ("stage4",)})):
        distiller = distillers.get(name)(**fields)
        with pytest.raises(ValueError, match="labels must be 4 integers, one per clip"):
            apply(distiller, labels=LABELS[:3])
        with pytest.raises(ValueError, match=r"labels must lie in 0\.\.4 \(5 classes\), got \[5\]"):
            distiller.init(jax.random.key(0), STUDENT, TEACHER, LABELS.at[0].set(5))


@pytest.mark.slow
def test_importing_a_loss_loads_nothing_heavy():
    heavy = ["orbax", "grain", "tensorflow_datasets", "cv2", "matplotlib", "tensorflow", "av"]
    code = f"""
import sys
from jax_irkd import {", ".join(name for name in jax_irkd.__all__ if name.endswith("_loss"))}
print([name for name in {heavy} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
