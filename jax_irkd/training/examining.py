"""How good a network is while it trains, and when it has stopped getting better."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from jax_irkd.data import loading
from jax_irkd.metrics import classification
from jax_irkd.training.divergence import check_answers
from jax_irkd.training.evaluation import Scores, evaluate
from jax_irkd.training.phase import Network
from jax_irkd.training.selection import aside, select
from jax_irkd.training.setup import make_reader

TESTED = "top1"  # what networks are compared by
HELD = "validation_"  # in front of a figure of the validation subjects
AVERAGED = "ema_"  # and of one of the averaged parameters


class Examiner:
    """Scores a network on the test split and, where some are kept aside, on validation subjects.

    With validation subjects the best network is the best on them, and after `patience` evaluations
    in a row without a better one `is_out_of_patience`. Without, the best is the best on the test
    split, whose figure is then too good by the choice. Both follow from what checkpoints hold
    (`standing`), so that they are the same however often a run stopped.
    """

    def __init__(
        self,
        config: ConfigDict,
        dataset: loading.Dataset,
        modality: str,
        patience: int,
        asked: Callable[[], bool],
    ):
        self._config, self._dataset = config, dataset
        self._asked, self._patience = asked, patience
        self._classes = len(dataset.class_names)
        self.test = make_reader(config, dataset, "test", (modality,))
        self.validation = None
        if config.input.validation:
            self.validation = make_reader(config, dataset, "validation", (modality,))
        self.metric = f"{HELD}{TESTED}" if self.validation else TESTED
        self.scores: Scores | None = None
        self._standing: dict[str, Any] = {"step": 0, "value": -1.0, "waited": 0, "counted": 0}

    def examine(self, step: int, network: Network, averaged: Network | None) -> dict[str, float]:
        """All figures after `step`. Raises Stopped between two batches when asked to."""
        self.scores = self._scores(network, self.test)
        check_answers(step, self.scores.logits)
        figures = self._figures(self.scores)
        if averaged:
            figures |= _named(AVERAGED, self._figures(self._scores(averaged, self.test)))
        if self.validation:
            held = self._figures(self._scores(network, self.validation))
            if averaged:
                scores = self._scores(averaged, self.validation)
                held |= _named(AVERAGED, self._figures(scores))
            figures |= _named(HELD, held)
        self.count(step, figures)
        return figures

    def count(self, step: int, figures: Mapping[str, float]) -> None:
        """Let the figures after `step` count, once, for what is best and how long nothing was."""
        if step == self._standing["counted"]:
            return
        value, best = figures[self.metric], self._standing["value"]
        waited = 0 if value > best else self._standing["waited"] + 1
        if value >= best:  # of equals the latest, as in the checkpoints
            self._standing = {"step": step, "value": value, "figures": dict(figures)}
        self._standing = self._standing | {"waited": waited, "counted": step}

    @property
    def standing(self) -> dict[str, dict[str, Any]]:
        """What the next start has to know, for the part of a checkpoint that is JSON.

        A state is saved before it is examined: its own figures lie beside it, for `count`.
        """
        return {"standing": dict(self._standing)}

    def resume(self, meta: Mapping[str, Any]) -> None:
        """Go on from the `standing` of a checkpoint; older ones have none."""
        self._standing = self._standing | meta.get("standing", {})

    @property
    def facts(self) -> dict[str, Any]:
        """What the results of a run say of its validation subjects and of its best step."""
        if not self.validation:
            return {}
        kind, groups, masks = aside(self._config, self._dataset)
        chosen = select(self._config, self._dataset, "train", self.validation.modalities)
        of = sum(len(masks[name]) for name in chosen.splits if name in masks)
        held = len(self.validation.records)
        return {
            "validation": {"by": kind, "aside": groups, "clips": held, "of": of},
            "best": {"chosen_by": self.metric} | self._standing,
        }

    @property
    def is_out_of_patience(self) -> bool:
        return bool(self._patience) and self._standing["waited"] >= self._patience

    def __str__(self) -> str:
        best = self._standing
        return (
            f"{best['waited']} evaluations in a row were no better than the best, top-1 "
            f"{best['value']:.1%} of the validation clips (step {best['step']})"
        )

    def _scores(self, network: Network, reader: loading.ClipReader) -> Scores:
        return evaluate(network, self._config, reader, self._asked)

    def _figures(self, scores: Scores) -> dict[str, float]:
        return classification.summarize(scores.logits, scores.labels, self._classes)


def _named(prefix: str, figures: Mapping[str, float]) -> dict[str, float]:
    return {f"{prefix}{name}": value for name, value in figures.items()}
