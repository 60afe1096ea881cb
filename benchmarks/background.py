"""What a background class changes on untrimmed films: runs with it beside runs without.

    python -m benchmarks.background --without=RUN,RUN --with=RUN,RUN [--raw=FOLDER] [--json=FILE]

The runs are paired by their places, seed by seed, and trained on the same data set, those `without`
by dataset.leave_out="('background',)". Intervals draw the test recordings with replacement (all
views of one together, the same ones for every run) and are of the mean over the seeds.
"""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from benchmarks._measure import make_parser
from jax_irkd.deployment.judgement import Judge
from jax_irkd.detection import untrimmed
from jax_irkd.detection.proposals import segments
from jax_irkd.detection.protocol import evaluate
from jax_irkd.detection.quiet import SHARE, measure, share_of, together
from jax_irkd.detection.rows import Row
from jax_irkd.detection.watching import Watched, clock_of, watched
from jax_irkd.host import devices
from jax_irkd.pku_mmd.annotations import CLASSES
from jax_irkd.runs.network import load_network

WAYS = ("without", "with", "ignored")
THRESHOLDS = (0.5, 0.3, 0.7)
DRAWS = 400


class Film(NamedTuple):
    """A test film as one network sees it; frames are the annotation's."""

    name: str
    seen: Watched
    spans: np.ndarray
    rate: float
    truth: list[Row]
    answers: np.ndarray  # the judge's: class from 0, -1 where nothing is recognised


class Run(NamedTuple):
    films: list[Film]
    config: ConfigDict


def look(folder: str, raw: str) -> Run:
    """The test films of a run's protocol as its last network sees them."""
    network, meta = load_network(folder)
    config = ConfigDict(meta["config"])
    config.eval.raw_dir = raw or config.eval.raw_dir
    footage, faults = untrimmed.find_footage(config), {}
    judge, films = Judge(_Named(meta)), []
    for seen in watched(network, config, meta, footage.videos, faults):
        clock = clock_of(seen.video, meta["modality"], faults)
        spans = np.array(clock(seen.spans.tolist()))
        truth = footage.ground[seen.video.name]
        answers = _answers(judge, seen, meta["class_names"])
        films.append(Film(seen.video.name, seen, spans, clock.rate, truth, answers))
    if faults:
        raise SystemExit(f"damaged films: {faults}")
    return Run(films, config)


class _Named:
    def __init__(self, meta):
        self.meta, self.class_names = meta, meta["class_names"]


def _answers(judge: Judge, seen: Watched, names: Sequence[str]) -> np.ndarray:
    """What is said of every window in a stream or a timeline whose pictures are good."""
    verdicts = judge.of(seen.scores, [""] * len(seen.spans))
    said = [names[int(v.probabilities.argmax())] if v.recognised else "" for v in verdicts]
    return np.array([CLASSES.index(name) if name else -1 for name in said])


def proposals(film: Film, way: str, config: ConfigDict, threshold: float) -> list[Row]:
    """Rows of one film, by the detection's settings and one threshold."""
    chosen = config.eval
    return segments(
        film.seen.renormalised if way == "ignored" else film.seen.actions,
        film.spans,
        smoothing=chosen.smoothing,
        thresholds=(threshold,),
        max_gap=chosen.max_gap,
        min_frames=chosen.min_frames,
        nms_overlap=chosen.nms_overlap,
    )


class Measured(NamedTuple):
    """What one film adds to the results of one way."""

    rows: list[Row]
    truth: list[Row]
    quiet: object
    counts: np.ndarray  # windows: of nothing, answered; of an action, recognised, rightly named


def measured(film: Film, way: str, config: ConfigDict, threshold: float) -> Measured:
    rows = proposals(film, way, config, threshold)
    happening = film.seen.happening
    if way == "ignored":
        happening = film.seen.renormalised.max(axis=1)
    quiet = measure(rows, film.truth, film.spans, happening, film.rate)
    return Measured(rows, film.truth, quiet, _counts(film))


def _counts(film: Film) -> np.ndarray:
    """Windows of nothing and how many were answered; of one action, recognised, rightly named."""
    found = np.zeros(5)
    for (start, stop), answer in zip(film.spans, film.answers):
        shares = {
            row.label - 1: share_of([row], start, stop) for row in film.truth
        }  # every action happens once in a film
        best = max(shares, key=shares.__getitem__)
        if not any(shares.values()):
            found[:2] += 1, answer >= 0
        elif shares[best] >= SHARE:
            found[2:] += 1, answer >= 0, answer == best
    return found


def results(films: Sequence[Measured], overlap: float) -> dict[str, float]:
    """The results over `films`, of which some may come several times."""
    named = {str(place): film for place, film in enumerate(films)}
    ground = {name: film.truth for name, film in named.items()}
    rows = {name: film.rows for name, film in named.items()}
    found = evaluate(rows, ground, threshold=overlap)
    happen = len({row.label for film in films for row in film.truth})
    quiet = together(film.quiet for film in films)
    nothing, answered, acting, recognised, right = sum(film.counts for film in films)
    return {
        "mAP": 100 * found["mAP_action"] * len(CLASSES) / happen,
        "F1": 100 * found["F1"],
        "AP": 100 * found["AP"],
        "false a minute": quiet.per_minute,
        "AUROC": quiet.auroc,
        "windows of nothing answered": 100 * answered / nothing,
        "windows of actions recognised": 100 * recognised / acting,
        "windows of actions rightly named": 100 * right / acting,
    }


def compare(pairs: Sequence[tuple[Run, Run]], threshold: float, draws: int) -> dict:
    """By way: the results by seed, their mean and its interval, and that of the difference."""
    by_way: dict[str, list[list[Measured]]] = {way: [] for way in WAYS}
    for without, with_ in pairs:
        for way in WAYS:
            run = without if way == "without" else with_
            by_way[way].append([measured(f, way, run.config, threshold) for f in run.films])
    names = [film.name for film in pairs[0][0].films]
    overlap = pairs[0][0].config.eval.overlap
    whole = {way: [results(films, overlap) for films in seeds] for way, seeds in by_way.items()}
    drawn = list(_drawn(names, by_way, overlap, draws))
    made = {}
    for way, seeds in whole.items():
        made[way] = {
            name: {
                "seeds": [one[name] for one in seeds],
                "mean": float(np.mean([one[name] for one in seeds])),
                "interval": _interval([draw[way][name] for draw in drawn]),
                "change": _interval([draw[way][name] - draw["without"][name] for draw in drawn]),
            }
            for name in seeds[0]
        }
    return made


def _drawn(names, by_way, overlap: float, draws: int):
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name.partition("-")[0], []).append(place)
    rng, members = np.random.default_rng(0), list(groups.values())
    for _ in range(draws):
        chosen = [p for g in rng.integers(len(members), size=len(members)) for p in members[g]]
        means = {}
        for way, seeds in by_way.items():
            found = [results([films[p] for p in chosen], overlap) for films in seeds]
            means[way] = {name: np.mean([one[name] for one in found]) for name in found[0]}
        yield means


def _interval(values: Sequence[float]) -> list[float]:
    return [float(value) for value in np.percentile(values, [2.5, 97.5])] if values else []


def _rounded(held):
    if isinstance(held, dict):
        return {name: _rounded(value) for name, value in held.items()}
    return [_rounded(one) for one in held] if isinstance(held, list) else round(held, 3)


def table(made: Mapping[str, Mapping], threshold: float) -> str:
    lines = [f"threshold {threshold:g}"]
    for name in made["without"]:
        cells = []
        for way in WAYS:
            one = made[way][name]
            low, high = one["interval"] or (float("nan"),) * 2
            seeds = ", ".join(f"{value:.2f}" for value in one["seeds"])
            cells.append(f"{way} {one['mean']:.2f} [{low:.2f}, {high:.2f}] ({seeds})")
        change = made["with"][name]["change"]
        if change:
            cells.append(f"with - without [{change[0]:+.2f}, {change[1]:+.2f}]")
        lines.append(f"  {name}: " + "; ".join(cells))
    return "\n".join(lines)


def runs(text: str) -> list[str]:
    """Folders with commas between them."""
    return text.split(",")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--without", type=runs, required=True, help="runs, comma between them")
    parser.add_argument("--with", dest="with_", type=runs, required=True)
    parser.add_argument("--raw", default="", help="the raw films, if not where the runs say")
    parser.add_argument("--draws", type=int, default=DRAWS)
    flags = parser.parse_args()
    devices.start("off")
    pairs = [
        (look(one, flags.raw), look(other, flags.raw))
        for one, other in zip(flags.without, flags.with_, strict=True)
    ]
    made = {}
    for threshold in THRESHOLDS:
        draws = flags.draws if threshold == THRESHOLDS[0] else flags.draws // 4
        made[threshold] = compare(pairs, threshold, draws)
        print(table(made[threshold], threshold), flush=True)
    if flags.json:
        flags.json.write_text(json.dumps(_rounded(made)) + "\n")


if __name__ == "__main__":
    main()
