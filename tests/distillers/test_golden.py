"""Every public reference case: loss within 1e-4, gradients within 1e-3 of their rms."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_irkd import distillers
from jax_irkd.distillers.at import at_loss
from jax_irkd.distillers.cc import cc_embedding_loss, cc_loss
from jax_irkd.distillers.ccskd import ccskd_channel_loss, schedule_factors, selective_st_loss
from jax_irkd.distillers.dkd import dkd_loss
from jax_irkd.distillers.rkd import rkd_loss
from jax_irkd.distillers.sp import sp_loss
from jax_irkd.distillers.st import st_loss
from jax_irkd.models.outputs import Outputs
from tests.helpers import golden_cases
from tests.helpers.quick_compile import quick_compile  # noqa: F401


def cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def over_stages(loss, inputs):
    return sum(loss(inputs[f"student{i}"], inputs[f"teacher{i}"]) for i in range(1, 5))


def channels(student, teacher):
    return ccskd_channel_loss(student.mean((1, 2)), teacher.mean((1, 2)))


def relations(student, teacher):
    pooled = student.mean((1, 2)), teacher.mean((1, 2))
    return rkd_loss(*pooled, distance_weight=1, angle_weight=2)


def dkd_total(inputs, hp):
    """The official total, its warm-up by way of the distiller."""
    distiller = distillers.get("dkd")(
        weight=1,
        target_weight=hp["alpha"],
        nontarget_weight=hp["beta"],
        temperature=hp["T"],
        warmup_epochs=hp["warmup"],
    )
    pair = Outputs(inputs["student"], {}), Outputs(inputs["teacher"], {})
    terms = distiller.apply({}, *pair, inputs["labels"], epoch=jnp.float32(hp["epoch"]))
    return cross_entropy(inputs["student"], inputs["labels"]) + terms["dkd"]


def loss_of(case, inputs):
    """The project's loss for a case. `inputs` are jax arrays, maps `b h w c`."""
    method, hp = case["method"], case["hparams"]
    student, teacher = inputs.get("student"), inputs.get("teacher")
    match method:
        case "kd":
            return st_loss(student, teacher, temperature=hp["T"])
        case "kd_total":
            kd = st_loss(student, teacher, temperature=hp["T"])
            return hp["ce_weight"] * cross_entropy(student, inputs["labels"]) + hp["kd_weight"] * kd
        case "dkd":
            weights = {"target_weight": hp["alpha"], "nontarget_weight": hp["beta"]}
            return dkd_loss(student, teacher, inputs["labels"], temperature=hp["T"], **weights)
        case "dkd_total":
            return dkd_total(inputs, hp)
        case "at" | "at_zoo":
            one = functools.partial(at_loss, power=hp["p"])
            return over_stages(one, inputs) if student is None else one(student, teacher)
        case "sp":
            return over_stages(sp_loss, inputs) if student is None else sp_loss(student, teacher)
        case "cc":
            return cc_embedding_loss(student, teacher)
        case "cc_taylor":
            return cc_loss(student, teacher, gamma=hp["gamma"], order=hp["P_order"])
        case "rkd":
            weights = {name: hp[name] for name in ("distance_weight", "angle_weight")}
            return rkd_loss(student, teacher, **weights)
        case "ccskd_feature":
            return over_stages(channels, inputs)
        case "ccskd_kdv2":
            decay = hp["factor"] ** (hp["epoch"] // 30)
            return selective_st_loss(student, teacher, inputs["labels"], decay=decay)


METHODS = sorted({case["method"] for case in golden_cases.cases()})


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_match_the_reference(method):
    cases = [case for case in golden_cases.cases() if case["method"] == method]
    inputs = [golden_cases.inputs(case) for case in cases]
    for case, (loss, gradients) in zip(cases, evaluate(cases, inputs), strict=True):
        check(case, loss, gradients)


def evaluate(cases, inputs):
    """(loss, gradients to the student) of all cases.

    In one program, which compiles faster; DKD's and KD's, many of a few shapes, one after another.
    """
    inputs = jax.tree.map(jnp.asarray, inputs)
    learning = [{name: x for name, x in i.items() if name.startswith("student")} for i in inputs]

    def run(learning, inputs):
        found = []
        for case, student, rest in zip(cases, learning, inputs):
            gradient, numbers = graded(case)
            found.append(gradient(student, rest, numbers))
        return found

    return (run if graded(cases[0])[1] else jax.jit(run))(learning, inputs)


def graded(case):
    """Loss and gradient of (student, other inputs, numbers), and a case's numbers, if they vary."""
    traced = case["method"] in ("dkd", "kd")
    numbers = {k: jnp.float32(v) for k, v in case["hparams"].items()} if traced else {}
    fixed = {} if traced else case["hparams"]
    return _graded(case["method"], json.dumps(fixed)), numbers


@functools.cache
def _graded(method, fixed):
    def value(student, rest, numbers):
        return loss_of({"method": method, "hparams": json.loads(fixed) | numbers}, rest | student)

    return jax.jit(jax.value_and_grad(value))


def check(case, loss, gradients):
    assert loss.dtype == jnp.float32
    assert all(np.isfinite(g).all() for g in gradients.values()), case["id"]
    compare = case["compare"]
    if compare == "abs":
        for value in (loss, *gradients.values()):
            np.testing.assert_allclose(value, 0, atol=1e-5, err_msg=case["id"])
        return
    expected = case["exact"]["loss"] if compare == "exact" else case["loss_f64"]
    np.testing.assert_allclose(loss, expected, rtol=1e-4, err_msg=case["id"])
    if compare == "reference":
        for name in case["grads"]:
            ours, reference = golden_cases.gradient_pair(case, name, np.asarray(gradients[name]))
            close(ours, reference, case["id"])
    if "exact" in case:
        stored = golden_cases.arrays(case["npz"])[case["exact"]["grad_key"]]
        close(np.asarray(gradients["student"]), stored, case["id"])


def close(ours, reference, name):
    rms = np.sqrt(np.mean(np.square(reference, dtype=np.float64)))
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-3 * rms, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ccskd_cd_b4", "ccskd_cd_b8"])
def test_ccskd_relations_match_the_reference(name):
    case = next(case for case in golden_cases.cases() if case["id"] == name)
    inputs = {name: jnp.asarray(x) for name, x in golden_cases.inputs(case).items()}
    loss = jax.jit(functools.partial(over_stages, relations))(inputs)
    np.testing.assert_allclose(loss, case["outputs_f64"]["rkd"], rtol=1e-4)


@pytest.mark.parametrize("schedule", ["cifar", "imagenet"])
def test_ccskd_schedule_is_the_official_one(schedule):
    # Weight of each part in the official code = its base weight times our factor.
    base = {"ce": 1, "kdv2": 0.1, "kd": 0.1, "cd": 6, "rkd": 6}
    ours = {"ce": "cross_entropy", "kdv2": "selective", "kd": "soft_targets"}
    ours |= {"cd": "channel", "rkd": "relation"}
    for row in golden_cases.index()["meta"]["ccskd_weight_schedule"][schedule]:
        factors = schedule_factors(row["epoch"], schedule)
        for name, factor in ours.items():
            np.testing.assert_allclose(base[name] * factors[factor], row[name], rtol=1e-6)
