"""Builds in parallel, killed, resumed, out of disk, and without TensorFlow."""

import dataclasses
import errno
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tensorflow_datasets as tfds

from jax_irkd import build, tfds_builders
from jax_irkd.data.synthetic.raw_ntu import ntu_tree
from jax_irkd.errors import UserError
from jax_irkd.tfds_builders._shared import pool
from jax_irkd.tfds_builders._shared.cache import Cache, EncodingResult, EncodingTask, Record
from jax_irkd.tfds_builders._shared.lock import locked
from jax_irkd.tfds_builders._shared.options import VARIABLE, BuildOptions
from jax_irkd.video.finding import Skip
from tests.helpers import ROOT

TFDS = Path(sys.executable).with_name("tfds")
HAS_TFDS_CLI = TFDS.exists() and all(
    importlib.util.find_spec(name) for name in ("tensorflow", "apache_beam", "mlcroissant")
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    ntu_tree(folder, actions=(1, 2, 3, 4))
    return folder


def run(raw, out, *flags):
    # One worker encodes in this process here, where faults can be planted.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "INLINE", "--workers=1" in flags)
        return build.main(["ntu_rgbd_ir", f"--manual_dir={raw}", f"--data_dir={out}", *flags])


def dataset(out):
    return Path(out, "ntu_rgbd_ir", "ten", "1.0.0")


def records(out):
    return {path.name: path.read_bytes() for path in sorted(dataset(out).glob("*.array_record*"))}


@pytest.fixture(scope="module")
def reference(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("reference")
    assert run(raw, out, "--workers=1") == 0
    return records(out)


def task(key, stamp="1"):
    return EncodingTask(key, "train", stamp, None)


def result(key, size=100):
    frames = {"rgb": [bytes([1]) * size, b"ab"], "infrared": [b"c"]}
    return EncodingResult(
        [Record(key, {"label": 3, "clip_id": key}, frames)], [], [Skip(key, "odd", "x")]
    )


def test_cache_gives_back_what_was_stored(tmp_path):
    cache = Cache(tmp_path / "cache")
    assert cache.load(task("a")) is None and cache.summary(task("a")) is None
    summary = cache.store(task("a"), result("a"))
    assert (summary.records, summary.size) == (1, 103)
    assert cache.load(task("a")) == result("a")
    assert cache.summary(task("a")) == summary
    assert cache.load(task("a", stamp="2")) is None  # The source file has changed.
    path = cache.path(task("a"))
    whole = path.read_bytes()
    for data in (whole[:-1], whole[:5], b"", b"x" + whole[1:], whole[:-3] + b"zzz"):
        path.write_bytes(data)
        assert cache.load(task("a")) is None


def crash_on_b(job):
    if job.key == "b":
        os.kill(os.getpid(), signal.SIGSEGV)
    return result(job.key)


@pytest.mark.slow
def test_a_task_that_kills_its_worker_is_reported_and_the_rest_goes_on(tmp_path):
    tasks = [task(key) for key in "abcdef"]
    summaries = pool.encode_all(tasks, crash_on_b, Cache(tmp_path), workers=2, show=False)
    assert [summary.records for summary in summaries] == [1, 0, 1, 1, 1, 1]
    assert summaries[1].skipped[0].reason == "crashes the decoder"


@pytest.mark.slow
def test_two_workers_give_the_same_bytes_as_one(raw, reference, tmp_path):
    assert run(raw, tmp_path, "--workers=2") == 0
    assert records(tmp_path) == reference


@pytest.mark.slow
def test_a_killed_build_leaves_nothing_that_loads_and_continues(raw, reference, tmp_path):
    command = [sys.executable, "-m", "jax_irkd.build", "ntu_rgbd_ir", "--workers=2"]
    command += [f"--manual_dir={raw}", f"--data_dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    encoded = Path(tmp_path, "ntu_rgbd_ir", "ten", ".encoded")
    while process.poll() is None and len(list(encoded.rglob("*.clip"))) < 4:
        time.sleep(0.01)
    workers = _children(process.pid)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in encoded.rglob("*.clip")}
    assert len(kept) >= 4 and not dataset(tmp_path).exists()
    stale = list(dataset(tmp_path).parent.glob("incomplete.*"))
    next(iter(kept)).write_bytes(b"torn")
    deadline = time.monotonic() + 10
    while any(Path("/proc", pid).exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in workers if Path("/proc", pid).exists()]

    assert run(raw, tmp_path, "--workers=1", "--keep_cache") == 0
    assert records(tmp_path) == reference
    assert not list(dataset(tmp_path).parent.glob("incomplete.*")), stale
    again = {path for path, stamp in kept.items() if path.stat().st_mtime_ns != stamp}
    assert again == {next(iter(kept))}
    assert not list(encoded.rglob("*.tmp"))


def _children(pid):
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return path.read_text().split() if path.exists() else []


def test_a_full_disk_is_a_message_and_the_next_run_continues(
    raw, reference, tmp_path, monkeypatch, capsys
):
    written = []
    write = Path.write_bytes

    def fill_up(path, data):
        if path.suffix == ".tmp":
            written.append(path)
            if len(written) == 6:
                write(path, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    assert run(raw, tmp_path, "--workers=1") == 2
    error = capsys.readouterr().err
    assert "the disk is full" in error and "run the same command again" in error
    encoded = Path(tmp_path, "ntu_rgbd_ir", "ten", ".encoded")
    assert len(list(encoded.rglob("*.clip"))) == 5 and not list(encoded.rglob("*.tmp"))
    assert not dataset(tmp_path).exists()
    monkeypatch.setattr(Path, "write_bytes", write)
    assert run(raw, tmp_path, "--workers=1") == 0
    assert records(tmp_path) == reference


def test_too_little_space_for_the_records_is_a_message(raw, tmp_path, monkeypatch, capsys):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("jax_irkd.tfds_builders._shared.builder.shutil.disk_usage", lambda _: usage)
    assert run(raw, tmp_path, "--workers=1") == 2
    assert "the disk is full: the records need" in capsys.readouterr().err
    monkeypatch.undo()
    assert run(raw, tmp_path, "--workers=1") == 0


def test_a_data_dir_that_cannot_be_written_is_a_message(raw, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert run(raw, tmp_path / "file", "--workers=1") == 2
    error = capsys.readouterr().err
    assert "Not a directory" in error and error.count("\n") == 1


def test_one_build_at_a_time(raw, tmp_path, capsys):
    with locked(tmp_path / "ntu_rgbd_ir" / "ten"):
        assert run(raw, tmp_path, "--workers=1") == 2
    assert "another build is writing to" in capsys.readouterr().err


def test_mistakes_in_the_command_are_one_line(raw, tmp_path, capsys):
    for flags, words in [
        (["ntu_rgbd"], "unknown dataset 'ntu_rgbd'; did you mean 'ntu_rgbd_ir'? Choose from fold"),
        (["ntu_rgbd_ir/five"], "hoose from ntu_rgbd_ir/ten, ntu_rgbd_ir/sixty"),
        (["ntu_rgbd_ir"], "--manual_dir=FOLDER with the raw files is missing"),
        (["ntu_rgbd_ir", "--quality=0"], "quality is 0; choose a value from 1 to 100"),
        (["ntu_rgbd_ir", "--max_skipped=1.5"], "max_skipped is 1.5"),
        (["ntu_rgbd_ir", "--max_frames=-1"], "max_frames is -1"),
    ]:
        assert build.main([*flags, f"--data_dir={tmp_path}"]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1, error


def test_a_new_dataset_is_one_new_folder(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "mine_dataset_builder.py").write_text(
        "class Builder(dict):\n    BUILDER_CONFIGS = ()\n"
    )
    monkeypatch.setattr(tfds_builders, "__path__", [*tfds_builders.__path__, str(tmp_path)])
    assert "mine" in build.datasets()
    made = build.make_builder("mine", tmp_path)
    assert made == {"options": None, "data_dir": tmp_path, "config": None}


def test_options_from_the_environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, '{"max_frames": 3, "workers": 2}')
    assert BuildOptions.from_environment() == BuildOptions(max_frames=3, workers=2)
    monkeypatch.setenv(VARIABLE, '{"max_skipped": 1, "unpaired": true}')  # 1 is a number, too
    assert BuildOptions.from_environment() == BuildOptions(max_skipped=1.0, unpaired=True)
    for text, words in [
        ("{", "not a JSON object"),
        ("[]", 'not a JSON object such as {"workers": 4}: '),
        ('["workers"]', "not a JSON object"),
        ("3", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"frames": 1}', "unknown options"),
        ('{"max_frames": "32"}', "max_frames is '32'; choose a whole number"),
        ('{"quality": null}', "quality is None; choose a whole number"),
        ('{"workers": 2.5}', "workers is 2.5; choose a whole number"),
        ('{"workers": true}', "workers is True; choose a whole number"),
        ('{"max_skipped": "1 %"}', "max_skipped is '1 %'; choose a number"),
        ('{"range": null}', "range is None; choose a text"),
        ('{"unpaired": 1}', "unpaired is 1; choose true or false"),
        ('{"quality": 0}', "quality is 0; choose a value from 1 to 100"),
    ]:
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(UserError, match=f"^{VARIABLE}.*{re.escape(words)}"):
            BuildOptions.from_environment()


@pytest.mark.parametrize("field", dataclasses.fields(BuildOptions), ids=lambda field: field.name)
def test_every_option_takes_its_own_kind_of_value_alone(field):
    assert BuildOptions(**{field.name: field.default}) == BuildOptions()
    for other in (None, [], {}, "x", 0.5, 1, True):
        if type(other) is type(field.default) or (field.name, other) == ("max_skipped", 1):
            continue
        with pytest.raises(UserError, match=f"^{field.name} is .*; choose"):
            BuildOptions(**{field.name: other})


WITHOUT_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        absent = name.split(".")[0] in ("tensorflow", "apache_beam")
        return None if absent else super().find_spec(name, path, target)

sys.meta_path = [Without if finder is PathFinder else finder for finder in sys.meta_path]
from jax_irkd import build
raw, out = sys.argv[1:]
flags = [f"--manual_dir={raw}", f"--data_dir={out}", "--workers=1"]
assert build.main(["ntu_rgbd_ir", *flags]) == 0
import tensorflow_datasets as tfds

class Bytes(tfds.decode.SkipDecoding):
    def decode_batch_example_np(self, example):
        return example

builder = tfds.builder_from_directory(f"{out}/ntu_rgbd_ir/ten/1.0.0")
source = builder.as_data_source(
    "train_subjects_c1+train_subjects_c23", decoders={"rgb": Bytes(), "infrared": Bytes()}
)
assert source[0]["rgb"][0][:2] == b"\\xff\\xd8", "not JPEG"
assert "tensorflow" not in sys.modules
print("records", len(source))
"""


@pytest.mark.slow
def test_building_and_reading_need_no_tensorflow(raw, reference, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(raw), str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "records 12" in done.stdout
    # The order of fields in a record follows the process's hash seed, so only sizes are equal.
    sizes = {name: len(data) for name, data in records(tmp_path).items()}
    assert sizes == {name: len(data) for name, data in reference.items()}


@pytest.mark.slow
@pytest.mark.skipif(not HAS_TFDS_CLI, reason="needs the tfds-cli extra")
def test_tfds_build_with_apache_beam_gives_the_same_records(raw, tmp_path):
    command = [TFDS, "build", ROOT / "tfds_builders" / "ntu_rgbd_ir", "--config=ten"]
    command += [f"--manual_dir={raw}", f"--data_dir={tmp_path}"]
    command += ["--beam_pipeline_options=runner=DirectRunner"]
    environment = {**os.environ, VARIABLE: '{"max_frames": 4}'}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((dataset(tmp_path) / "build_report.json").read_text())
    assert (content["built"], content["skipped_count"]) == (24, 0)
    builder = tfds.builder_from_directory(dataset(tmp_path))
    assert builder.info.splits.total_num_examples == 24
    assert len(builder.as_data_source("test_subjects_c23")[0]["infrared"]) == 4
