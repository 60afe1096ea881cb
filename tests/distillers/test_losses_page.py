"""The Python of docs/losses.md runs as printed, where what it imports is installed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_irkd import crd_loss, ft_loss, rkd_loss
from tests.helpers import ROOT
from tests.helpers.quick_compile import quick_compile  # noqa: F401

PAGE = (ROOT / "docs" / "losses.md").read_text("utf-8")
PARTS = re.split(r"```python\n(.*?)```\n", PAGE, flags=re.DOTALL)  # words, code, words, ...
TITLES = [re.findall(r"^\*\*(.+?)\.\*\*", words, re.MULTILINE) for words in PARTS[:-1:2]]
BLOCKS = [(found[-1] if found else "first", code) for found, code in zip(TITLES, PARTS[1::2])]


def given():
    """The arrays that a reader has: logits of 8 clips and 10 classes, of 8 sequences, features."""

    def draw(*shape):
        return jnp.asarray(rng.standard_normal(shape), jnp.float32)

    rng = np.random.default_rng(0)
    return {
        "jax": jax,
        "student_logits": draw(8, 10),
        "teacher_logits": draw(8, 10),
        "labels": jnp.arange(8),
        "mask": jnp.arange(8) < 6,
        "confidence": jnp.ones(8),
        "x": draw(8, 8),
        "kernel": draw(8, 5),
        "taught": draw(8, 3),
        "tokens": jnp.asarray(rng.integers(1, 10, (8, 4)) * (np.arange(4) < 3)),
        "token_logits": draw(8, 4, 10),
        "taught_logits": draw(8, 4, 10),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("title", "code"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_recipes(title, code):
    for library in re.findall(r"^import (\w+)", code, re.MULTILINE):
        pytest.importorskip(library)
    names = given()
    exec(code, names)
    assert names["loss"].shape == () and float(names["loss"]) > 0
    for leaf in jax.tree.leaves(names.get("gradients", ())):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
    if title == "Several devices":
        arrays = (given()[key] for key in ("kernel", "x", "taught"))
        expected = jax.value_and_grad(lambda w, x, t: rkd_loss(x @ w, t))(*arrays)
        np.testing.assert_allclose(names["loss"], expected[0], rtol=1e-5)
        np.testing.assert_allclose(names["gradients"], expected[1], rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_what_the_page_says_of_tunix():
    """Its cosine distance and its InfoNCE, as Optax has them."""
    student, teacher = given()["student_logits"], given()["teacher_logits"]
    distance = jnp.mean(optax.cosine_distance(student, teacher))
    ours = 10 / 2 * ft_loss(student, teacher, power=2)
    np.testing.assert_allclose(ours, distance, rtol=1e-5)
    rows = [x / jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (student, teacher)]
    scores = rows[0] @ rows[1].T / 0.2
    entropy = optax.softmax_cross_entropy_with_integer_labels(scores, jnp.arange(8)).mean()
    ours = crd_loss(student, teacher, temperature=0.2, symmetric=False)
    np.testing.assert_allclose(ours, entropy, rtol=1e-5)


def test_no_recipe_is_left_out():
    titles = " ".join(title for title, _ in BLOCKS)
    for name in ("linen", "NNX", "Equinox", "Haiku", "padding", "devices"):
        assert name in titles
