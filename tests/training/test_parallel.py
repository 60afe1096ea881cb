"""Batches on their devices before their turn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.errors import UserError
from jax_irkd.training import parallel, setup, steps
from jax_irkd.training.loop import Trainer
from tests.helpers import fakes
from tests.training.test_loop import assert_identical, final_leaves, trainer


def batches():
    for start in range(0, 24, 4):
        numbers = np.arange(start, start + 4, dtype=np.float32)
        yield {"x": numbers, "extra": {"y": numbers * 2}, "clip_id": np.array(["a", "b", "c", "d"])}


@pytest.fixture
def apart(monkeypatch):
    """Devices with memory of their own, as a GPU has."""
    monkeypatch.setattr(parallel, "_share_memory", lambda devices: False)


def test_a_batch_lies_in_parts_on_the_devices_and_none_is_copied_again(apart):
    devices = jax.local_devices()[:2]
    total = jax.pmap(
        lambda batch: jax.lax.psum(jnp.sum(batch["x"] + batch["extra"]["y"]), steps.AXIS),
        axis_name=steps.AXIS,
        out_axes=None,
        devices=devices,
    )
    placed = parallel.placed(batches(), devices)
    for names, batch in placed:
        assert names == ["a", "b", "c", "d"]
        assert batch["x"].shape == (2, 2) and batch["x"].devices() == set(devices)
        with jax.transfer_guard("disallow"):
            made = total(batch)
        assert float(made) == 3 * float(np.sum(batch["x"]))


def test_on_cpus_batches_stay_where_they_are():
    for _, batch in parallel.placed(batches(), jax.local_devices()[:2]):
        assert isinstance(batch["x"], np.ndarray) and batch["x"].shape == (2, 2)


def test_with_several_processes_nothing_is_sent_ahead(apart, monkeypatch):
    """As the page on speed says: there a step copies its own batch."""
    monkeypatch.setattr("jax.process_count", lambda: 2)
    taken = []

    def read():
        for batch in batches():
            taken.append(batch)
            yield batch

    _, batch = next(parallel.placed(read(), jax.local_devices()[:2]))
    assert isinstance(batch["x"], np.ndarray) and batch["x"].shape == (2, 2) and len(taken) == 1


def test_training_is_the_same_to_the_last_bit(tmp_path, monkeypatch):
    trainer(tmp_path / "here").run()
    monkeypatch.setattr(parallel, "_share_memory", lambda devices: False)
    trainer(tmp_path / "apart").run()
    assert_identical(final_leaves(tmp_path / "here"), final_leaves(tmp_path / "apart"))


@pytest.mark.parametrize(
    ("batch", "extra", "parts", "refused"),
    [(8, 0, 1, ""), (16, 16, 4, ""), (8, 0, 4, "a batch of 8"), (16, 8, 4, "a batch of 8")],
)
def test_every_part_on_every_device_needs_a_clip(batch, extra, parts, refused):
    """The update reshapes a device's share: what does not divide would end it, after the data."""
    config = fakes.config("st", batch_size=batch, accumulation=parts)
    config.student_training.extra_clips, config.num_devices = extra, 4
    if not refused:
        return setup.check_shares(config, "student")
    with pytest.raises(UserError, match=f"{refused} .* 4 devices in 4 parts each.* multiple of 16"):
        setup.check_shares(config, "student")


def test_of_several_processes_each_takes_all_its_devices(monkeypatch):
    """pmap is given no devices there, and a batch cut for fewer of them would not fit it."""
    config = fakes.config()
    everything = jax.local_devices()
    monkeypatch.setattr("jax.process_count", lambda: 2)
    for count in (0, len(everything)):
        config.num_devices = count
        assert parallel.devices_of(config) == everything
    config.num_devices = 2
    with pytest.raises(UserError, match=r"num_devices=2, but each of 2 processes takes all 8 dev"):
        parallel.devices_of(config)


def test_a_run_asks_for_it_before_it_reads_and_a_trainer_too(tmp_path):
    config = fakes.config(batch_size=8, accumulation=4)
    config.num_devices = 4
    for begin in (
        lambda: setup.check_phase(config, fakes.dataset(), "student"),
        lambda: Trainer(fakes.phase(config), config, fakes.dataset(), tmp_path),
    ):
        with pytest.raises(UserError, match=r"8 clips .* in 4 parts each; .*, a smaller accumul"):
            begin()
