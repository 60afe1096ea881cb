"""Raw trees in the layout of NTU RGB+D at any size, with faults on request; raw_pku does PKU-MMD.

For trying builders, inventories and one's own scripts without the datasets. The pictures are a
moving square over a number: every frame carries its index as black and white blocks, which
`number_of` reads back, so that order and selection of frames can be checked after any codec.
`synthetic` films people instead.
"""

import zipfile
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 14
CODECS = {
    "mpeg4": ("mpeg4", "yuv420p", {}),
    "h264": ("libx264", "yuv420p", {"preset": "ultrafast", "crf": "12", "bf": "2"}),
    "mjpeg": ("mjpeg", "yuvj420p", {}),
    "ffv1": ("ffv1", "yuv420p", {}),
}


def picture(number: int, size: tuple[int, int] = (64, 48), infrared: bool = False) -> np.ndarray:
    """Frame `number` of a test video, uint8 `h w 3`; with `infrared` its channels are equal."""
    width, height = size
    ground, square = ((90, 90, 90), (210, 210, 210)) if infrared else ((40, 90, 60), (230, 60, 30))
    image = np.full((height, width, 3), ground, np.uint8)
    side = max(4, height // 4)
    left = (number * 2) % max(1, width - side)
    image[height // 2 : height // 2 + side, left : left + side] = square
    edges = [round(bit * width / BITS) for bit in range(BITS + 1)]
    for bit in range(BITS):
        image[: height // 4, edges[bit] : edges[bit + 1]] = 235 * (number >> bit & 1)
    return image


def number_of(image: np.ndarray) -> int:
    """The frame number in a decoded `picture`, scaled by any factor, `h w` or `h w c`."""
    grey = image.reshape(*image.shape[:2], -1).mean(axis=2)
    height, width = grey.shape
    row = grey[height // 16 : height // 5].mean(axis=0)
    centres = [int((bit + 0.5) * width / BITS) for bit in range(BITS)]
    return sum(int(row[centre] > 118) << bit for bit, centre in enumerate(centres))


def write_video(
    path: str | Path,
    frames: int | Iterable[np.ndarray],
    *,
    size: tuple[int, int] = (64, 48),
    infrared: bool = False,
    codec: str = "mpeg4",
    rate: int = 30,
    gop: int = 250,
) -> Path:
    """Writes an AVI of so many `picture`s, or of the given RGB frames, one by one.

    RGB has one keyframe in `gop` frames, infrared is intra-coded. Raises ValueError for an unknown
    codec.
    """
    if codec not in CODECS:
        raise ValueError(f"unknown codec {codec!r}; choose one of {sorted(CODECS)}")
    if isinstance(frames, int):
        frames = (picture(number, size, infrared) for number in range(frames))
    encoder, pixels, options = CODECS[codec]
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream(encoder, rate=Fraction(rate), options=dict(options))
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.gop_size = 1 if infrared else gop
        stream.codec_context.bit_rate = 40 * size[0] * size[1]
        stream.codec_context.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return Path(path)


def ntu_paths(root: str | Path, key: str) -> tuple[Path, Path]:
    """Where `ntu_tree` puts the two files of a clip such as S001C001P001R001A001, RGB first."""
    setup = key[1:4]
    return (
        Path(root, f"nturgbd_rgb_s{setup}", "nturgb+d_rgb", f"{key}_rgb.avi"),
        Path(root, f"nturgbd_ir_s{setup}", "nturgb+d_ir", f"{key}_ir.avi"),
    )


def ntu_tree(
    root: str | Path,
    *,
    setups: Sequence[int] = (1,),
    cameras: Sequence[int] = (1, 2, 3),
    subjects: Sequence[int] = (1, 3),
    actions: Sequence[int] = (1, 2),
    frames: tuple[int, int] = (12, 10),
    size: tuple[int, int] = (64, 48),
    infrared_size: tuple[int, int] = (64, 48),
    codecs: Sequence[str] = ("mpeg4",),
    zipped: bool = False,
) -> list[str]:
    """Writes clip pairs in NTU RGB+D's folders, or as its archives, and returns the clip keys.

    `frames` are the RGB and infrared frame counts; RGB codecs take turns.
    """
    keys = [
        f"S{s:03d}C{c:03d}P{p:03d}R001A{a:03d}"
        for s in setups
        for c in cameras
        for p in subjects
        for a in actions
    ]
    for position, key in enumerate(keys):
        rgb, infrared = ntu_paths(root, key)
        write_video(rgb, frames[0], size=size, codec=codecs[position % len(codecs)])
        write_video(infrared, frames[1], size=infrared_size, infrared=True)
    if zipped:
        for folder in sorted(Path(root).iterdir()):
            zip_folder(folder)
    return keys


def zip_folder(folder: Path, method: int = zipfile.ZIP_STORED) -> Path:
    """Replaces a folder by `folder.zip` with the same content."""
    archive = folder.with_name(folder.name + ".zip")
    with zipfile.ZipFile(archive, "w", method) as target:
        for path in sorted(folder.rglob("*")):
            target.write(path, path.relative_to(folder))
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()
    return archive


def truncate(path: Path, share: float = 0.6) -> None:
    """Cuts a file off after that share of its bytes."""
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def plant_ntu_faults(root: str | Path, keys: Sequence[str]) -> dict[str, str]:
    """Spoils one clip after another; returns clip keys with a word of the reason expected.

    Also leaves files about that are no clips and must not matter. Needs eight unpacked clips.
    """
    if len(keys) < 8:
        raise ValueError(f"eight clips are needed for eight faults, not {len(keys)}")
    pairs = [ntu_paths(root, key) for key in keys]
    pairs[0][1].unlink()
    pairs[1][0].unlink()
    truncate(pairs[2][0])
    pairs[3][1].write_bytes(b"")
    pairs[4][0].write_bytes(b"this is no video" * 50)
    pairs[5][1].write_bytes(pairs[5][0].read_bytes())
    without_frames(pairs[6][0])
    truncate(pairs[7][1], 0.9)
    words = (
        "no infrared",
        "no rgb",
        "truncated",
        "empty",
        "not a readable video",
        "not infrared",
        "no frames",
        "truncated",
    )
    hidden = Path(root, "__MACOSX", "nturgb+d_rgb")
    hidden.mkdir(parents=True)
    for name in (f"._{keys[-1]}_rgb.avi", f"{keys[-1]}_rgb.avi"):
        (hidden / name).write_bytes(b"\0\5\x16\7")
    for name in ("notes.txt", "S1C1P1R1A1_rgb.avi", f"{keys[-1]}_depth.avi", ".DS_Store"):
        Path(root, name).write_bytes(b"x")
    Path(root, "nturgbd_ir_s099.zip").write_bytes(b"PK\3\4 half an archive")
    return dict(zip(keys, words))


def without_frames(path: Path) -> None:
    """An AVI whose header is whole and whose list of frames is empty."""
    write_video(path, 1)
    data = path.read_bytes()
    movie = data.index(b"movi")
    body = data[: movie - 4] + (4).to_bytes(4, "little") + b"movi"
    path.write_bytes(body[:4] + (len(body) - 8).to_bytes(4, "little") + body[8:])
