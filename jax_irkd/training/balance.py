"""How hard every distillation term pulls at the student beside the labels, and weights held there.

The pull of a term is |g| / |g_ce|: the length of its gradient to the student's parameters, over
that of the cross-entropy's. At a fixed weight it drifts twenty-fold while a network learns. A term
with a `share` s is therefore multiplied by

    m = s E|g_ce| / E|g|

where E are running means over the steps in which the gradients are taken apart (`is_due`), and g is
the gradient at the term's own weight, which cancels. Gradients are averaged over devices and over
the parts of a batch that is accumulated before their lengths are taken: m does not depend on
either. The learned parts of a distiller get the gradient of the multiplied term, as they would at a
weight of that size.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jax_irkd.errors import UserError

LABELS = "ce"
EARLY = (1, 4, 10)  # steps, as the gradients of a fresh network change quickly
EVERY = 20  # steps, times the number of terms: what a measurement costs grows with it
MEMORY = 60.0  # steps after which a measurement counts for 1/e
# A gradient shorter than this beside the labels', at the term's own weight, is rounding: what is 0
# on paper (CC of one clip, RKD's distance of two) came to 1.2e-6 at most; the least that a method
# had in our studies (MGCAM at its end) 1e-2. m is never more than s / NOISE.
NOISE = 1e-5
LOUD = 2.0  # a pull that drowns the labels
Scalars = dict[str, Float[Array, ""]]


class Balance(NamedTuple):
    """Running means of the gradients' lengths: of the cross-entropy (`ce`) and of every distiller.

    `measured` counts what has gone into them.
    """

    lengths: Scalars
    measured: Int[Array, ""]


def initial(names: Sequence[str]) -> Balance | dict:
    """Nothing measured yet; empty where there is nothing to measure."""
    if not names:
        return {}
    zeros = {name: jnp.zeros((), jnp.float32) for name in (LABELS, *names)}
    return Balance(zeros, jnp.zeros((), jnp.int32))


def is_due(step: int, terms: int) -> bool:
    """Whether the gradients of so many distillers are taken apart in `step`, counted from 1."""
    return terms > 0 and (step in EARLY or step % (EVERY * terms) == 0)


def lengths_and_cosines(gradients: Mapping[str, PyTree]) -> tuple[Scalars, Scalars]:
    """The length of every gradient, and its cosine to the cross-entropy's (0 where one is zero)."""
    lengths = {name: optax.tree.norm(tree) for name, tree in gradients.items()}
    labels, cosines = gradients[LABELS], {}
    for name, tree in gradients.items():
        if name != LABELS:
            product = optax.tree.vdot(tree, labels)
            size = lengths[name] * lengths[LABELS]
            cosines[name] = jnp.where(size > 0, product / jnp.where(size > 0, size, 1.0), 0.0)
    return lengths, cosines


def observe(balance: Balance, lengths: Scalars) -> Balance:
    """The means with one more measurement: plain means at first, then forgetting with `MEMORY`."""
    terms = len(lengths) - 1
    new = jnp.maximum(1 / (balance.measured + 1.0), 1 - math.exp(-EVERY * terms / MEMORY))
    means = {name: (1 - new) * balance.lengths[name] + new * lengths[name] for name in lengths}
    return Balance(means, balance.measured + 1)


def multipliers(balance: Balance | dict, shares: Mapping[str, float]) -> Scalars:
    """m of every term with a share; 0 where its mean gradient is none, or `NOISE`."""
    found = {}
    for name, share in shares.items():
        labels, mean = balance.lengths[LABELS], balance.lengths[name]
        some = mean > NOISE * labels
        found[name] = jnp.where(some, share * labels / jnp.where(some, mean, 1), 0)
    return found


def no_gradient(name: str, share: float) -> str:
    """What is said of a distiller that a share cannot hold."""
    return (
        f"distiller {name} gives the student no gradient, so nothing can hold it at "
        f"share={share:g}: its weight is 0, or nothing it compares can learn "
        "(student_model.frozen); choose another method, or :weights=published after the config"
    )


class PullWatch:
    """The measured pulls of a run as they come: refuses what cannot be balanced, warns once."""

    def __init__(self, names: Sequence[str], shares: Mapping[str, float]):
        self._pulls: dict[str, list[float]] = {name: [] for name in names}
        self._shares, self._warned = shares, set()

    def see(self, step: int, terms: Mapping[str, float]) -> list[str] | None:
        """What to warn of in the terms of `step`; None when nothing was measured in it.

        Raises UserError when a term with a share shows no gradient in the first step of all. A
        term is warned of when the median of its last three pulls says that it drowns the labels.
        """
        measured = {n: terms[f"{n}/pull"] for n in self._pulls if f"{n}/pull" in terms}
        for name, pull in measured.items():
            if pull == 0 and step == 1 and name in self._shares:
                raise UserError(no_gradient(name, self._shares[name]))
            self._pulls[name].append(pull)
        loud = [name for name in measured if self._is_loud(name)]
        self._warned.update(loud)
        return [self._warning(name, step) for name in loud] if measured else None

    def _is_loud(self, name: str) -> bool:
        last = self._pulls[name][-3:]
        return name not in self._warned and len(last) == 3 and bool(np.median(last) > LOUD)

    def _warning(self, name: str, step: int) -> str:
        pull, share = np.median(self._pulls[name][-3:]), self._shares.get(name)
        hint = (
            f"lower --config.distillers.{name}.weight, or hold it with :weights=balanced"
            if share is None
            else f"as share={share:g} asks; the recommended shares are 1 or less"
        )
        return f"{name} pulls {pull:.1f} times as hard as the labels (step {step}): {hint}"
