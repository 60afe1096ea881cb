"""How hard every distillation term pulls at the student beside the labels, and weights held there.

The pull of a term is |g| / |g_ce|: the length of its gradient to the student's parameters, over
that of the cross-entropy's. At a fixed weight it drifts twenty-fold while a network learns. A term
with a `share` s is therefore multiplied by

    m = s E|g_ce| / E|g|

where E are running means over the steps in which the gradients are taken apart (`is_due`), and g is
the gradient at the term's own weight, which cancels. The means are of steps up to now: a term whose
gradient shrinks faster than the labels' pulls less than s meanwhile. Gradients are averaged over
devices and over the parts of a batch that is accumulated before their lengths are taken: m does not
depend on either. The learned parts of a distiller get the gradient of the multiplied term, as they
would at a weight of that size.
"""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from jax_irkd.errors import UserError, plural

LABELS = "ce"
EARLY = (1, 4, 10)  # steps, as the gradients of a fresh network change quickly
EVERY = 30  # steps, times the number of terms: what a measurement costs grows with it
MEMORY = 60.0  # steps after which a measurement counts for 1/e
# A gradient shorter than this beside the labels', at the term's own weight, is rounding: what is 0
# on paper (CC of one clip, RKD's distance of two) came to 1.2e-6 at most; the least that a method
# had in our studies (MGCAM at its end) 1e-2. m is never more than s / NOISE.
NOISE = 1e-5
LOUD = 2.0  # a pull that drowns the labels
DECIDE = 3  # measurements that a refusal or a warning needs
RECENT = 5  # measurements that a warning takes the median of
SETTLED = 100  # the step from which pulls are judged, or a tenth of the run: later than `EARLY`
FEW = 8  # clips among which those of another class, or a second distance, may be missing
FROZEN = "nothing it compares can learn (student_model.frozen)"
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


def pulls(lengths: Scalars, weights: Scalars) -> Scalars:
    """|m g| / |g_ce| of every term by its m in `weights`, 1 without one.

    0 where |m g| is 0, whatever the labels'; infinite where the labels' alone is.
    """
    found = {}
    for name, length in lengths.items():
        if name != LABELS:
            own = weights.get(name, 1.0) * length
            found[name] = own / jnp.where(own == 0, 1.0, lengths[LABELS])
    return found


def no_gradient(name: str, share: float, cause: str = FROZEN) -> str:
    """What is said of a distiller that a share cannot hold."""
    return (
        f"distiller {name} gives the student no gradient, so nothing can hold it at "
        f"share={share:g}: {cause}; choose another method, or :weights=published after the config"
    )


class PullWatch:
    """The measured pulls of a run as they come: refuses what cannot be balanced, warns once.

    `steps` are those of the run, `clips` how many a method compares at a time. What was seen ends
    with the process: a run that is taken up again counts from its first measurement on, so that it
    refuses up to two measurements later, and may warn again.
    """

    def __init__(self, names: Iterable[str], shares: Mapping[str, float], steps: int, clips: int):
        self._last: dict[str, collections.deque[tuple[int, float]]]
        self._last = {name: collections.deque(maxlen=RECENT) for name in names}
        self._shares, self._clips, self._warned = shares, clips, set[str]()
        self._settled = min(SETTLED, steps / 10)

    def see(self, step: int, terms: Mapping[str, float]) -> list[str] | None:
        """What to warn of in the terms of `step`; None when nothing was measured in it.

        Raises UserError when a term with a share shows no gradient several times in a row. A term
        is warned of when the median of its last pulls says that it drowns the labels, unless it has
        a share that does not ask for it. Pulls that are not finite count for neither: the step was
        rejected, or the labels had no gradient.
        """
        measured = {n: terms[f"{n}/pull"] for n in self._last if f"{n}/pull" in terms}
        for name, pull in measured.items():
            if math.isfinite(pull):
                self._last[name].append((step, pull))
            if name in self._shares and self._has_none(name):
                raise UserError(no_gradient(name, self._shares[name], self._causes(name, step)))
        loud = [name for name in measured if name not in self._warned and self._is_loud(name)]
        self._warned.update(loud)
        return [self._warning(name, step) for name in loud] if measured else None

    def _has_none(self, name: str) -> bool:
        """Whether none of its last measurements has any: three at first, then five. A batch may
        lack what a method compares, as one of a single class lacks CRD's negatives."""
        pulls = [pull for _, pull in self._last[name]]
        return len(pulls) >= DECIDE and not any(pulls)

    def _causes(self, name: str, step: int) -> str:
        few = (
            f"it compares {plural(self._clips, 'clip')} at a time (batch_size / accumulation), "
            "which may be too few, or "
        )
        few = few if self._clips <= FEW else ""
        return (
            f"none beyond rounding ({NOISE:g} of the labels') in {len(self._last[name])} "
            f"measured batches in a row, up to step {step}; {few}its weight is 0 or far too small, "
            f"{FROZEN}, or the labels have no gradient either"
        )

    def _is_loud(self, name: str) -> bool:
        if self._shares.get(name, math.inf) <= LOUD:
            return False
        pulls = self._judged(name)
        return len(pulls) >= DECIDE and bool(np.median(pulls) > LOUD)

    def _judged(self, name: str) -> list[float]:
        return [pull for step, pull in self._last[name] if step >= self._settled]

    def _warning(self, name: str, step: int) -> str:
        pull, share = np.median(self._judged(name)), self._shares.get(name)
        hint = (
            f"lower --config.distillers.{name}.weight, or hold it with :weights=balanced"
            if share is None
            else f"as share={share:g} asks; the recommended shares are 1 or less"
        )
        return f"{name} pulls {pull:.1f} times as hard as the labels (step {step}): {hint}"
