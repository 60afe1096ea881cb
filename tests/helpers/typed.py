"""What a type checker sees of the package; for `make lint`, not to be imported.

Each `ignore` holds a mistake that must be seen: mypy warns of one that is not needed.
"""

import jax

from jax_irkd import Recognizer, dkd_loss
from jax_irkd import dkd_los as misspelt  # type: ignore[attr-defined]


def right(logits: jax.Array, labels: jax.Array, path: str) -> tuple[jax.Array, Recognizer]:
    return dkd_loss(logits, logits, labels, temperature=4.0), Recognizer(path)


def wrong(logits: jax.Array, labels: jax.Array) -> list:
    return [
        misspelt,
        dkd_loss(logits, logits, labels, temprature=4.0),  # type: ignore[call-arg]  # misspelt
        dkd_loss(logits, labels),  # type: ignore[call-arg]  # one is missing
        dkd_loss(logits, logits, labels, temperature="4"),  # type: ignore[arg-type]  # no number
    ]
