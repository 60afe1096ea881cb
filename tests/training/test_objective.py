"""Infrared clips without partners, and mixed ones: what they count in, and where they are read."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_irkd.data import augment, loading
from jax_irkd.errors import UserError
from jax_irkd.models.outputs import Outputs
from jax_irkd.models.tsn import dropout
from jax_irkd.training import imbalance, objective, setup, steps, streams
from jax_irkd.training.loop import Trainer
from tests.helpers import fakes, networks
from tests.training.test_steps import assert_close, batch_of, quick

BOTH = ("rgb", "infrared")
INFRARED = BOTH[1:]


def single(label: int, number: int) -> dict:
    return fakes.record(label, number) | {"rgb": []}


def dataset(pairs: int = 6, alone: int = 4) -> loading.Dataset:
    parts = {
        "train": [fakes.record(i % 3, i) for i in range(pairs)],
        "train_infrared": [single(i % 3, 100 + i) for i in range(alone)],
        "test": [fakes.record(i % 3, 200 + i) for i in range(pairs)],
        "test_infrared": [single(i % 3, 300 + i) for i in range(alone)],
    }
    return loading.Dataset("fake/mixed", fakes.CLASSES, {k: v for k, v in parts.items() if v}, "")


def config(**training):
    made = fakes.config(**training)
    made.dataset.protocols = {"cross_subject": {"train": ("train",), "test": ("test",)}}
    return made


@pytest.mark.parametrize("measure", ["class_weights", "sampling"])
def test_clips_without_partners_count_where_classes_are_balanced(tmp_path, measure):
    """They count in the cross-entropy: in the weights as often as a step draws them, and beside
    balanced pairs they are drawn balanced."""
    made = config(batch_size=6, **{measure: "balanced"})
    made.student_training.extra_clips = 2
    data = dataset(pairs=6)  # two of each class
    data.splits["train_infrared"] = [single(label, 100 + label) for label in (0, 0, 0, 1)]
    distillers = setup.make_distillers({"dkd": {}})
    phase = fakes.phase(made, distillers=distillers, teacher=fakes.teacher())
    weights, *labels = imbalance.measures(made, data, phase)
    alone = imbalance.measures(made, data, fakes.phase(made))
    if measure == "sampling":
        assert labels == [[0, 1, 2, 0, 1, 2], [0, 0, 0, 1]] and alone.extra is None
    else:  # of 8 clips a step draws 3.5, 2.5 and 2
        np.testing.assert_allclose(weights, 8 / (3 * np.array([3.5, 2.5, 2])))
        np.testing.assert_allclose(alone.weights, 10 / (3 * np.array([5, 3, 2])))


@pytest.mark.parametrize(
    ("pairs", "split", "modalities", "unpaired", "single", "count"),
    [
        (6, "train", INFRARED, True, False, 10),
        (6, "train", INFRARED, False, False, 6),
        (6, "train", ("rgb",), True, False, 6),
        (6, "train", BOTH, True, False, 6),
        (6, "train", INFRARED, True, True, 4),
        (6, "test", INFRARED, True, False, 6),  # the teacher's test clips
        (0, "train", INFRARED, True, False, 4),
        (0, "test", INFRARED, True, False, 4),
    ],
)
def test_who_reads_which_clips(pairs, split, modalities, unpaired, single, count):
    made = config()
    made.input.unpaired = unpaired
    reader = setup.make_reader(made, dataset(pairs), split, modalities, single)
    names = {str(reader.centre(i)["clip_id"]) for i in range(len(reader.records))}
    assert len(names) == count and not reader.faults.clips


def test_teacher_and_student_keep_the_same_subjects_aside():
    made = config()
    made.input.validation = 0.4
    kept, read = {}, {}
    for modalities in (("rgb",), INFRARED):
        for split in ("validation", "train"):
            reader = setup.make_reader(made, dataset(12, 8), split, modalities)
            ids = {str(reader.centre(i)["clip_id"]) for i in range(len(reader.records))}
            (kept if split == "validation" else read)[modalities] = ids
    assert kept["rgb",] < kept[INFRARED] and not kept[INFRARED] & read[INFRARED]
    assert not kept[INFRARED] & read["rgb",] and len(kept[INFRARED] | read[INFRARED]) == 20


@pytest.mark.parametrize(
    ("pairs", "alone", "method", "message"),
    [
        (0, 4, "ours", "has infrared clips without partners only, and this needs rgb clips"),
        (6, 0, "ours", "extra_clips is 2, but fake/mixed has no infrared clips without partners"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_trained(pairs, alone, method, message):
    made = config()
    made.distillers = {"dkd": {}}
    made.student_training.extra_clips = 2
    with pytest.raises(UserError, match=message):
        setup.check_phase(made, dataset(pairs, alone), "teacher")
        setup.check_phase(made, dataset(pairs, alone), "student")


def extra_of(clips: int) -> dict:
    extra = batch_of(clips, seed=7)
    del extra["clips"]["rgb"]
    return extra


def losses(batch: dict, devices: int, sync: bool = False, mix=None):
    """The gradient to the student (with `sync`) and the terms of a batch on emulated devices."""
    axis = steps.AXIS if sync else None
    model = fakes.TinyModel(norm=sync, dropout=0.0, axis_name=axis)
    # Terms of one size: the gradient of a bias before a batch norm is 0, what is left of it the
    # last digits of the largest term, which processors round differently.
    teacher, made = fakes.teacher(), setup.make_distillers({"dkd": {}, "sp": {"weight": 100.0}})
    variables = networks.draw(model, 1, 2, 32, 32, 1)
    params = {"model": variables["params"], "distillers": {name: {} for name in made}}
    stats = {"model": variables.get("batch_stats", {}), "distillers": {name: {} for name in made}}

    def loss(batch):
        keys = steps.clip_keys(0, batch["seed"])
        if "extra" in batch:
            more = {"keys": steps.clip_keys(0, batch["extra"]["seed"])}
            batch = batch | {"extra": batch["extra"] | more}
        bound = functools.partial(
            objective.loss,
            teacher=teacher.variables,
            epoch=jnp.ones(()),
            model=model,
            teacher_model=teacher.model,
            distillers=made,
            prepare=quick,
            mix=mix,
            modality="infrared",
            label_smoothing=0.0,
            class_weights=None,
        )

        def total(params):
            own, (_, terms, _) = bound(params, stats, batch, keys)
            return objective.added(own.values()), terms

        found = jax.grad(total, has_aux=True)(params) if sync else total(params)
        return jax.lax.pmean(found, steps.AXIS)

    cut = jax.tree.map(lambda x: jnp.asarray(x).reshape(devices, -1, *x.shape[1:]), batch)
    found = networks.jit(jax.vmap(loss, axis_name=steps.AXIS))(cut)
    return jax.tree.map(lambda x: x[0], found)


@pytest.mark.slow
def test_they_count_in_the_cross_entropy_and_nowhere_else():
    pairs, extra = batch_of(8), extra_of(4)
    _, alone = losses(pairs, 1)
    _, singles = losses({**extra, "clips": batch_of(4, seed=7)["clips"]}, 1)
    _, both = losses(pairs | {"extra": extra}, 1)
    for name in ("dkd", "sp"):  # means over the eight pairs
        assert_close(both[name], alone[name], rtol=1e-6)
    expected = (8 * alone["ce"]["ce"] + 4 * singles["ce"]["ce"]) / 12
    np.testing.assert_allclose(both["ce"]["ce"], expected, rtol=1e-6)


@pytest.mark.slow
def test_they_do_not_make_the_update_depend_on_the_number_of_devices():
    batch = batch_of(8) | {"extra": extra_of(4)}
    one, two = (losses(batch, devices, sync=True) for devices in (1, 2))
    assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_mixed_clips_and_their_labels_reach_every_loss():
    inputs = config().input
    inputs.cutmix = 1.0
    mix, batch = setup.make_mixing(inputs), batch_of(4)
    one, two = (losses(batch, devices, mix=mix)[1] for devices in (1, 2))
    assert_close(two, one, rtol=1e-5, atol=1e-6)
    batch = jax.tree.map(jnp.asarray, batch)
    clips, keys = batch["clips"], steps.clip_keys(0, batch["seed"])
    made, shares, partners = jax.jit(mix)(quick(clips, keys), keys)
    model = fakes.TinyModel(norm=False, dropout=0.0)
    variables = networks.draw(model, 1, 2, 32, 32, 1)
    apply = jax.jit(functools.partial(model.apply, train=True))
    lost = -jax.nn.log_softmax(apply(variables, made["infrared"]).logits)
    own, other = (lost[np.arange(4), batch["label"][i]] for i in (np.arange(4), partners))
    np.testing.assert_allclose(one["ce"]["ce"], np.mean(shares * own + (1 - shares) * other), 1e-5)


def test_a_stream_brings_them_beside_the_pairs_and_goes_on_anywhere():
    made, data = config(batch_size=4), dataset()
    made.student_training.extra_clips, made.seed = 2, 3
    readers = (
        setup.make_reader(made, data, "train", BOTH),
        setup.make_reader(made, data, "train", INFRARED, single=True),
    )

    def stream(first):
        return streams.batches(*readers, made, made.student_training, first)

    batches = [batch for batch, _ in zip(stream(0), range(4))]
    assert batches[0]["clips"]["rgb"].shape[0] == 4 and len(batches[0]["clip_id"]) == 6
    assert batches[0]["extra"]["clips"].keys() == {"infrared"}
    assert batches[0]["extra"]["label"].shape == (2,)
    again = next(stream(3))
    jax.tree.map(
        np.testing.assert_array_equal,
        {k: v for k, v in again.items() if k != "clip_id"},
        {k: v for k, v in batches[3].items() if k != "clip_id"},
    )


@pytest.mark.slow
def test_the_loop_hands_them_to_the_update(tmp_path):
    made = config(extra_clips=2, batch_size=3)
    teacher = fakes.teacher()
    phase = fakes.phase(made, distillers=setup.make_distillers({"dkd": {}}), teacher=teacher)
    trainer = Trainer(phase, made, dataset(), tmp_path)
    batch = trainer._next(trainer._batches(0), 1)
    kinds = [name[:11] for name in trainer._divergence._recent[-1][1]]
    assert kinds.count("S001C001P10") == 2 and len(kinds) == 5 and trainer.num_steps == 4
    asked = np.zeros((1, 1), bool)
    update = trainer.make_update(teacher.model)
    told = jax.eval_shape(update, trainer._initial_state(), teacher.variables, batch, asked)[1]
    assert {"ce", "dkd", "loss", "accuracy"} <= told.keys()


class Kept(nn.Module):
    """Says nothing of the clips; keeps the keys that it is given."""

    @nn.compact
    def __call__(self, clips, *, train, dropout_keys=None) -> Outputs:
        KEYS.append(dropout_keys)
        return Outputs(jnp.zeros((len(clips), 3)), {})


KEYS: list[jax.Array] = []


def test_units_are_not_dropped_by_what_a_clips_light_was_drawn_with():
    """Both drew from one key: a unit fell out wherever the clip had been darkened."""
    clips = 512
    keys = steps.clip_keys(0, jnp.arange(clips, dtype=jnp.uint32))
    frames = np.full((clips, 1, 8, 8, 3), 128, np.uint8)
    prepare = functools.partial(
        augment.prepare_training, resolution=8, scales=(1.0,), flip=False, colour_jitter=0.4
    )
    light = networks.jit(prepare)({"rgb": frames}, keys)["rgb"].mean((1, 2, 3, 4))
    objective.loss(
        {"model": {}},
        {"model": {}},
        {"clips": {"rgb": frames}, "label": jnp.zeros(clips, int)},
        keys,
        teacher={},
        epoch=jnp.ones(()),
        model=Kept(),
        teacher_model=None,
        distillers={},
        prepare=quick,
        modality="rgb",
        label_smoothing=0.0,
        class_weights=None,
    )
    kept = np.asarray(dropout(jnp.ones((clips, 1, 8)), KEYS.pop(), 0.5)[:, 0])
    for unit in kept.T:
        assert abs(np.corrcoef(light, unit)[0, 1]) < 0.2  # 4.5 standard errors; it was 0.87
