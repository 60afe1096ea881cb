"""The second presets of methods whose public codes differ, as flags give them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd import command_line
from jax_irkd.models.outputs import Outputs
from jax_irkd.training import setup
from tests.helpers import reference_losses as reference
from tests.helpers.quick_compile import quick_compile  # noqa: F401

STAGES = ("stage1", "stage2", "stage3", "stage4")


def outputs(seed, channels, clips=4, classes=5):
    rng = np.random.default_rng(seed)
    features = {
        stage: rng.random((clips, 2, 4 - i, 4 - i, channels)) for i, stage in enumerate(STAGES)
    }
    features["pooled"] = features["stage4"].mean((1, 2, 3))
    return Outputs(3 * rng.standard_normal((clips, classes)), features)


STUDENT, TEACHER = outputs(0, 3), outputs(1, 5)
LABELS = np.array([0, 4, 2, 1])


def terms(method, *fields, epoch=1.0):
    """The terms of `method` with flags such as `st.weight=0.9`, and its variables."""
    flags = [f"--config.distillers.{field}" for field in fields]
    parsed = command_line.parse(
        [f"--config=configs/demo.py:method={method},weights=published", *flags],
        lambda values: None,
    )
    distiller = setup.make_distillers(parsed.config.distillers)[method]
    if hasattr(distiller, "axis_name"):
        distiller = distiller.clone(axis_name=None)
    pair = [jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), o) for o in (STUDENT, TEACHER)]
    arguments = (*pair, jnp.asarray(LABELS))
    variables = jax.jit(distiller.init)(jax.random.key(0), *arguments)
    found, _ = jax.jit(
        lambda v, e: distiller.apply(v, *arguments, epoch=e, mutable=["batch_stats"])
    )(variables, jnp.float32(epoch))
    return found, jax.device_get(variables)


def maps(outputs, stage):
    return outputs.features[stage].mean(1)


def cross_entropy():
    return -np.mean(reference.log_softmax(STUDENT.logits)[np.arange(4), LABELS])


@pytest.mark.slow
@pytest.mark.parametrize(("kept", "weight", "temperature"), [(0.1, 0.9, 4.0), (0.5, 0.5, 1.0)])
def test_soft_targets_beside_part_of_the_cross_entropy(kept, weight, temperature):
    found, _ = terms(
        "st",
        f"st.weight={weight}",
        f"st.cross_entropy_weight={kept}",
        f"st.temperature={temperature}",
    )
    expected = kept * cross_entropy() + weight * reference.st(
        STUDENT.logits, TEACHER.logits, temperature
    )
    np.testing.assert_allclose(sum(found.values()) + cross_entropy(), expected, rtol=1e-5)
    assert set(terms("st")[0]) == {"st"}


@pytest.mark.slow
def test_sums_over_stages_and_the_last_stage():
    each = [reference.at(maps(STUDENT, stage), maps(TEACHER, stage)) for stage in STAGES]
    np.testing.assert_allclose(terms("at", "at.reduce=sum")[0]["at"], 1000 * sum(each), rtol=1e-4)
    last = reference.sp(maps(STUDENT, "stage4"), maps(TEACHER, "stage4"))
    found, _ = terms("sp", "sp.layers=('stage4',)")
    np.testing.assert_allclose(found["sp"], 3000 * last, rtol=1e-4)


@pytest.mark.parametrize(
    ("form", "weight", "loss"),
    [
        ("embedding", 0.02, reference.cc_embedding),
        ("embedding_kernel", 0.003, reference.cc_embedding_kernel),
    ],
)
def test_correlations_of_learned_embeddings(form, weight, loss):
    found, variables = terms("cc", f"cc.form={form}", f"cc.weight={weight}", "cc.size=7")
    embedded = []
    for name, own in (("student", STUDENT), ("teacher", TEACHER)):
        layer = {k: np.float64(v) for k, v in variables["params"][name].items()}
        assert layer["kernel"].shape[1] == 7
        embedded.append(own.features["pooled"] @ layer["kernel"] + layer["bias"])
    np.testing.assert_allclose(found["cc"], weight * loss(*embedded), rtol=1e-4)


def test_relations_of_metric_learning_and_of_frames():
    found, _ = terms("rkd", "rkd.distance_weight=1", "rkd.angle_weight=2")
    pooled = STUDENT.features["pooled"], TEACHER.features["pooled"]
    np.testing.assert_allclose(sum(found.values()), reference.rkd(*pooled, 1, 2), rtol=1e-4)
    frames = [o.features["stage4"].mean((2, 3)).reshape(8, -1) for o in (STUDENT, TEACHER)]
    found, _ = terms("rkd", "rkd.layer=stage4", "rkd.vertex=frame")
    np.testing.assert_allclose(sum(found.values()), reference.rkd(*frames), rtol=1e-4)


def test_the_official_decoupled_weights():
    fields = ("dkd.weight=1", "dkd.target_weight=1", "dkd.nontarget_weight=8")
    found, _ = terms("dkd", *fields, "dkd.warmup_epochs=20", epoch=5.0)
    expected = 0.25 * reference.dkd(STUDENT.logits, TEACHER.logits, LABELS, 1, 8)
    np.testing.assert_allclose(found["dkd"], expected, rtol=1e-4)


@pytest.mark.slow
def test_the_official_schedule_stretched():
    fields = ("ccskd.schedule=cifar", "ccskd.num_epochs=80", "ccskd.layers=('stage4',)")
    found, _ = terms("ccskd", *fields, epoch=20.0)
    np.testing.assert_allclose(found["ccskd_cross_entropy"], -cross_entropy(), rtol=1e-5)
    constant, _ = terms("ccskd", "ccskd.layers=('stage4',)")
    assert "ccskd_cross_entropy" not in constant


@pytest.mark.slow
def test_mgcam_takes_a_number_or_the_median_for_sigma():
    values = [
        terms("mgcam", f"mgcam.sigma={sigma}")[0]["mgcam"] for sigma in ("1", "0.1", "median")
    ]
    assert len({float(value) for value in values}) == 3
