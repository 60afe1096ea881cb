"""A clip's two videos as one record: what builders of trimmed pairs share."""

import functools
from collections.abc import Mapping

from jax_irkd.tfds_builders._shared.cache import EncodingResult, Record, Skip
from jax_irkd.tfds_builders._shared.crops import crop_for
from jax_irkd.tfds_builders._shared.encoding import encode_clip
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.report import NO_COLOUR
from jax_irkd.video.archives import Found, Source, name_of
from jax_irkd.video.decoding import COLOURLESS, VideoError

FRAMES = {"rgb": "rgb_frames", "infrared": "infrared_frames"}
SHORT_CLIP = 8  # Frames; fewer than the segments of the paper's sampling.


def unpaired(key: str, pair: Mapping[str, Found]) -> Skip:
    """The remark on a clip of which only one modality is there."""
    (kind,) = pair
    other = "infrared" if kind == "rgb" else "rgb"
    only = name_of(pair[kind].source)
    return Skip(key, f"no {other} file", f"only {only}; distillation needs both")


def encode_pair(
    key: str, scalars: dict, rgb: Source, infrared: Source, options: BuildOptions, camera: str
) -> EncodingResult:
    """Both videos as JPEG frames; a fault of either skips the clip."""
    encode = functools.partial(
        encode_clip,
        max_frames=options.max_frames,
        short_side=options.short_side,
        quality=options.quality,
    )
    try:
        clips = {
            "rgb": encode(rgb, crop=crop_for(options.crop_file, camera)),
            "infrared": encode(infrared, infrared=True),
        }
    except VideoError as error:
        return EncodingResult([], [Skip(key, "unreadable video", str(error))], [])
    scalars = {"clip_id": key} | scalars
    scalars |= {FRAMES[kind]: clip.total for kind, clip in clips.items()}
    frames = {kind: clip.frames for kind, clip in clips.items()}
    return EncodingResult([Record(key, scalars, frames)], [], _notes(key, clips))


def _notes(key: str, clips: dict) -> list[Skip]:
    notes = []
    for kind, clip in clips.items():
        if clip.total < SHORT_CLIP:
            notes.append(Skip(key, "short clip", f"{clip.total} {kind} frames"))
    if clips["rgb"].colour < COLOURLESS:
        notes.append(Skip(key, NO_COLOUR, "its channels are equal, as in an infrared file"))
    return notes
