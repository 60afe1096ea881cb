"""docs/custom.md carried out from its first command to its last, on films of a second and small
networks; and what README does with a finished run. That every other command printed is one:
test_docs."""

import re

import pytest

from jax_irkd import __main__ as door
from jax_irkd.data.synthetic.raw_ntu import write_video
from tests.commands.test_docs import printed, words_of
from tests.helpers import ROOT, fakes
from tests.helpers.shared_programs import shared_programs  # noqa: F401

SMALL = """--config.input.num_segments=2 --config.input.resolution=32 --config.num_devices=1
    --config.dataset.rgb_size=(32,40) --config.dataset.infrared_size=(32,40)
    --config.teacher_training.batch_size=4 --config.student_training.batch_size=4
    --config.teacher_training.num_epochs=1 --config.student_training.num_epochs=1
    --config.teacher_training.min_steps=0 --config.student_training.min_steps=0
    --config.log_every=1 --config.allow_weak_teacher=True --config.loggers=('jsonl',)"""
# Its two steps of training are those of tests/inspection/test_checkup.py.
# What is fetched: tests/weights/test_published.py.
ELSEWHERE = ("doctor", "weights")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """RAW as the page asks for it: two classes, eight people."""
    for label in ("wave", "clap"):
        for person in ("anna", "bert", "carl", "dora", "emil", "fred", "gina", "hans"):
            name = f"{label}/{person}__1.avi"
            write_video(tmp_path / "RAW" / "rgb" / name, 5, codec="mjpeg")
            write_video(tmp_path / "RAW" / "infrared" / name, 5, infrared=True, codec="mjpeg")
    monkeypatch.chdir(tmp_path)
    fakes.use_tiny_models(monkeypatch)
    return tmp_path


def carried_out(line):
    """The exit code of a printed line, its networks small; by ST, which compiles in half the time
    that `best` takes (tests/commands/test_main.py carries that out)."""
    name, *argv = words_of(
        line.replace("custom.py", "custom.py:method=st").replace("/best", "/st")
    )[2:]
    name = name.removeprefix("jax_irkd.")
    if any(word.startswith("--config=") for word in argv):
        argv = [word for word in argv if not word.startswith("--config.weights.")]
        argv += SMALL.split()
    if name == "build":
        argv.append("--workers=1")
    return door.module(name).main(argv)


@pytest.mark.slow
def test_ones_own_classes_from_films_to_fused_scores(folder, capsys):
    lines = [line for line in printed(ROOT / "docs" / "custom.md") if line.startswith("python -m")]
    lines = [
        line for line in lines if re.match(r"python -m jax_irkd\.(\w+)", line)[1] not in ELSEWHERE
    ]
    assert len(lines) == 9
    for line in lines:
        assert carried_out(line) == 0, (line, capsys.readouterr().err)
    made = ("sheet.png", "curves.png", "runs/custom/report.html", "runs/custom/fusion.json")
    assert all((folder / name).stat().st_size > 500 for name in made)
    for command in ("predict", "export", "report"):
        (line,) = (
            line
            for line in printed(ROOT / "README.md")
            if f"jax_irkd.{command} " in line and "--stream" not in line
        )
        line = line.replace("runs/demo/fitnet", "runs/custom/best").replace(
            "runs/demo", "runs/custom"
        )
        line = line.replace("video.avi", "RAW/infrared/wave/anna__1.avi")
        assert carried_out(line) == 0, (line, capsys.readouterr().err)
    assert (folder / "student.irkd").stat().st_size > 500
