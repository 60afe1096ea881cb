"""How strongly every method pulls at a student beside the cross-entropy, without training.

    python -m benchmarks.gradients --teacher=runs/demo/teacher --student=runs/demo/baseline

For augmented training batches and every method as it is by default: its loss, and the length of its
gradient to the student's parameters over that of the cross-entropy's (quartiles over the batches).
Well above 1 a method drowns the labels: lower its weight. Needs two trained runs and their data.
"""

import argparse

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from benchmarks import _measure
from benchmarks.attention import Pair, batches, make_pull
from jax_irkd import distillers
from jax_irkd.models.outputs import Outputs
from jax_irkd.runs.network import load_network
from jax_irkd.training import objective
from jax_irkd.training.evaluation import Network


def results(student: Network, pairs: list[Pair]) -> list[_measure.Result]:
    """A result a method: its gradient over the cross-entropy's."""
    pull = make_pull(student)

    def length(pair: Pair, slope: Outputs) -> float:
        return float(pull(student.variables, pair.clips, slope))

    entropies = []
    for pair in pairs:
        slope = jax.grad(objective.cross_entropy)(pair.student.logits, pair.labels)
        nothing = jax.tree.map(jnp.zeros_like, pair.student)
        entropies.append(length(pair, nothing._replace(logits=slope)))
    found = []
    for name in distillers.names():
        slopes = make_slopes(name, pairs[0])
        losses, shares = [], []
        for pair, entropy in zip(pairs, entropies):
            loss, slope = slopes(pair.student, pair.teacher, pair.labels)
            losses.append(float(loss))
            shares.append(length(pair, slope) / entropy)
        note = f"loss {_measure.number(_measure.spread(losses).median)}"
        found.append(_measure.spread(shares).result(f"gradient over CE's: {name}", note=note))
    return found


def make_slopes(name: str, pair: Pair):
    """A function of (student, teacher, labels): the loss of `name`, its gradient to the outputs."""
    distiller = distillers.get(name)()
    shown = pair.student, pair.teacher, pair.labels
    variables = jax.jit(distiller.init)(jax.random.key(0), *shown)

    def loss(student, teacher, labels):
        terms, _ = distiller.apply(variables, student, teacher, labels, mutable=["batch_stats"])
        return sum(terms.values())

    return jax.jit(jax.value_and_grad(loss))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True, help="a teacher's run folder")
    parser.add_argument("--student", required=True, help="an infrared run folder")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    teacher, _ = load_network(arguments.teacher)
    student, meta = load_network(arguments.student)
    config, size = ConfigDict(meta["config"]), arguments.batch_size
    pairs = [*batches(student, teacher, config, size, arguments.batches, arguments.seed)]
    _measure.show(results(student, pairs))


if __name__ == "__main__":
    main()
