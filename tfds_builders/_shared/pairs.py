"""A clip's two videos as one record: what builders of trimmed pairs share."""

from collections.abc import Mapping, Sequence

from jax_irkd.tfds_builders._shared.cache import EncodingResult, Record
from jax_irkd.tfds_builders._shared.crops import crop_for
from jax_irkd.tfds_builders._shared.encoding import EncodedClip, FrameStorage, encode_film, settled
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.report import NO_COLOUR
from jax_irkd.video.archives import Found, Source, Stills, held, name_of, open_source
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError, named_faults
from jax_irkd.video.finding import Skip
from jax_irkd.video.pixels import COLOURLESS
from jax_irkd.video.timing import Timing, span_of

FRAMES = {"rgb": "rgb_frames", "infrared": "infrared_frames"}
LENGTHS = 0.1  # of the longer film: pairs that differ more do not share a clock
UNUSUAL = "unusual film"
SHORT_CLIP = 8  # Frames; fewer than the segments of the paper's sampling.


ALONE = {kind: f"no {kind} file" for kind in FRAMES}  # why a clip is left out


def unpaired(key: str, pair: Mapping[str, Found]) -> Skip:
    """The remark on a clip of which only one modality is there."""
    (kind,) = pair
    other = "infrared" if kind == "rgb" else "rgb"
    only = name_of(pair[kind].source)
    return Skip(key, ALONE[other], f"only {only}; distillation needs both")


def encode_alone(
    key: str, scalars: dict, kind: str, source: Source, options: BuildOptions, camera: str
) -> EncodingResult:
    """The one film of a clip as JPEG frames; the record has none of the other modality."""
    crop = crop_for(options.crop_file, camera) if kind == "rgb" else None
    try:
        with named_faults(source), held(source) as file:
            film = Film(file)

            def encode() -> list[EncodedClip]:
                storage = FrameStorage(**options.storage)
                return [encode_film(film, None, kind == "infrared", crop, storage)]

            (clip,) = settled([film], encode)
    except VideoError as error:
        return EncodingResult([], [Skip(key, "unreadable video", str(error))], [])
    scalars = {"clip_id": key} | scalars | dict.fromkeys(FRAMES.values(), 0)
    frames = {name: clip.frames if name == kind else [] for name in FRAMES}
    record = Record(key, scalars | {FRAMES[kind]: clip.total}, frames)
    return EncodingResult([record], [], _notes(key, {kind: film}, {kind: clip}))


def encode_pair(
    key: str, scalars: dict, rgb: Source, infrared: Source, options: BuildOptions, camera: str
) -> EncodingResult:
    """Both films as JPEG frames of the same moments; a fault of either skips the clip."""
    crop = crop_for(options.crop_file, camera)
    storage = FrameStorage(**options.storage)
    try:
        with (
            named_faults(rgb),
            held(rgb) as first,
            named_faults(infrared),
            held(infrared) as second,
        ):
            films = {"rgb": Film(first, ahead=True), "infrared": Film(second, ahead=True)}

            def encode() -> dict[str, EncodedClip]:
                stops = span_of(films["rgb"].timing, films["infrared"].timing, LENGTHS)
                return {
                    "rgb": encode_film(films["rgb"], stops[0], False, crop, storage),
                    "infrared": encode_film(films["infrared"], stops[1], True, None, storage),
                }

            clips = settled(list(films.values()), encode)
    except VideoError as error:
        return EncodingResult([], [Skip(key, "unreadable video", str(error))], [])
    if not options.trust_names and same_content(rgb, infrared):
        detail = f"{name_of(rgb)} and {name_of(infrared)} hold the same bytes; --trust_names keeps"
        return EncodingResult([], [Skip(key, "RGB and infrared are one film", detail)], [])
    scalars = {"clip_id": key} | scalars
    scalars |= {FRAMES[kind]: clip.total for kind, clip in clips.items()}
    frames = {kind: clip.frames for kind, clip in clips.items()}
    return EncodingResult([Record(key, scalars, frames)], [], _notes(key, films, clips))


def _notes(key: str, films: dict[str, Film], clips: dict[str, EncodedClip]) -> list[Skip]:
    notes = []
    for kind, clip in clips.items():
        if clip.total < SHORT_CLIP:
            notes.append(Skip(key, "short clip", f"{clip.total} {kind} frames"))
        notes += film_notes(key, kind, films[kind], [clip])
    if "rgb" in clips and clips["rgb"].colour < COLOURLESS:
        notes.append(Skip(key, NO_COLOUR, "its channels are equal, as in an infrared file"))
    if len(films) < len(FRAMES):
        return notes
    return notes + length_notes(key, {kind: film.timing for kind, film in films.items()})


def film_notes(key: str, kind: str, film: Film, clips: Sequence[EncodedClip]) -> list[Skip]:
    """Remarks on what is unusual in a film that was read, and in what its pictures show."""
    notes = [Skip(f"{key} {kind}", UNUSUAL, f"it {remark}") for remark in film.remarks]
    flat = next((clip.flat for clip in clips if clip.flat), "")
    return notes + ([Skip(f"{key} {kind}", "nothing to be seen", flat)] if flat else [])


def length_notes(key: str, timings: Mapping[str, Timing]) -> list[Skip]:
    """The remark on a pair that does not last equally long."""
    rgb, infrared = (timings[kind] for kind in FRAMES)
    if not (rgb.timed and infrared.timed):  # as long as each other, so their frames are counted
        first, second = len(rgb.times), len(infrared.times)
        if abs(first - second) <= LENGTHS * max(first, second):
            return []
        detail = f"{first} RGB and {second} infrared frames"
    elif span_of(rgb, infrared, LENGTHS)[2]:
        return []
    else:
        detail = f"{rgb.end:.1f} s of RGB, {infrared.end:.1f} s of infrared"
    how = "each was read from beginning to end, at its own pace"
    return [Skip(key, f"lengths differ by more than {LENGTHS:.0%}", f"{detail}; {how}")]


def same_content(first: Source, second: Source) -> bool:
    """Whether two sources are byte for byte the same."""
    if isinstance(first, Stills) or isinstance(second, Stills):
        pair = (first, second)
        if not all(isinstance(one, Stills) for one in pair) or len(first.files) != len(
            second.files
        ):
            return False
        return all(same_content(*files) for files in zip(first.files, second.files))
    with open_source(first) as one, open_source(second) as other:
        if one.seek(0, 2) != other.seek(0, 2):
            return False
        one.seek(0), other.seek(0)
        while block := one.read(1 << 20):
            if block != other.read(1 << 20):
                return False
    return True
