"""What a folder of clips has that may make a network, or its figures, worse than they look."""

import collections
import hashlib
from collections.abc import Iterable, Iterator, Sequence

from jax_irkd.tfds_builders._shared.cache import EncodingTask
from jax_irkd.tfds_builders._shared.pairs import FRAMES, same_content
from jax_irkd.tfds_builders.folder_ir.clips import SPLITS, FolderScan, side_of
from jax_irkd.video.archives import Found, Source, Stills, open_source
from jax_irkd.video.finding import Skip

# What clips of one modality are good for.
USES = {
    "infrared": "they train infrared networks; distillation takes them by extra_clips",
    "rgb": "they train the teacher",
}
UNLIKE = 5  # times as many clips in one class as in another
FEW = 20  # test clips, of which one is five points
HEAD = 1 << 16  # bytes that tell most films of one size apart


def remarks(
    found: FolderScan, tasks: Sequence[EncodingTask], names: Sequence[str]
) -> Iterator[Skip]:
    """On classes, subjects and films, before anything is encoded."""
    sides = {task.key: side_of(task.split) for task in tasks}
    labels = {key: found.places[key].label for key in sides}
    yield from thin_classes(names, [(labels[key], side) for key, side in sides.items()])
    for name in sorted({place.label for place in found.places.values()} - set(names)):
        yield Skip(name, "class without a complete pair", "left out")
    yield from _sizes(labels.values(), sides.values())
    for kind, use in USES.items():
        alone = sum(task.split.endswith(f"_{kind}") for task in tasks)
        if alone:
            yield Skip(f"{alone} {kind} clips", "one modality only", use)
    yield from _subjects(found, sides)
    for kind in FRAMES:
        films = {key: found.clips[key][kind] for key in sides if kind in found.clips[key]}
        for keys in _same(films):
            name = f"{keys[0]} {kind}"
            yield Skip(name, _reason(keys, labels, sides), f"the same bytes: {', '.join(keys[1:])}")


def thin_classes(names: Sequence[str], clips: Sequence[tuple[str, str]]) -> Iterator[Skip]:
    """On classes of which all `clips`, label and side, train, or all test."""
    counts = collections.Counter(clips)
    for name in names:
        for split, other in (SPLITS, SPLITS[::-1]):
            if not counts[name, split]:
                detail = f"{counts[name, other]} clips, all {other}"
                yield Skip(name, f"class without {split} clips", detail)


def _sizes(labels: Iterable[str], sides: Iterable[str]) -> Iterator[Skip]:
    ordered = collections.Counter(labels).most_common()
    (most, many), (least, few) = ordered[0], ordered[-1]
    if many >= UNLIKE * few:
        advice = "sampling=balanced, of teacher_training and student_training, makes up for it"
        yield Skip(least, "classes of unlike size", f"{few} clips, {most} has {many}; {advice}")
    tests = collections.Counter(sides)["test"]  # one at least, or `tasks_of` refuses
    if tests < FEW:
        detail = f"each is {100 / tests:.0f} points of a result"
        yield Skip(f"{tests} test clips", "few test clips", detail)


def _subjects(found: FolderScan, sides: dict[str, str]) -> Iterator[Skip]:
    """On who trains and tests, where folders say what does."""
    seen = collections.defaultdict(set)
    for key, side in sides.items():
        seen[found.places[key].subject].add(side)
    for subject in sorted(seen):
        if subject and len(seen[subject]) > 1:
            yield Skip(subject, "subject in train and test", "results look better than they are")


def _same(films: dict[str, Found]) -> Iterator[list[str]]:
    """The clips whose films are byte for byte the same, two or more at a time."""
    alike = collections.defaultdict(list)
    for key, film in films.items():
        alike[film.size].append(key)
    for keys in alike.values():
        if len(keys) > 1:
            yield from _equal({key: films[key].source for key in keys})


def _equal(sources: dict[str, Source]) -> Iterator[list[str]]:
    groups: dict[str, list[list[str]]] = collections.defaultdict(list)
    for key, source in sources.items():
        try:
            bucket = groups[_digest(source)]
            for group in bucket:
                if same_content(sources[group[0]], source):
                    group.append(key)
                    break
            else:
                bucket.append([key])
        except (OSError, ValueError):  # it is named when it is read to be encoded
            continue
    yield from (group for bucket in groups.values() for group in bucket if len(group) > 1)


def _digest(source: Source) -> str:
    first = source.files[0] if isinstance(source, Stills) else source
    with open_source(first, whole=False) as file:
        return hashlib.sha256(file.read(HEAD)).hexdigest()


def _reason(keys: Sequence[str], labels: dict[str, str], sides: dict[str, str]) -> str:
    if len({labels[key] for key in keys}) > 1:
        return "one film in two classes"
    if len({sides[key] for key in keys}) > 1:
        return "one film trains and tests"
    return "one film under two names"
