"""The progress bar: what it shows on a narrow terminal, and what it counts as time."""

import io

import pytest
from rich.console import Console

from jax_irkd.host import terminal

TEXT = "accuracy 0.625  ce 1.642  dkd 0.386  mgcam 0.123  loss 2.151"


@pytest.mark.parametrize("width", [80, 160])
def test_the_bar_keeps_its_counts_on_a_narrow_terminal(monkeypatch, width):
    shown = io.StringIO()
    monkeypatch.setattr(terminal, "console", Console(file=shown, width=width, force_terminal=True))
    clock = iter([0.0, 100.0, 110.0, 110.1])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock, 110.1))
    with terminal.Progress("train ours (infrared)", 666) as bar:
        bar.update(1, TEXT)
        bar.update(31, TEXT)
    line = Console(file=io.StringIO(), width=200).render_str(shown.getvalue()).plain
    last = line.rstrip().rsplit("\r", 1)[-1].rsplit("train ours", 1)[-1]
    assert "31/666" in last and "3 steps/s" in last and "ETA 3:32" in last
    assert "accuracy 0" in last and ("loss 2.151" in last) == (width == 160)


def test_the_first_update_only_starts_the_clock(monkeypatch, capsys):
    clock = iter([0.0, 100.0, 120.0])  # made, first update after compiling, second
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.Progress("train x", 201) as bar:
        bar.update(1, "loss 2")
        bar.update(41, "loss 1")
    first, second = capsys.readouterr().out.splitlines()
    assert first == "train x: 1/201  loss 2"
    assert second == "train x: 41/201  2 steps/s  ETA 1:20  loss 1"


def test_hours_left_are_hours(monkeypatch, capsys):
    clock = iter([0.0, 0.0, 20.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    with terminal.Progress("train x", 20001) as bar:
        bar.update(1)
        bar.update(21)
    assert capsys.readouterr().out.endswith("ETA 5:33:00\n")
