"""What a build says of its data set: a digest of the content, its files, who is to be seen.

`describe` writes it at build time, into the metadata of TFDS; `check` compares what lies there now.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from jax_irkd.errors import UserError
from jax_irkd.host.files import read_json

SYNTHETIC = "synthetic.json"  # beside raw films that this package has generated
GENERATED = "generated people, not filmed"


def describe(
    folder: Path, names: Iterable[str], clips: Iterable[tuple[str, ...]], splits: Mapping[str, Any]
) -> dict[str, Any]:
    """What goes into the metadata of a data set whose record files lie in `folder`.

    `clips` has a row of texts for each clip, among them a digest of its frames and labels, in any
    order; `splits` are TFDS's infos of the splits.
    """
    names = list(names)
    content = json.dumps([names, sorted(map(list, clips))], ensure_ascii=False)
    files = {}
    for info in splits.values():
        for path, count in zip(info.filepaths, info.shard_lengths):
            files[Path(path).name] = [(folder / Path(path).name).stat().st_size, count]
    digest = hashlib.sha256(content.encode()).hexdigest()[:16]
    return {"digest": digest, "class_names": names, "files": files}


def generated(raw: Path) -> str:
    """Who is to be seen in the films below `raw` where nobody was filmed, else ""."""
    kinds = (SYNTHETIC, f"*/{SYNTHETIC}")
    return GENERATED if any(any(raw.glob(kind)) for kind in kinds) else ""


def fingerprint(name: str, folder: Path, metadata: Mapping[str, Any], splits: Mapping) -> str:
    """The digest of the content; for a data set of before there was one, its counts and sizes."""
    if metadata.get("digest"):
        return f"{name}:{folder.name}:{metadata['digest']}"
    return f"{name}:{folder.name}:" + ",".join(
        f"{split}={splits[split].num_examples}/{splits[split].num_bytes}"
        for split in sorted(splits)
    )


def check(folder: Path, metadata: Mapping[str, Any], splits: Mapping, names: list[str]) -> None:
    """Raises UserError when files of a data set are missing, cut, or not those that were built."""
    labels = folder / "label.labels.txt"
    if not labels.is_file() or not names or not all(names):
        raise UserError(f"{labels} is missing, and with it the names of the classes; {_AGAIN}")
    if names != metadata.get("class_names", names):
        raise UserError(f"{labels} has other classes than those that were built; {_AGAIN}")
    files = metadata.get("files") or {}
    for split, info in splits.items():
        for path, count in zip(map(Path, info.filepaths), info.shard_lengths):
            built_size, built_count = files.get(path.name, (None, count))
            try:
                size = path.stat().st_size
            except OSError as error:
                raise UserError(f"{path}: {error.strerror}; {_AGAIN}") from error
            if count != built_count:
                raise UserError(
                    f"{folder}/dataset_info.json announces {count} records of {split} in "
                    f"{path.name}, where {built_count} were built; {_AGAIN}"
                )
            if built_size is not None and size != built_size:
                raise UserError(f"{path} has {size:,} bytes, {built_size:,} were built; {_AGAIN}")
            if built_size is None:
                _count(path, count)


def _count(path: Path, announced: int) -> None:
    """For a data set of before its metadata knew: as many records as TFDS announces."""
    from array_record.python import array_record_module

    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        found = reader.num_records()
        reader.close()
    except Exception as error:  # its errors are C++'s
        raise UserError(f"{path} is damaged ({str(error)[:100]}); {_AGAIN}") from error
    if found != announced:
        raise UserError(f"{path} holds {found} records where {announced} are announced; {_AGAIN}")


_AGAIN = "restore it, or build the data set again with python -m jax_irkd.build NAME --overwrite"


def metadata_of(folder: Path) -> dict[str, Any]:
    """What `describe` wrote; {} where nothing was. Raises UserError for a file that is damaged."""
    path = folder / "metadata.json"
    if not path.exists():
        return {}
    found = read_json(path, _AGAIN)
    return found if isinstance(found, dict) else {}
