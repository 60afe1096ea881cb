import contextlib
import json
import os
import re
import subprocess
import sys
import time
from functools import partial

import cv2
import jax
import numpy as np
import pytest

import benchmarks.__main__ as everything
from benchmarks import (
    _distillation,
    _measure,
    _roofline,
    background,
    balance,
    devices,
    grey_teacher,
    growth,
)
from benchmarks._measure import Result, Timing
from benchmarks.training import epochs_of
from jax_irkd import config
from jax_irkd.config import paper_setup
from jax_irkd.data import loading
from jax_irkd.detection.rows import Row
from jax_irkd.detection.watching import Watched
from jax_irkd.models import tsn
from jax_irkd.training import steps
from jax_irkd.training.evaluation import Scores
from jax_irkd.training.setup import lengths
from tests.helpers import ROOT


def test_a_result_knows_whether_it_reached_its_target():
    assert Result("speed", 1.3, "×", "≥ 1.3").met and Result("share", 3.0, "%", "≤ 3 %").met
    assert not Result("speed", 1.2, "×", ">= 1.3").met and not Result("share", 3.1, "%", "<= 3").met
    assert Result("free", 1.0).met is None
    with pytest.raises(ValueError, match=r"target '3' of 'odd' starts with neither ≥ nor ≤"):
        _ = Result("odd", 1.0, "", "3").met


def test_calls_take_turns_and_every_round_begins_with_another():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    timings = _measure.alternate(calls, repeats=3, warm=1)
    assert "".join(order) == "abc" + "abc" + "bca" + "cab"
    assert all(len(t.wall) == len(t.processor) == 3 for t in timings.values())


def test_waiting_costs_time_on_the_clock_and_none_of_the_processor():
    [timing] = _measure.alternate({"sleep": lambda: time.sleep(0.05)}, repeats=2).values()
    assert min(timing.wall) >= 0.05 > 10 * max(timing.processor)


def test_a_ratio_is_taken_round_by_round():
    # The second round met a neighbour; both sides did, so the ratio does not show it.
    slow, quick = Timing([2.0, 20.0, 2.2], []), Timing([1.0, 10.0, 1.0], [])
    found = _measure.ratio(slow, quick)
    assert found.median == 2.0 and found.high == pytest.approx(2.1)
    assert found.result("gain", "×", "≥ 1").met


@pytest.mark.slow
def test_operations_of_the_step_are_those_counted_by_hand():
    sizes = _distillation.Sizes(clips=2, segments=1, resolution=224)
    half = _distillation.networks(sizes, half=True)  # bfloat16: no shorter convolutions
    lowered = _distillation.Step(half, _distillation.make_batch(sizes)).lower()
    # ResNet-50 has 4.09 and ResNet-18 1.81 G products a frame; the student needs three times as
    # many, for the gradients to its maps and kernels.
    by_hand = 2 * 2 * (4.09 + 3 * 1.81) * 1e9
    counted = _roofline._analysis(lowered)["flops"]
    assert counted == pytest.approx(by_hand, rel=0.1)


def test_a_roofline_takes_the_nearer_ceiling():
    limits = _roofline.Ceilings(flops=100.0, bytes=10.0)
    assert _roofline.Cost(200.0, 10.0, 0.0).seconds(limits) == 2.0
    assert _roofline.Cost(200.0, 30.0, 0.0).seconds(limits) == 3.0
    kernels = ((200.0, 0.0), (0.0, 30.0))  # one after the other
    assert _roofline.Cost(200.0, 30.0, 0.0, kernels).seconds(limits) == 5.0
    measured = _roofline.ceilings(half=False, size=64, megabytes=1)
    assert measured.flops > 1e6 and measured.bytes > 1e6


def test_steps_of_methods_that_learn_are_timed_too():
    sizes = _distillation.Sizes(clips=2, segments=1, resolution=32, width=4)
    found = _distillation.networks(sizes, half=False)
    methods = {"fitnet": {}, "at": {}, "mgcam": {"activation": "conv1x1", "pairs": "same"}}
    step = _distillation.Step(found, _distillation.make_batch(sizes), methods)
    learned = step.state.params["distillers"]
    assert [bool(jax.tree.leaves(learned[name])) for name in methods] == [True, False, True]
    _, terms = jax.eval_shape(step.update, step.state, step.teacher, step.batch)
    assert {"fitnet", "at", "mgcam"} <= set(terms)


BARE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is not on this machine")

sys.meta_path.insert(0, Missing())
import jax
from benchmarks import _distillation, growth, losses, seeds, step
arguments = step.complete(step.parser().parse_args(["--device=cpu"]))
assert arguments.baselines == ["eager"] and arguments.resolution == [112, 224]
assert step.baseline_module() is None
sizes = _distillation.Sizes(clips=1, segments=1, resolution=32, width=4)
found = _distillation.networks(sizes, half=False)
made = _distillation.Step(found, _distillation.make_batch(sizes))
assert jax.eval_shape(made.update, made.state, made.teacher, made.batch)
print("loaded", sorted({blocked!r} & set(sys.modules)))
"""


CHOSEN = """
import jax
from benchmarks import step

step.devices.start = lambda how: print(jax.config.jax_platforms, how)  # the first look
step.results = lambda arguments: print(arguments.baselines) or []
raise SystemExit(step.main([{option!r}]))
"""


@pytest.mark.slow
def test_the_device_of_a_step_is_chosen_before_jax_looks_for_one():
    def done(option: str) -> subprocess.CompletedProcess:
        variables = {k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"}
        command = [sys.executable, "-c", CHOSEN.format(option=option)]
        return subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)

    assert done("--device=cpu").stdout == "cpu off\n['eager']\n"
    if jax.default_backend() == "cpu":
        told = done("--device=gpu")
        assert (told.returncode, told.stdout) == (2, "cuda,cpu off\n")
        assert re.fullmatch("error: --device=gpu: JAX finds none; .* --device=cpu\n", told.stderr)


@pytest.mark.slow
def test_compute_benchmarks_run_where_only_jax_flax_and_optax_are():
    blocked = {"grain", "tensorflow_datasets", "cv2", "av", "ml_collections", "matplotlib"}
    blocked |= {"torch", "tensorflow", "sklearn", "array_record"}
    done = subprocess.run(
        [sys.executable, "-c", BARE.format(blocked=blocked)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "PyTorch is not installed: only our own step is timed" in done.stdout
    assert done.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.slow
def test_pytorch_computes_the_same():
    pytest.importorskip("torch")
    from benchmarks import step, torch_step

    sizes = _distillation.Sizes(clips=3, segments=2, resolution=96, width=8)
    worst = step.check_equal(torch_step, sizes)
    assert set(worst) == {"ce", "dkd", "mgcam", "gradient"}
    assert max(worst.values()) < 1e-4


def _result(name: str, value: float, accelerator: str = "") -> dict:
    machine = {
        "processor": "slow one",
        "cores": 2,
        "memory_gb": 24.0,
        "accelerator": accelerator,
        "system": "Linux",
        "versions": {"jax": "0.10.2"},
        "commit": "abc",
        "date": "2026-11-23",
    }
    result = Result("ours", value, "×", "≥ 1", 0.5, 2.0, "so many")
    rows = [result._asdict() | {"met": result.met}]
    return {"benchmark": name, "machine": machine, "seconds": 3, "results": rows}


def test_the_page_keeps_its_text_and_gets_the_new_table(tmp_path):
    marks = f"{everything.BEGIN}\nold\n{everything.END}"
    (tmp_path / "performance.md").write_text(f"# Speed\n\nbefore\n\n{marks}\n\nafter\n")
    everything.write(tmp_path, [_result("seeds", 0.9), _result("step", 0.8)])
    noted = _result("step", 3.0, "GPU") | {"note": "Of before the mends."}
    everything.write(tmp_path, [_result("step", 1.2), noted])
    page = (tmp_path / "performance.md").read_text()
    assert page.startswith("# Speed\n\nbefore\n") and page.endswith("\nafter\n")
    assert "old" not in page and page.index("distillation step") < page.index("Several students")
    headings = ["### The distillation step (slow one)", "### The distillation step (GPU)"]
    assert [line for line in page.splitlines() if "distillation step" in line] == headings
    assert "jax 0.10.2.\n\nOf before the mends.\n\n| what |" in page
    assert "| ours (so many) | 1.20 × | 0.50 to 2.00 | ≥ 1 | yes |" in page
    assert "| ours (so many) | 0.90 × | 0.50 to 2.00 | ≥ 1 | **no** |" in page
    kept = json.loads((tmp_path / "performance.json").read_text())
    machines = [(result["benchmark"], result["machine"]["accelerator"]) for result in kept]
    assert machines == [("step", ""), ("step", "GPU"), ("seeds", "")]


def test_a_page_without_marks_is_left_alone(tmp_path):
    (tmp_path / "performance.md").write_text("my own words")
    with pytest.raises(SystemExit, match=r"performance.md lacks the marks"):
        everything.write(tmp_path, [_result("step", 1.0)])
    assert (tmp_path / "performance.md").read_text() == "my own words"


def test_a_benchmark_that_fails_does_not_stop_the_others(tmp_path, monkeypatch, capsys):
    def run_one(name, options):
        return None if name == "inputs" else _result(name, 1.0)

    monkeypatch.setattr(everything, "run_one", run_one)
    monkeypatch.setattr(sys, "argv", ["x", f"--out={tmp_path}", "--only=inputs,step"])
    assert everything.main() == 1
    assert "failed: inputs" in capsys.readouterr().err
    assert "| ours" in (tmp_path / "performance.md").read_text()


def test_cases_that_axes_share_are_measured_once(monkeypatch):
    seen = []

    def child(case, repeats):
        seen.append(dict(case))
        return {"seconds": float(len(seen))}

    monkeypatch.setattr(growth, "child", child)
    rows = growth.sweep({"clips": (4, 8), "segments": (4, 8)}, growth.CASE, repeats=1)
    assert len(seen) == 3 and [row["seconds"] for row in rows] == [1.0, 2.0, 1.0, 3.0]


def test_growth_draws_its_plot(tmp_path):
    rows = [
        {"axis": axis, "value": value, "seconds": value / 10, "process": 1e9 * value}
        for axis in ("clips", "devices")
        for value in (1, 2)
    ]
    of_loss = [
        {"stages": k, "pairs": p, "milliseconds": k} for k in (1, 2) for p in ("all", "same")
    ]
    growth.plot(rows, of_loss, tmp_path / "deep" / "growth.png")
    assert (tmp_path / "deep" / "growth.png").read_bytes().startswith(b"\x89PNG")


def test_what_was_measured_is_kept_when_the_time_is_up(tmp_path, monkeypatch, capsys):
    def part(name):
        def measured(sizes, precision):
            if (name, precision) == ("update", "default"):
                raise KeyboardInterrupt
            return [Result(f"{name}, {precision} {sizes.clips}", 1.0)]

        return measured

    def names(*options) -> list[str]:
        with contextlib.suppress(KeyboardInterrupt):
            arguments = devices.parser().parse_args([*options, "--clips=2"])
            _measure.run("devices", devices.results, arguments, path)
        return [row["name"] for row in json.loads(path.read_text())["results"]]

    path = tmp_path / "results.json"
    monkeypatch.setattr(devices, "PARTS", {name: part(name) for name in devices.PARTS})
    assert names() == ["losses, highest 2", "update, highest 2", "losses, default 2"]
    assert names("--only=update", "--precision=highest") == ["update, highest 2"]
    with pytest.raises(SystemExit):
        names("--only=updates")
    assert "unknown ['updates']; choose from ['losses', 'update']" in capsys.readouterr().err


def test_what_a_share_costs_is_measured_for_what_is_recommended():
    default = balance.parser().parse_args([]).methods
    assert {config.METHODS[name] for name in ("best", "ours")} <= set(default)


def test_a_grey_reader_shows_the_luma():
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[:, :4] = 200, 40, 90  # 0.299 * 200 + 0.587 * 40 + 0.114 * 90 = 93.54
    encoded = cv2.imencode(".png", colour[..., ::-1])[1].tobytes()
    reader = grey_teacher.GreyReader([], ("rgb",), 1, {"rgb": (8, 8)}, loading.Faults(0, 0))
    (frame,) = reader._decode([encoded], np.array([0.5]), "rgb")
    assert frame.shape == (8, 8, 3) and frame.dtype == np.uint8
    assert (frame[:, :4] == 94).all() and not frame[:, 4:].any()


def test_shares_by_class_by_hand():
    logits = np.array([[2, 1], [0, 1], [0, 3], [1, 0]])
    scores = Scores(np.arange(4), np.array([0, 0, 1, 1]), logits)
    np.testing.assert_array_equal(grey_teacher.by_class(scores, 2), [0.5, 0.5])
    assert grey_teacher.main(["--runs=nowhere"]) == 2


def test_the_limits_of_a_teacher_that_reads_colour(monkeypatch, capsys):
    names = ("", np.array(["wave", "clap", "mean of the classes"]))
    colour = ("teacher", np.array([0.95, 0.75, 0.85]))
    grey = ("in grey", np.array([0.9, 0.52, 0.71]))
    infrared = ("infrared", np.array([0.6, 0.8, 0.7]))
    columns = [names, colour, grey, infrared]
    monkeypatch.setattr(grey_teacher, "measure", lambda runs: columns)
    assert grey_teacher.main(["--runs=made_up"]) == 0
    lost, least = capsys.readouterr().out.splitlines()[-2:]
    assert lost.split()[-5:] == ["points", "target", "≤", "15:", "met"]
    assert least.split()[-8:] == ["-5.00", "points", "target", "≥", "0:", "NOT", "met", "(clap)"]
    assert [row.met for row in grey_teacher.limits(columns[:3])] == [True]
    grey[1][-1] = 0.69
    assert [row.met for row in grey_teacher.limits(columns)] == [False, False]


@pytest.mark.parametrize("clips", [8, 32, 128])  # of 80; what an epoch leaves over counts for none
def test_training_is_timed_for_as_many_steps_as_were_asked_for(clips):
    training = paper_setup("ours", "cross_subject", 0).student_training
    training.batch_size, training.num_epochs = clips, epochs_of(120, clips, films=160)
    assert lengths(training, 80) == (max(80 // clips, 1), 120)


def test_batches_show_different_clips():
    batch = _distillation.make_batch(_distillation.Sizes(2, 3, 40))
    assert batch["rgb"].shape == (2, 3, 40, 40, 3) and batch["infrared"].shape == (2, 3, 40, 40, 1)
    assert batch["rgb"].dtype == np.uint8
    means = batch["infrared"].mean((1, 2, 3, 4))
    assert abs(means[0] - means[1]) > 1
    assert jax.tree.leaves(_distillation.as_step_input(batch))[0].shape[0] == 1


def test_relations_keep_no_matrix_of_all_triplets():
    """A count of the compiler, which compiles only."""
    from benchmarks import losses

    result = losses._relations_memory(64, losses.RELATIONS[64])
    assert 0 < result.value <= 2


@pytest.mark.slow
def test_the_step_of_the_losses_computes_as_training_does(monkeypatch):
    from benchmarks import losses

    def small(classes: int, depth: int, **fields) -> tsn.TSN:
        return made(classes, depth=18, width=8, **fields)

    def zeros(model, *arguments, **named):  # nothing is compiled
        return steps.zeros(partial(init, model, **named), *arguments)

    made, init = tsn.TSN, tsn.TSN.init
    monkeypatch.setattr(tsn, "TSN", small)
    monkeypatch.setattr(made, "init", zeros)
    monkeypatch.setattr(losses, "_waiting", lambda function, *arguments: (function, arguments))
    for backend, dtype, short in (("gpu", "bfloat16", "bf16"), ("cpu", "float32", "f32")):
        monkeypatch.setattr(jax, "default_backend", lambda name=backend: name)
        step, arguments = losses.make_step(1, 1, 32, losses.training_type())
        assert ("batch_stats" in arguments[0]) == (backend == "cpu")
        program = str(jax.make_jaxpr(step)(*arguments))
        types = re.findall(r":(\w+)\[[\d,]*\] = conv_general_dilated", program)
        assert len(types) > 2 * 20 and set(types) == {short}
        shown = losses.outputs(jax.random.key(0), (1, 1, 64), 8, losses.training_type())
        maps = {shown.features[name].dtype.name for name in ("stage1", "stage4_preact")}
        assert maps == {dtype}
        assert shown.features["pooled"].dtype == shown.logits.dtype == np.float32


def test_results_of_a_background_class_by_hand():
    """Two recordings of two actions each: a network that names them, and one that also proposes two
    in the four seconds of nothing."""
    truth = [Row(1, 31, 60, 1.0), Row(2, 91, 120, 1.0)]  # of 180 frames
    spans = np.array([[a, a + 30] for a in range(0, 180, 30)])

    def film(name, eager):
        actions, nothing = np.zeros((6, 51)), None if eager else np.full(6, 0.9)
        actions[[1, 3], [0, 1]] = 0.9
        if eager:
            actions[[0, 4], 5] = 0.8, 0.6
        else:
            nothing[[1, 3]] = 0.1
        answers = np.array([5 if eager else -1, 0, -1, 1, -1, -1])
        return background.Film(
            name, Watched(None, spans, actions, nothing, actions), spans, 30.0, truth, answers
        )

    chosen = paper_setup("baseline", "cross_subject", 0)
    chosen.eval.smoothing = 1
    runs = [background.Run([film("0001-L", e), film("0002-L", e)], chosen) for e in (True, False)]
    made = background.compare([runs], 0.5, draws=5)
    without, with_ = made["without"], made["with"]
    assert with_["mAP"]["mean"] == with_["F1"]["mean"] == 100 == without["mAP"]["mean"]
    assert without["F1"]["mean"] == pytest.approx(100 * 2 / 3)  # four of eight proposals are right
    assert without["false a minute"]["mean"] == pytest.approx(2 / (4 / 60))
    assert with_["false a minute"]["change"] == pytest.approx([-30, -30])
    assert with_["AUROC"]["mean"] == 1 == without["AUROC"]["mean"]
    answered = "windows of nothing answered"
    assert (without[answered]["mean"], with_[answered]["mean"]) == (25, 0)
    assert with_["windows of actions rightly named"]["seeds"] == [100]
    assert "with - without [-30.00, -30.00]" in background.table(made, 0.5)
