"""What is no folder of clips, and how it becomes one."""

import collections
from pathlib import Path

from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared.pairs import FRAMES
from jax_irkd.tfds_builders.folder_ir.clips import (
    INFRARED,
    LAYOUT,
    MISPLACED,
    FolderScan,
    inner_path,
    recording_of,
)
from jax_irkd.video.archives import Found, Stills, name_of


def refuse_wrong_folder(folder: Path, found: FolderScan, unpaired: bool = False) -> None:
    """Raises UserError when `folder` holds no clips, no pairs among both kinds, or half a split,
    where infrared is of several cameras, and where different recordings have one name.

    Clips of one modality alone are taken where nothing lies beside them that may be the other.
    """
    counts = collections.Counter(kind for pair in found.clips.values() for kind in pair)
    if not found.clips:
        videos = sum(skip.reason == MISPLACED for skip in found.skipped)
        seen = f"{len(found.other_files)} files, {videos} of them videos"
        first = f" (first: {found.other_files[0]})" if found.other_files else ""
        raise UserError(f"no clips in {folder}: expected {LAYOUT}; found {seen}{first}")
    _refuse_several_cameras(folder, found)
    _refuse_shared_names(folder, found)
    for kind in FRAMES:
        if not counts[kind] and not found.only:
            raise UserError(
                f"no {kind} clips in {folder}, only {sum(counts.values())} of the other modality: "
                "distillation needs both, filmed at the same time, and "
                f"{len(found.skipped)} videos lie in other places; expected {LAYOUT}"
            )
    if not found.pairs and not found.only:
        first = {
            kind: next(k for k, pair in found.clips.items() if kind in pair) for kind in FRAMES
        }
        raise UserError(
            f"no pairs in {folder}: an RGB and an infrared file belong together when class and "
            f"name agree, but they are called, for example, {first['rgb']} and {first['infrared']}"
        )
    given = {found.places[key].split for key in found.kept(unpaired)}
    if "" in given and len(given) > 1:
        raise UserError(
            f"{folder} has clips below train/ or test/ and clips outside of both; move all of them "
            "below train/ and test/, or none"
        )
    if given in ({"train"}, {"test"}):
        raise UserError(
            f"all clips in {folder} lie below {given.pop()}/; add the other folder, or move rgb/ "
            "and infrared/ up to let a share be chosen for testing"
        )


def _refuse_several_cameras(folder: Path, found: FolderScan) -> None:
    """Raises UserError where infrared goes by several names: near infrared looks unlike thermal."""
    names = sorted(set().union(*found.recordings.values()) & {*INFRARED})
    if len(names) > 1:
        raise UserError(
            f"{folder} has infrared films in folders called {', '.join(names)}, and a data set "
            "holds those of one camera: move all folders but one's out of it, or give all of them "
            "one name if it is one camera"
        )


def _refuse_shared_names(folder: Path, found: FolderScan) -> None:
    """Raises UserError where the films of a clip would be those of different recordings.

    A clip is known by class and name. Different files of one name are different recordings, and so
    are the films of a pair that lie in two folders which hold both modalities each.
    """

    def apart(pair: dict[str, Found]) -> bool:
        above = {recording_of(inner_path(film.source, folder))[0] for film in pair.values()}
        return len(above) > 1 and all(len(found.recordings[one]) > 1 for one in above)

    shared = [
        *found.clashes,
        *((key, *pair.values()) for key, pair in found.pairs.items() if apart(pair)),
    ]
    if shared:
        key, *both = shared[0]
        first, second = (_first_file(one) for one in both)
        count = len({key for key, *_ in shared})
        also = f" ({count} clips are so)" if count > 1 else ""
        raise UserError(
            f"{first} and {second} are different recordings with one name, {key}{also}: class and "
            "name say which films belong together, so rename one recording's films in both "
            f"modalities, as {key}_SESSION, or move it out of {folder}"
        )


def _first_file(film: Found) -> str:
    """Sequences of two suffixes in one folder have one name; their pictures have not."""
    source = film.source
    return name_of(source.files[0] if isinstance(source, Stills) else source)
