"""A short film of RGB, infrared and what a student answers over time: the README's first picture.

    python examples/film_of_answers.py --run=runs/demo/fitnet --raw=runs/demo_data/raw

The films are one person's by one camera, in the order of the classes, played twice as fast. Which
person: the first on whose clips the run was as good as on all clips of its test (its scores.npz
says so), so that the film shows neither its best nor its worst; `--clips` names others. The student
sees infrared only and is asked every four frames, as by `predict --stream --stride=4`. `--raw` is a
folder of NTU RGB+D's files or of generated ones, unpacked.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jax_irkd import Recognizer
from jax_irkd.deployment.annotate import in_colour
from jax_irkd.deployment.recognizer import Prediction
from jax_irkd.video.decoding import Film

WIDTH, HEIGHT, MARGIN = 720, 404, 8
GROUND, TRACK, TEXT, SOFT = (18, 21, 27), (42, 49, 60), (232, 235, 240), (154, 164, 178)
COLOURS = ["#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#bbbbbb"]
COLOURS += ["#8c6bd6", "#8a5a2b"]
STRIDE = 4  # frames between answers; each time one is shown
SPEED = 2.0  # how much faster than in life


class Moment(NamedTuple):
    """What is shown at once: the class that is acted (from 0), both pictures, the newest answer."""

    acted: int
    rgb: np.ndarray
    infrared: np.ndarray
    answer: Prediction | None


def typical(run: Path) -> str:
    """The first person, camera and recording, as in `S001C001P003R001`, all of whose clips together
    were recognised as often as those of the whole test (to one clip)."""
    scores = np.load(run / "scores.npz")
    right = scores["logits"].argmax(axis=1) == scores["label"]
    groups: dict[str, list[bool]] = {}
    for name, hit in sorted(zip(scores["clip_id"].astype(str), right)):
        groups.setdefault(name[:16], []).append(hit)
    most = max(map(len, groups.values()))
    whole = {name: sum(hits) for name, hits in groups.items() if len(hits) == most}
    wanted = round(right.mean() * most)
    return min(whole, key=lambda name: (abs(whole[name] - wanted), name))


def pairs(raw: Path, name: str) -> list[tuple[int, Path, Path]]:
    """(class from 0, RGB file, infrared file) of the clips whose names begin with `name`."""
    found = []
    for rgb in sorted(raw.rglob(f"{name}A*_rgb.avi"), key=lambda path: path.name):
        infrared = next(raw.rglob(rgb.name.replace("_rgb", "_ir")), None)
        if infrared:
            found.append((int(re.search(r"A(\d{3})_rgb", rgb.name)[1]) - 1, rgb, infrared))
    if not found:
        raise SystemExit(f"{raw} has no pair of clips {name}A…")
    return found


def moments(recognizer: Recognizer, clips: Sequence[tuple[int, Path, Path]]) -> Iterator[Moment]:
    """All clips, one after the other; the recognizer forgets at every cut."""
    for acted, rgb, infrared in clips:
        recognizer.reset()
        answer = None
        colours = [shot.image() for shot in Film(rgb).shots()]
        greys = [(shot.image(), shot.time) for shot in Film(infrared).shots()]
        for number, (grey, time) in enumerate(greys):
            answer = recognizer.push(grey, time) or answer
            if number % STRIDE == 0:
                # Both films show the same action; one may have a frame more.
                at = round(number * (len(colours) - 1) / max(len(greys) - 1, 1))
                yield Moment(acted, colours[at], grey, answer)


def drawn(moment: Moment, past: Sequence[Moment], total: int, names: Sequence[str]) -> Image.Image:
    """One picture of the film; `past` is what came before it."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), GROUND)
    pen = ImageDraw.Draw(picture)
    half = (WIDTH - 3 * MARGIN) // 2
    for left, image, title in (
        (MARGIN, moment.rgb, "RGB (the teacher's)"),
        (2 * MARGIN + half, moment.infrared, "infrared (the student's)"),
    ):
        view = Image.fromarray(in_colour(image))
        scale = min(half / view.width, 266 / view.height)
        view = view.resize((round(view.width * scale), round(view.height * scale)))
        picture.paste(view, (left + (half - view.width) // 2, 28 + (266 - view.height) // 2))
        pen.text((left, 6), title, SOFT, _font(15))
    pen.text((MARGIN, 304), f"acted:  {names[moment.acted]}", TEXT, _font(19))
    if moment.answer:
        best, left = int(moment.answer.probabilities.argmax()), 2 * MARGIN + half
        text = f"answer:  {names[best]}"
        while pen.textlength(text, _font(19)) > half - 50:
            text = text[:-2] + "…"
        pen.text((left, 304), text, TEXT, _font(19))
        value = f"{moment.answer.probability:.0%}"
        pen.text((WIDTH - MARGIN, 304), value, TEXT, _font(19), anchor="ra")
        pen.rectangle((left, 332, left + half, 336), TRACK)
        pen.rectangle((left, 332, left + half * moment.answer.probability, 336), colour(best))
    for top, title in ((348, "acted"), (374, "answer")):
        pen.text((MARGIN, top + 2), title, SOFT, _font(14))
        pen.rectangle((70, top, WIDTH - MARGIN, top + 18), TRACK)
    step = (WIDTH - MARGIN - 70) / total
    for place, one in enumerate([*past, moment]):
        x = (round(70 + place * step), round(70 + (place + 1) * step))
        pen.rectangle((x[0], 348, x[1], 366), colour(one.acted))
        if one.answer:
            best = int(one.answer.probabilities.argmax())
            pen.rectangle((x[0], 374, x[1], 392), colour(best))
    return picture


def colour(label: int) -> str:
    """Of a class, counted from 0."""
    return COLOURS[label % len(COLOURS)]


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--run", required=True, help="a run's folder or an exported file")
    parser.add_argument("--raw", required=True, type=Path, help="NTU RGB+D's files, unpacked")
    parser.add_argument("--out", default="film.webp", type=Path, help=".webp or .gif")
    parser.add_argument("--clips", default="", help="such as S001C001P003R001")
    parser.add_argument("--seconds", default=1.6, type=float, help="a window; clips last so long")
    parser.add_argument("--quality", default=60, type=int, help="of WebP")
    flags = parser.parse_args()
    name = flags.clips or typical(Path(flags.run))
    clips = pairs(flags.raw, name)
    rate = Film(clips[0][2]).timing.rate
    recognizer = Recognizer(flags.run, stride=STRIDE, seconds=flags.seconds, rate=rate)
    names = recognizer.classifier.class_names
    found = list(moments(recognizer, clips))
    pictures = [drawn(one, found[:at], len(found), names) for at, one in enumerate(found)]
    options = {"quality": flags.quality, "method": 6} if flags.out.suffix == ".webp" else {}
    options |= {"save_all": True, "append_images": pictures[1:], "loop": 0}
    pictures[0].save(flags.out, duration=round(1000 * STRIDE / rate / SPEED), **options)
    asked = [one for one in found if one.answer]
    right = sum(int(one.answer.probabilities.argmax()) == one.acted for one in asked)
    print(
        json.dumps(
            {"clips": name, "pictures": len(pictures), "answers": len(asked), "right": right}
        )
    )


if __name__ == "__main__":
    main()
