"""PKU-MMD's text files among others of the same names: labels, splits, class names."""

from jax_irkd.errors import UserError
from jax_irkd.pku_mmd.annotations import (
    CLASSES,
    Labels,
    looks_like_labels,
    parse_labels,
    parse_split,
    read_actions,
)
from jax_irkd.video.archives import Found, name_of, open_source
from jax_irkd.video.finding import Skip

SPLIT_FILES = ("cross-subject.txt", "cross-view.txt")


def _text(found: Found) -> str:
    with open_source(found.source) as file:
        return file.read().decode("utf-8", errors="replace")


def read_labels(
    texts: dict[str, list[Found]], notes: list[Skip]
) -> tuple[dict[str, Labels], dict[str, str], dict[str, str]]:
    """Rows and stamps by video, and why there are none where there is a file."""
    labels, stamps, unlabelled = {}, {}, {}
    for video in sorted(texts):
        # Skeleton files have the same names; folders called Label come first.
        candidates = sorted(texts[video], key=lambda f: "label" not in name_of(f.source).lower())
        held: dict[str, str] = {}
        for found in candidates:
            name = name_of(found.source)
            try:
                text = _text(found)
            except (OSError, ValueError) as error:
                notes.append(Skip(name, "unreadable label file", str(error)))
                unlabelled.setdefault(video, f"{name} cannot be read ({error})")
                continue
            if not looks_like_labels(text):
                unlabelled.setdefault(video, f"{name} has no rows label,start,end,confidence")
                continue
            if video not in labels:
                labels[video], stamps[video] = parse_labels(text), found.stamp
                if not text.strip():
                    notes.append(Skip(name, "empty label file", "no action of its video is used"))
            elif text not in held.values():
                detail = f"{next(iter(held))} used, {name} with other rows not"
                notes.append(Skip(video, "two label files", detail))
            held[name] = text
    return labels, stamps, {video: why for video, why in unlabelled.items() if video not in labels}


def _only(name: str, found: list[Found]) -> tuple[str, Found]:
    """The content of a file of which there may be copies. Raises UserError when they differ."""
    contents: dict[str, Found] = {}
    for one in found:
        try:
            contents.setdefault(_text(one), one)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{name_of(one.source)} cannot be read ({error}); repair, unpack or remove it"
            ) from error
    if len(contents) > 1:
        first, second = list(contents.values())[:2]
        raise UserError(
            f"two different files {name}: {name_of(first.source)} and {name_of(second.source)}; "
            "keep the one that counts"
        )
    return next(iter(contents.items()))


def read_splits(
    others: dict[str, list[Found]], notes: list[Skip]
) -> tuple[dict[str, str], list[str]]:
    """The physical split of each video that both files name, and all names in the files."""
    members = []
    for file_name in SPLIT_FILES:
        split = parse_split(_only(file_name, others[file_name])[0])
        both = sorted(set(split.train) & set(split.validation))
        if both:
            raise UserError(f"{file_name} names {both[0]} for training and for validation")
        if not split.train or not split.validation:
            raise UserError(
                f"{file_name} has {len(split.train)} training and {len(split.validation)} "
                "validation videos; expected a 'Training videos:' and a 'Validation videos:' line, "
                "each followed by a line of names such as 0002-L"
            )
        notes += [Skip(entry, "odd entry in a split file", file_name) for entry in split.odd]
        members.append(
            dict.fromkeys(split.train, "train") | dict.fromkeys(split.validation, "test")
        )
    subjects, views = members
    splits = {
        name: f"{subjects[name]}_subjects_{views[name]}_views" for name in subjects if name in views
    }
    return splits, sorted({*subjects, *views})


def compare_actions(others: dict[str, list[Found]], notes: list[Skip]) -> None:
    """Remarks on classes that Actions.xlsx, if it is there, calls otherwise."""
    if "actions.xlsx" not in others:
        return
    try:
        with open_source(others["actions.xlsx"][0].source) as file:
            actions = read_actions(file)
    except (OSError, ValueError) as error:
        notes.append(Skip("Actions.xlsx", "unreadable class names", str(error)))
        return
    for label, name in enumerate(CLASSES, start=1):
        given = actions.get(label, "")
        if given.lower() != name:
            detail = f"label {label} is {given!r} there and {name!r} here"
            notes.append(Skip("Actions.xlsx", "class name differs", detail))
