import re
import sys
import time
import types

import jax
import jax.numpy as jnp
import pytest

from jax_irkd.errors import UserError
from jax_irkd.host import commands, failures
from jax_irkd.inspection import compilation
from jax_irkd.training import evaluation, programs, setup
from jax_irkd.training.loop import Trainer
from tests.helpers import fakes


@pytest.mark.parametrize(
    ("said", "helps"),
    [
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9.1GiB", "accumulation=4"),
        ("CUDA driver version is insufficient for CUDA runtime version", "nvidia-smi"),
        ("CUDA_ERROR_UNSUPPORTED_PTX_VERSION: the provided PTX was compiled", "nvidia-smi"),
        ("CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image is available", "pip install --upgrade"),
        ("Check failed: subdim_size_accumulator == dim_size in GemmFusion", "triton_gemm=false"),
        ("Couldn't find output tile sizes that satisfy hlo: dot", "triton_gemm=false"),
        ("INTERNAL: CUDNN_STATUS_NOT_INITIALIZED", "LD_LIBRARY_PATH"),
        ("Autotuning failed for HLO", "autotune_level=0"),
    ],
)
def test_each_failure_has_its_remedy(said, helps):
    assert helps in failures.remedy(said, failures.of_updates("teacher", 16, 4))


def test_the_remedy_names_the_role_and_the_clips():
    words = failures.remedy("RESOURCE_EXHAUSTED", failures.of_updates("teacher", 16))
    assert "16 clips" in words and "--config.teacher_training.batch_size" in words
    assert "--config.teacher_model.remat=True" in words
    assert failures.remedy("INVALID_ARGUMENT: shapes differ") is None


@pytest.mark.parametrize(
    ("batch", "extra", "parts", "devices", "mixup", "offered"),
    [
        (32, 0, 1, 1, 0.0, 4),
        (8, 0, 1, 4, 0.0, 2),  # a device has two clips
        (8, 0, 1, 4, 0.2, None),  # which are mixed with each other
        (16, 0, 1, 2, 0.2, 4),
        (16, 0, 2, 2, 0.0, 8),
        (6, 0, 1, 1, 0.0, 6),
        (24, 6, 1, 2, 0.0, 3),
        (4, 0, 1, 4, 0.0, None),
    ],
)
def test_parts_are_offered_that_the_clips_of_a_device_can_be_cut_into(
    batch, extra, parts, devices, mixup, offered
):
    config = fakes.config("st", batch_size=batch, accumulation=parts)
    config.student_training.extra_clips, config.num_devices = extra, devices
    config.input.mixup = mixup
    words = setup.too_little_memory(config, "student", devices)
    assert f" {batch // devices // parts} clip" in words
    said = re.search(r"accumulation=(\d+)", words)
    assert (said and int(said[1])) == offered
    if offered:
        config.student_training.accumulation = offered
        setup.check_shares(config, "student")


def failing(made: Trainer, said: str) -> Trainer:
    def update(*arguments):
        raise jax.errors.JaxRuntimeError(said)

    made.make_update = lambda teacher, measure: update
    return made


def trainer(folder) -> Trainer:
    config = fakes.config()
    return Trainer(fakes.phase(config), config, fakes.dataset(), folder)


@pytest.mark.slow
def test_too_little_memory_ends_in_one_line(tmp_path):
    made = failing(trainer(tmp_path), "RESOURCE_EXHAUSTED: Out of memory\nallocator state: ...")
    with pytest.raises(UserError) as told:
        made.run()
    assert str(told.value).startswith("the device has too little memory for 6 clips at once; take")
    assert str(told.value).endswith("(RESOURCE_EXHAUSTED: Out of memory)")


@pytest.mark.slow
def test_too_little_memory_for_an_evaluation_names_its_batch(tmp_path, monkeypatch):
    def step(variables, batch):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(evaluation, "_eval_on", lambda *arguments: step)
    made = trainer(tmp_path)
    with pytest.raises(UserError, match=r"evaluate so many clips at once.*input\.eval_batch_size"):
        made.run()


def test_every_command_says_in_a_line_what_helps_a_device(capsys):
    def asks_too_much(argv):
        jax.numpy.zeros(1 << 50).block_until_ready()

    assert commands.run(asks_too_much, []) == commands.MISTAKE
    said = capsys.readouterr().err
    assert said.startswith("error: the device has too little memory; end what else runs there")
    assert said.count("\n") == 1

    def unknown(argv):
        raise jax.errors.JaxRuntimeError("INVALID_ARGUMENT: shapes differ")

    with pytest.raises(jax.errors.JaxRuntimeError):
        commands.run(unknown, [])


def test_an_unknown_error_stays_what_it_is(tmp_path):
    with pytest.raises(jax.errors.JaxRuntimeError, match="shapes differ"):
        failing(trainer(tmp_path), "INVALID_ARGUMENT: shapes differ").run()


def test_a_start_that_ended_while_compiling_is_told_once(tmp_path):
    assert failures.last_time(tmp_path) is None
    with failures.compiling(tmp_path, True):
        assert list(tmp_path.iterdir())
    assert failures.last_time(tmp_path) is None
    with pytest.raises(UserError), failures.compiling(tmp_path, True):
        raise UserError("says by itself what is wrong")
    assert failures.last_time(tmp_path) is None
    with failures.compiling(tmp_path, False):
        assert not list(tmp_path.iterdir())
    with pytest.raises(SystemExit), failures.compiling(tmp_path, True):
        raise SystemExit  # stands for the end of the process
    assert "--xla_gpu_enable_triton_gemm=false" in failures.last_time(tmp_path)
    assert failures.last_time(tmp_path) is None


@pytest.fixture
def cheap(monkeypatch):
    """Programs that compile at once: a sum over the batch, added to the state."""

    def program(config, role, num_classes, measure=False):
        clips = config[f"{role}_training"].batch_size
        shapes = jax.ShapeDtypeStruct((), jnp.float32), jax.ShapeDtypeStruct((clips,), jnp.float32)
        return programs.StepProgram(lambda state, batch: state + batch.sum(), shapes, split=(1,))

    monkeypatch.setattr(programs, "update_program", program)
    monkeypatch.setattr(programs, "evaluation_program", program)


def test_programs_of_a_config_compile_and_tell_what_they_need(cheap):
    found = list(compilation.compile_programs(fakes.config("st")))
    assert [one.topic for one in found] == [
        "update of the teacher",
        "evaluation of the teacher",
        "update of the student",
        "evaluation of the student",
        "update of the student, measuring",
    ]
    assert all(one.good and "GB" in one.text for one in found), found


def test_too_little_memory_names_the_batch(cheap, monkeypatch):
    monkeypatch.setattr(programs, "memory_of", lambda program, devices: 70e9)
    device = types.SimpleNamespace(memory_stats=lambda: {"bytes_limit": 60e9})
    monkeypatch.setattr(compilation, "devices_of", lambda config: [device])
    found = list(compilation.compile_programs(fakes.config("st")))
    assert not any(one.good for one in found)
    assert "needs 70.00 GB of the 60.00 GB there are" in found[0].text
    assert "--config.teacher_training.batch_size" in found[0].remedy


def test_a_program_that_cannot_be_made_says_why(cheap):
    config = fakes.config("st")
    config.student_training.batch_size = 7
    config.num_devices = 2
    found = {one.topic: one for one in compilation.compile_programs(config)}
    told = found["update of the student"]
    assert not told.good and "a batch of 7 clips cannot be divided by 2 devices" in told.text
    assert found["update of the teacher"].good


def test_more_devices_than_there_are_is_said_once(cheap):
    config = fakes.config("st")
    config.num_devices = 99
    (told,) = compilation.compile_programs(config)
    assert not told.good and told.text == "num_devices=99, but 8 devices are here"


def test_the_last_words_of_a_compiler_that_ended_the_process():
    script = (
        'import os, sys; print(\'[true, "teacher", "well"]\', flush=True); '
        "print('F0000 tiling.cc:627 Check failed: a == b', file=sys.stderr, flush=True); os.abort()"
    )
    well, bad = compilation.in_a_process([sys.executable, "-c", script])
    assert well == (True, "teacher", "well", "")
    assert not bad.good and "code -6" in bad.text and "Check failed: a == b" in bad.text
    assert "--xla_gpu_enable_triton_gemm=false" in bad.remedy


def test_who_waits_for_a_compiler_is_told_why(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(failures, "PATIENCE", 0.01)
    for watched in (False, True):
        with failures.compiling(tmp_path, watched):
            time.sleep(0.2)
        assert ("compiling the update" in capsys.readouterr().out) == watched
    monkeypatch.setattr(failures, "PATIENCE", 0.2)
    with failures.compiling(tmp_path, True):
        pass
    time.sleep(0.3)
    assert not capsys.readouterr().out
