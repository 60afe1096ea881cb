import jax
import pytest
from packaging.requirements import Requirement

from jax_irkd import doctor
from jax_irkd.configs import demo, ntu
from jax_irkd.data import loading
from jax_irkd.errors import UserError
from jax_irkd.host import devices, gpus
from jax_irkd.host.interrupts import Interrupted
from jax_irkd.inspection import checkup, compilation, cost
from jax_irkd.inspection.checkup import GREEN, RED, YELLOW, Line
from jax_irkd.inspection.compilation import Finding
from jax_irkd.training import probe
from tests.helpers import fakes


def colours(lines):
    return [line.colour for line in lines]


@pytest.mark.slow
def test_two_steps_of_training():
    (line,) = checkup.check_training()
    assert line.colour == GREEN and "2 steps, loss 0." in line.text, line


def test_training_that_fails_is_a_red_line(monkeypatch):
    def fail(folder):
        raise RuntimeError("no kernel image\n is available")

    monkeypatch.setattr(probe, "train_two_steps", fail)
    (line,) = checkup.check_training()
    assert line.colour == RED and line.text == "RuntimeError: no kernel image is available"
    assert "JAX_PLATFORMS=cpu" in line.remedy


def test_a_stopped_check_offers_nothing_to_continue(monkeypatch):
    """The folder of the two steps is gone when the doctor ends."""

    def stopped(folder):
        raise Interrupted(f"SIGINT: saved step 1 of 2 in {folder}; run the same command again")

    monkeypatch.setattr(probe, "train_two_steps", stopped)
    with pytest.raises(KeyboardInterrupt):
        checkup.check_training()

    def full(folder):
        raise UserError(f"the checkpoint could not be written to {folder}; free space and go on")

    monkeypatch.setattr(probe, "train_two_steps", full)
    [line] = checkup.check_training()
    assert "could not be written" in line.text and "go on" not in line.text


def test_versions():
    lines = checkup.check_versions()
    topics = [line.topic for line in lines]
    assert topics[:3] == ["python", "jax", "jaxlib"] and "av" in topics
    assert RED not in colours(lines)
    jax = checkup.check_distribution("jax", "jax", Requirement("jax>=99"))
    assert (jax.colour, jax.remedy) == (YELLOW, "pip install 'jax>=99'")
    assert "but >=99 is asked for" in jax.text
    absent = checkup.check_distribution("no-such-thing", None, Requirement("no-such-thing>=2"))
    assert absent[:3] == (RED, "no-such-thing", "is not installed")
    broken = checkup.check_distribution("jax", "jax_with_a_typo", None)
    assert broken.colour == RED and "cannot be imported (ModuleNotFoundError" in broken.text


def test_disk_and_memory(tmp_path, monkeypatch):
    (line,) = checkup.check_disk({"workdir": tmp_path / "not" / "yet"})
    assert "GB free for" in line.text and line.topic == "disk of workdir"
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda path: fakes_usage(1e9))
    (line,) = checkup.check_disk({"workdir": tmp_path})
    assert (line.colour, line.text) == (YELLOW, f"1.0 GB free for {tmp_path}")
    assert line.remedy == "free some space, or choose another workdir"
    monkeypatch.setattr(checkup.shutil, "disk_usage", lambda path: fakes_usage(1e8))
    assert checkup.check_disk({"workdir": tmp_path})[0].colour == RED
    monkeypatch.setattr(checkup.os, "access", lambda path, mode: False)
    assert "is not writable" in checkup.check_disk({"workdir": tmp_path})[0].text
    for size, colour in ((1e9, RED), (4e9, YELLOW), (4e10, GREEN)):
        monkeypatch.setattr(checkup, "_free_memory", lambda size=size: int(size))
        assert checkup.check_memory()[0].colour == colour


def fakes_usage(free):
    return checkup.shutil._ntuple_diskusage(int(2 * free), int(free), int(free))


def test_devices(monkeypatch):
    config = fakes.config()
    config.num_devices = 4
    config.teacher_training.batch_size = 8
    lines = checkup.check_devices(config)
    assert "8 x cpu (cpu)" in lines[0].text
    (line,) = lines[1:]  # Six clips on four devices.
    assert line.colour == RED and line.topic == "student batch"
    assert "a batch of 6 clips cannot be divided by 4 devices" in line.text
    monkeypatch.setattr(gpus, "has_driver", lambda: True)
    (line,) = checkup.check_devices(None)
    assert line.colour == YELLOW and "cuda12" in line.remedy


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("Unable to initialize backend 'cuda':\n no driver; " + "x" * 999),
            "no driver",
        ),
        (AssertionError(), "AssertionError"),  # JAX_PLATFORMS=cuda, and no GPU
    ],
)
def test_devices_that_cannot_be_used_are_one_line(error, said, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr("jax.local_devices", fail)
    with pytest.raises(UserError) as told:
        devices.local()
    words = str(told.value)
    assert said in words and "nvidia-smi" in words and "JAX_PLATFORMS=cpu" in words
    assert "\n" not in words and len(words) < 450
    (line,) = checkup.check_devices(None)
    assert line.colour == RED and f"{line.text}; {line.remedy}" == words


def test_a_gpu_that_is_left_idle_is_noted(monkeypatch, capsys):
    monkeypatch.setattr(gpus, "has_driver", lambda: True)
    asked = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", "cpu")
        devices.start("off")
        assert capsys.readouterr().err == ""
        jax.config.update("jax_platforms", None)
        devices.start("off")
    finally:
        jax.config.update("jax_platforms", asked)
    assert "though an NVIDIA GPU is there: pip install" in capsys.readouterr().err


def test_cache(tmp_path, monkeypatch):
    assert colours(checkup.check_cache()) == [GREEN]
    folder = jax.config.jax_compilation_cache_dir
    (tmp_path / "file").write_text("in the way")
    try:
        jax.config.update("jax_compilation_cache_dir", str(tmp_path / "file"))
        (line,) = checkup.check_cache()
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
    assert line.colour == YELLOW and "XDG_CACHE_HOME" in line.remedy


def test_data(monkeypatch):
    assert checkup.check_data(None)[0].colour == YELLOW
    config = fakes.config()
    config.dataset.name, config.dataset.data_dir = "ntu_rgbd_ir/ten", "/nowhere"
    (line,) = checkup.check_data(config)
    assert line.colour == RED and line.text.startswith("no dataset ntu_rgbd_ir/ten under /nowhere")
    assert line.remedy.startswith("build it: python -m jax_irkd.build ntu_rgbd_ir/ten")
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: fakes.dataset())
    (line,) = checkup.check_data(config)
    assert line == Line(GREEN, "data", "fake/three: 18 train clips, 7 test clips, 3 classes")
    damaged = fakes.dataset()
    for split in damaged.splits.values():
        split[0]["infrared"] = [b"no picture"]
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: damaged)
    (line,) = checkup.check_data(config)
    assert line.colour == RED and "first train clip cannot be decoded" in line.text


@pytest.mark.parametrize(
    ("found", "code", "verdict"),
    [
        ([Line(GREEN, "a", "fine")], 0, "all is well"),
        ([Line(YELLOW, "a", "so so", "do this")], 0, "0 errors, 1 warning"),
        ([Line(RED, "a", "bad", "do that"), Line(YELLOW, "b", "x")], 1, "1 error, 1 warning"),
    ],
)
def test_exit_codes(monkeypatch, capsys, found, code, verdict):
    monkeypatch.setattr(checkup, "examine", lambda config, workdir, argv: [lambda: found])
    assert doctor.main([]) == code
    text = capsys.readouterr().out
    assert verdict in text and all(line.remedy in text for line in found)


def test_a_check_that_breaks_hides_no_other(monkeypatch, capsys):
    def broken():
        raise ImportError("libGL.so.1")

    checks = [broken, lambda: [Line(GREEN, "next", "fine")]]
    monkeypatch.setattr(checkup, "examine", lambda config, workdir, argv: checks)
    assert doctor.main(["--config=configs/demo.py"]) == 1
    text = capsys.readouterr().out
    assert "ImportError: libGL.so.1" in text and "next: fine" in text
    assert doctor.main(["--conf=x"]) == 2


def test_programs_are_compiled_where_there_is_a_gpu(monkeypatch):
    assert checkup.check_programs(["--config=configs/ntu.py"]) == []
    asked = []
    found = [Finding(True, "teacher", "compiled"), Finding(False, "student", "no tiles", "a flag")]
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    monkeypatch.setattr(compilation, "in_a_process", lambda command: asked.append(command) or found)
    lines = checkup.check_programs(["--config=configs/ntu.py"])
    assert lines == [
        Line(GREEN, "teacher", "compiled"),
        Line(RED, "student", "no tiles", "a flag"),
    ]
    assert asked[0][1:] == ["-m", "jax_irkd.doctor", "--config=configs/ntu.py", "--programs"]


@pytest.mark.slow
@pytest.mark.parametrize(("times", "colour"), [(1.01, GREEN), (0.9, YELLOW), (0.4, RED)])
def test_doctor_reckons_as_inspect_does(monkeypatch, times, colour):
    fakes.use_tiny_models(monkeypatch)
    config = fakes.config("baseline")
    largest = max(part.needed for part in cost.plan(config, None, classes=checkup.CLASSES))
    monkeypatch.setattr(checkup, "_free_memory", lambda: int(times * largest))
    (line,) = checkup.check_needs(config)
    assert line.colour == colour and f"holds up to {largest / 1e9:.1f} GB" in line.text
    assert (f"{times * largest / 1e9:.1f} GB are there" in line.text) == (colour != GREEN)


@pytest.mark.slow
def test_a_paper_set_up_from_scratch_is_worth_knowing():
    lines = checkup.check_weights(ntu.get_config("method=ours"))
    assert colours(lines) == [YELLOW, YELLOW]
    assert [line.topic for line in lines] == ["teacher weights", "student weights"]
    assert "starts from scratch; the paper starts from ImageNet" in lines[0].text
    assert lines[0].remedy.startswith("python -m jax_irkd.weights fetch resnet50, then --config.w")
    config = ntu.get_config("method=baseline")
    config.weights.student = "/nowhere.safetensors"
    (line,) = checkup.check_weights(config)
    assert line.colour == RED and "does not exist" in line.text
    (line,) = checkup.check_weights(demo.get_config("method=teacher"))
    assert line.colour == GREEN and "shipped:demo_resnet18 fits" in line.text
    assert not checkup.check_weights(None)
