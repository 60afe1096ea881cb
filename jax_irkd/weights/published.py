"""torchvision's ImageNet weights: fetched, checked by their published hash, kept as safetensors.

    path = fetch("resnet18", Path("weights"))

A file's name ends in the first eight digits of its SHA-256. A fetch that was cut off goes on where
it stopped, at once or the next time; nothing is called by its name before it is whole and right.
"""

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from pathlib import Path

from jax_irkd.errors import FULL, UserError, nearest, one_line
from jax_irkd.host import locks
from jax_irkd.host.terminal import Progress
from jax_irkd.weights import files, torchvision

SOURCE = "https://download.pytorch.org/models"
# The first of a depth is what papers start from; those of `_v2` come from a longer recipe.
FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet50_v2": "resnet50-11ad3fa6.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet101_v2": "resnet101-cd907fc2.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "resnet152_v2": "resnet152-f82ba261.pth",
}
TRIES = 4  # in a row that bring nothing
PAUSE, PATIENCE = 1.0, 30.0  # seconds: between tries, for an answer
CHUNK = 10**6  # bytes


def fetch(name: str, folder: Path, source: str = SOURCE) -> Path:
    """The `.safetensors` file of `name` (a key of `FILES`) in `folder`, fetched where it is not.

    `source` is the address of a folder with torchvision's files. Raises UserError for an unknown
    name, without a network, and for a file that does not have the published hash.
    """
    if name not in FILES:
        raise UserError(f"unknown weights {name!r}{nearest(name, FILES)}")
    file = FILES[name]
    target = folder / file.replace(".pth", ".safetensors")
    if target.exists():
        return target
    whole, part = folder / file, folder / f"{file}.part"
    address = f"{source.rstrip('/')}/{file}"
    with locks.held(folder, busy="{by} fetches into {folder}; wait for it"):
        if not whole.exists():
            _download(address, part)
            check_hash(part, again="fetch it again")
            part.replace(whole)
        convert(whole, target, source=address)
        whole.unlink()
    return target


def convert(path: Path, target: Path, source: str = "") -> str:
    """Write the ResNet in the file `path` under torchvision's names; what it is, in words.

    Raises UserError for what is no ResNet that this package has, and for a file that does not have
    the hash in its name.
    """
    check_hash(path, again="get it anew")
    state, words = torchvision.recognised(files.read(path), f"weights file {path}")
    files.write(target, state, about={"source": source or path.name})
    return words


def check_hash(path: Path, again: str) -> None:
    """Raises UserError when a name as `resnet18-f37072fd.pth` lies; deletes the part of a fetch."""
    named = re.fullmatch(r".*-([0-9a-f]{8})\.(?:pth|pt)(\.part)?", path.name)
    if not named or not path.is_file():
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found.startswith(named[1]):
        return
    if named[2]:
        path.unlink()
    raise UserError(
        f"{path.name.removesuffix('.part')} is damaged or another file: its SHA-256 begins with "
        f"{found[:8]}, not with {named[1]} as published; {again}"
    )


def _download(address: str, part: Path) -> None:
    """All of `address` into `part`, from where an earlier try left it."""
    idle, moved = 0, False
    while True:
        before, answered = _size(part), True
        try:
            if _go_on(address, part):
                return
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing is left; or what lies there is another file's
                return
            reason = f"it answers {error.code} {error.reason}"
            if error.code not in (408, 429) and error.code < 500:
                raise UserError(f"cannot fetch {address}: {reason}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if getattr(error, "errno", None) in FULL or getattr(error, "filename", None):
                raise  # the disk's
            answered = not isinstance(error, urllib.error.URLError | ValueError)
            reason = one_line(getattr(error, "reason", None) or error)
        moved |= _size(part) > before
        idle = 0 if _size(part) > before else idle + 1
        if idle == TRIES or not (answered or moved):
            raise UserError(_unreachable(address, part, reason))
        time.sleep(PAUSE * idle)


def _go_on(address: str, part: Path) -> bool:
    """Fetch what is missing of `part`, as far as it comes; whether that is all of it."""
    have = _size(part)
    headers = {"User-Agent": "jax_irkd"} | ({"Range": f"bytes={have}-"} if have else {})
    request = urllib.request.Request(address, headers=headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        if answer.status == 206 and _first_byte(answer) != have:
            raise http.client.HTTPException("it answers with another part of the file")
        if answer.status != 206:  # it knows no ranges: from the beginning
            have = 0
        left = answer.headers.get("Content-Length")
        total = have + int(left) if left else None
        bar = Progress(f"fetch {part.stem}", (total or have) // CHUNK, have // CHUNK, "MB")
        with bar, part.open("ab" if have else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                have += len(chunk)
                bar.update(have // CHUNK)
    return total is None or have >= total


def _first_byte(answer: http.client.HTTPResponse) -> int:
    found = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _unreachable(address: str, part: Path, reason: str) -> str:
    kept = (
        f" ({_size(part) / 1e6:.1f} MB are kept: the same command goes on)" if _size(part) else ""
    )
    return (
        f"cannot fetch {address}: {reason}{kept}. Without a network here, get the file elsewhere, "
        f"bring it, and run python -m jax_irkd.weights convert {part.stem}"
    )
