"""From a folder of PKU-MMD files to videos with annotations, and from a video to its instances."""

from jax_irkd.pku_mmd.annotations import Instance, background
from jax_irkd.pku_mmd.files import CAMERAS, PkuScan
from jax_irkd.pku_mmd.untrimmed import on_own_clock
from jax_irkd.tfds_builders._shared.cache import EncodingResult, EncodingTask, Record
from jax_irkd.tfds_builders._shared.crops import crop_for, require_crops
from jax_irkd.tfds_builders._shared.encoding import EncodedClip, encode_ranges
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.tfds_builders._shared.pairs import film_notes
from jax_irkd.tfds_builders._shared.report import NO_COLOUR
from jax_irkd.video.archives import held, name_of
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError
from jax_irkd.video.finding import Skip
from jax_irkd.video.pixels import COLOURLESS

KEPT_SHARE = 0.5  # An instance of which less is on film is left out.


def tasks_of(found: PkuScan, options: BuildOptions) -> tuple[list[EncodingTask], list[Skip]]:
    """A task for every complete video, and one skip for every instance of an incomplete one.

    A video without annotation is one skip, too, and has more instances (`unlisted`).
    """
    tasks, skipped = [], []
    for name in sorted(found.videos):
        pair, labels = found.videos[name], found.labels.get(name)
        if labels is None:
            why = found.unlabelled.get(name, f"no label file {name}.txt")
            skipped.append(Skip(name, "no annotation", why))
            continue
        skipped += [Skip(name, reason, f"row {row}") for row, reason in labels.dropped]
        if len(pair) == 1 or name not in found.splits:
            reason = f"no {'infrared' if 'rgb' in pair else 'rgb'} file"
            if len(pair) == 2:
                reason = "not in both split files"
            spans = [f"{instance.start}-{instance.stop}" for instance in labels.instances]
            present = ", ".join(name_of(found_file.source) for found_file in pair.values())
            skipped += [Skip(f"{name} {span}", reason, f"only {present}") for span in spans]
            continue
        stamp = f"{pair['rgb'].stamp} {pair['infrared'].stamp} {found.stamps[name]}"
        instances = labels.instances
        if options.background:
            instances = instances + background(instances, labels.taken)
        work = (pair["rgb"].source, pair["infrared"].source, instances, options)
        tasks.append(EncodingTask(name, found.splits[name], stamp, work))
    require_crops(options.crop_file, [task.key[-1] for task in tasks])
    return tasks, skipped


def unlisted(found: PkuScan) -> int:
    """The instances of videos without annotation beyond the one skip for each, as others have."""
    without = sum(name not in found.labels for name in found.videos)
    rows = sum(len(labels.instances) + len(labels.dropped) for labels in found.labels.values())
    return max(0, round(without * (rows / len(found.labels) - 1)))


def encode(task: EncodingTask) -> EncodingResult:
    """All instances of a video, each modality decoded once, in order.

    A fault in one of the videos costs the instances that reach it, not those before.
    """
    rgb, infrared, instances, options = task.work
    try:
        with held(rgb) as first, held(infrared) as second:
            return _encode(task.key, Film(first), Film(second), instances, options)
    except (VideoError, OSError, ValueError) as error:
        return EncodingResult(
            [], [Skip(task.key, "unreadable video", str(error)) for _ in instances], []
        )


def _encode(
    video: str, rgb: Film, infrared: Film, instances: list[Instance], options: BuildOptions
) -> EncodingResult:
    films = {"rgb": rgb, "infrared": infrared}
    spans = [(instance.start, instance.stop) for instance in instances]
    wanted = {"rgb": spans, "infrared": on_own_clock(spans, rgb.whole, infrared.whole)}
    crops = {"rgb": crop_for(options.crop_file, video[-1]), "infrared": None}
    clips, lengths, faults, notes = {}, {}, {}, []
    for kind, film in films.items():
        clips[kind], lengths[kind], faults[kind] = encode_ranges(
            film,
            wanted[kind],
            infrared=kind == "infrared",
            crop=crops[kind],
            **options.storage,
        )
    if lengths["rgb"] != lengths["infrared"] and not any(faults.values()):
        seconds = [films[kind].timing.end for kind in ("rgb", "infrared")]
        detail = (
            f"{lengths['rgb']} RGB frames in {seconds[0]:.1f} s and {lengths['infrared']} infrared "
            f"frames in {seconds[1]:.1f} s"
        )
        notes.append(Skip(video, "lengths differ", detail))
    records, skipped = [], []
    for row, instance in enumerate(instances):
        own = {kind: wanted[kind][row] for kind in wanted}
        pair = {kind: clips[kind][row] for kind in clips}
        why = _too_little(pair, own, lengths, faults)
        pair = pair if why else _until_both_end(pair, own, films)
        if why:
            skipped.append(Skip(f"{video} {instance.start}-{instance.stop}", *why))
        else:
            records.append(_record(video, row, instance, pair))
            annotated = instance.stop - instance.start
            if pair["rgb"].total < annotated:
                there = " and ".join(f"{lengths[kind]} {kind}" for kind in films)
                detail = f"frames {instance.start}-{instance.stop}, there are {there} frames"
                notes.append(Skip(f"{video}-{row:03d}", "cut off at the end", detail))
    for kind, own in clips.items():
        notes += film_notes(video, kind, films[kind], own)
    colour = [clip.colour for clip in clips["rgb"] if clip.frames]
    if colour and sum(colour) / len(colour) < COLOURLESS:
        notes.append(Skip(video, NO_COLOUR, "its channels are equal, as in an IR file"))
    return EncodingResult(records, skipped, notes)


def _too_little(
    pair: dict[str, EncodedClip], wanted: dict[str, tuple[int, int]], lengths: dict, faults: dict
) -> tuple[str, str] | None:
    """Why an instance cannot be used, or None."""
    for kind, clip in pair.items():
        start, stop = wanted[kind]
        if clip.total == stop - start:
            continue
        if faults[kind]:
            return "unreadable video", str(faults[kind])
        if too_short(clip.total, stop - start) or not clip.frames:
            return "past the end", f"frames {start}-{stop}, the {kind} video has {lengths[kind]}"
    return None


def _until_both_end(
    pair: dict[str, EncodedClip], wanted: dict[str, tuple[int, int]], films: dict[str, Film]
) -> dict[str, EncodedClip]:
    """An instance that passes the end of a film, cut off in both at the last moment both show.

    Readers take frames by their place between the first and the last of a clip, so that clips of
    different lengths would show different moments.
    """
    stops = {kind: start + pair[kind].total for kind, (start, _) in wanted.items()}
    if all(stops[kind] == stop for kind, (_, stop) in wanted.items()):
        return pair
    rgb, infrared = films["rgb"].whole, films["infrared"].whole
    if stops["infrared"] < wanted["infrared"][1]:
        end = (wanted["infrared"][0], stops["infrared"])
        stops["rgb"] = min(stops["rgb"], on_own_clock([end], infrared, rgb)[0][1])
    end = (wanted["rgb"][0], stops["rgb"])
    stops["infrared"] = min(stops["infrared"], on_own_clock([end], rgb, infrared)[0][1])
    return {kind: pair[kind].until(stops[kind], wanted[kind][0]) for kind in pair}


def too_short(length: int, annotated: int) -> bool:
    """Whether so many frames of an instance on film are too few to keep it."""
    return length < KEPT_SHARE * annotated


def _record(video: str, row: int, instance: Instance, pair: dict[str, EncodedClip]) -> Record:
    key = f"{video}-{row:03d}"
    scalars = {
        "clip_id": key,
        "label": instance.label,
        "video": video,
        "camera": CAMERAS[video[-1]],
        "start": instance.start,
        "stop": instance.stop,
        "confidence": instance.confidence,
        "rgb_frames": pair["rgb"].total,
        "infrared_frames": pair["infrared"].total,
    }
    return Record(key, scalars, {kind: clip.frames for kind, clip in pair.items()})
