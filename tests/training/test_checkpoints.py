import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.errors import UserError
from jax_irkd.training.checkpoints import Checkpoints
from jax_irkd.training.leaves import flatten, select, unflatten
from jax_irkd.training.steps import TrainState

META = {"class_names": ["sit", "stand"], "config": {"seed": 3}}


def state(step: int = 0) -> TrainState:
    rng = np.random.default_rng(step)
    params = {"model": {"head": {"kernel": jnp.asarray(rng.normal(size=(64, 33)), jnp.float32)}}}
    opt_state = (rng.normal(size=5).astype(np.float32), {}, jnp.int32(step))
    return TrainState(jnp.int32(step), params, {"model": {}}, opt_state, {}, jnp.int32(0), {})


def assert_equal(left, right):
    left, right = flatten(left), flatten(right)
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
        assert left[name].dtype == right[name].dtype


def save_all(folder, scores, **options):
    with Checkpoints(folder, **options) as checkpoints:
        for step, score in scores.items():
            assert checkpoints.save(step, state(step), META, score and {"top1": score})
        checkpoints.wait()
        return checkpoints.steps(), checkpoints.best_step()


def test_what_is_saved_comes_back(tmp_path):
    save_all(tmp_path / "c", {4: 0.5})
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored, meta = checkpoints.restore(state())
    assert_equal(restored, state(4))
    assert meta == META


def test_nothing_saved_is_none(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.restore(state()) is None
        assert checkpoints.best_step() is None


def test_latest_and_best_are_both_kept(tmp_path):
    scores = {1: 0.9, 2: 0.8, 3: None, 4: 0.1, 5: None}
    steps, best = save_all(tmp_path / "c", scores, latest=2, best=1)
    assert steps == [1, 4, 5]
    assert best == 1


def test_a_score_comes_later_than_its_state(tmp_path):
    with Checkpoints(tmp_path / "c", latest=1, best=1) as checkpoints:
        assert not checkpoints.score(1, {"top1": 0.9})  # nothing is there
        for step, score in {1: 0.9, 2: 0.5, 3: 0.7}.items():
            checkpoints.save(step, state(step), META)
            assert not checkpoints.is_scored(step)
            assert checkpoints.score(step, {"top1": score, "mAP": 0.2})
        assert checkpoints.figures(3) == {"top1": 0.7, "mAP": 0.2}
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best_step()) == ([1, 3], 1)
        assert_equal(checkpoints.restore(state())[0], state(3))


def test_without_a_score_there_is_no_best(tmp_path):
    assert save_all(tmp_path / "c", {1: None, 2: None}) == ([1, 2], None)


def files_of(folder):
    return [path for path in sorted((folder / "state").rglob("*")) if path.is_file()]


def overwrite(folder):
    largest = max(files_of(folder), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(x ^ 0x5A for x in content[middle : middle + 64])
    largest.write_bytes(content)


def truncate(folder):
    # Orbax keeps some files that nothing refers to any more: cut them all.
    for path in files_of(folder):
        path.write_bytes(path.read_bytes()[:-100])


def delete_tree_metadata(folder):
    (folder / "state" / "_METADATA").unlink()


def delete_state(folder):
    shutil.rmtree(folder / "state")


def change_class_name(folder):
    path = folder / "meta" / "metadata"
    path.write_text(path.read_text().replace("stand", "stamp"))


@pytest.mark.parametrize(
    "damage", [overwrite, truncate, delete_tree_metadata, delete_state, change_class_name]
)
def test_damage_is_found_set_aside_and_the_one_before_used(tmp_path, caplog, damage):
    save_all(tmp_path / "c", {1: 0.2, 2: 0.4})
    damage(tmp_path / "c" / "2")
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored, _ = checkpoints.restore(state())
        assert checkpoints.steps() == [1]
        assert checkpoints.save(2, state(2), META), "the damaged step can be saved again"
    assert_equal(restored, state(1))
    assert "2 IS DAMAGED" in caplog.text
    assert (tmp_path / "damaged_checkpoints" / "2").is_dir()


def test_every_single_flipped_byte_of_the_data_is_harmless_or_found(tmp_path):
    save_all(tmp_path / "c", {1: 0.2})
    backup = tmp_path / "backup"
    shutil.copytree(tmp_path / "c" / "1", backup)
    rng = np.random.default_rng(0)
    for _ in range(12):
        path = rng.choice([p for p in files_of(tmp_path / "c" / "1") if p.stat().st_size])
        content = bytearray(path.read_bytes())
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        with Checkpoints(tmp_path / "c") as checkpoints:
            restored = checkpoints.restore(state())
        if restored:
            assert_equal(restored[0], state(1))
        shutil.rmtree(tmp_path / "c")
        shutil.copytree(backup, tmp_path / "c" / "1")


def test_leftovers_of_a_killed_save_are_ignored_and_removed(tmp_path):
    save_all(tmp_path / "c", {1: 0.2})
    leftover = tmp_path / "c" / "2.orbax-checkpoint-tmp-17"
    (leftover / "state").mkdir(parents=True)
    with Checkpoints(tmp_path / "c") as checkpoints:
        assert checkpoints.steps() == [1]
    assert not leftover.exists()


def test_a_reader_changes_nothing(tmp_path):
    save_all(tmp_path / "c", {1: 0.2, 2: 0.4})
    overwrite(tmp_path / "c" / "2")
    with Checkpoints(tmp_path / "c", read_only=True) as checkpoints:
        assert_equal(checkpoints.restore(state())[0], state(1))
    assert (tmp_path / "c" / "2").is_dir()


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    save_all(tmp_path / "c", {1: 0.2})
    other = state()._replace(params={"model": {"head": {"kernel": jnp.zeros((64, 5))}}})
    message = r"params/model/head/kernel has shape \(64, 33\)"
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(UserError, match=message):
        checkpoints.restore(other)


def test_checkpoints_of_before_a_part_of_the_state_are_read(tmp_path):
    save_all(tmp_path / "c", {1: 0.2})
    now = state(2)._replace(balance={"lengths": jnp.float32(0)})
    with Checkpoints(tmp_path / "c") as checkpoints:
        restored, _ = checkpoints.restore(now, fresh="balance")
        assert_equal(restored, state(1)._replace(balance=now.balance))
        with pytest.raises(UserError, match="balance/lengths is missing"):
            checkpoints.restore(now)
        more = now._replace(ema={"head": jnp.float32(0)})
        with pytest.raises(UserError, match=r"1 differences.*ema/head is missing"):
            checkpoints.restore(more, fresh="balance")


def test_an_earlier_step_cannot_overwrite_a_later_one(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(5, state(5), META)
        with pytest.raises(UserError, match="already holds step 5, not earlier than 3"):
            checkpoints.save(3, state(3), META)


def test_names_lead_back_to_the_tree():
    tree = {"a": {"b": np.arange(3), "c": {"d": np.ones(2)}}, "e": np.zeros(1)}
    leaves = flatten(tree)
    assert list(leaves) == ["a/b", "a/c/d", "e"]
    assert_equal(unflatten(tree, leaves, "here"), tree)
    assert_equal(select(leaves, "a"), tree["a"])
