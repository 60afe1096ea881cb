import io
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from jax_irkd import inspect
from jax_irkd.data import loading
from jax_irkd.host.operations import operations
from jax_irkd.inspection import comparison, contact_sheet, cost
from jax_irkd.inspection.sparkline import sparkline
from jax_irkd.models.tsn import TSN
from jax_irkd.training import setup
from jax_irkd.training.optimizers import make_optimizer
from tests.helpers import fakes
from tests.helpers.generated_runs import generate_runs


def size_of(path):
    with Image.open(path) as image:
        return image.size


@pytest.fixture
def in_memory(monkeypatch):
    monkeypatch.setattr(loading, "open_dataset", lambda name, data_dir: fakes.dataset())


@pytest.fixture
def tiny(monkeypatch):
    def make(section, num_classes, dtype, **overrides):
        return fakes.TinyModel(num_classes, width=6 if section.depth == 50 else 4)

    monkeypatch.setattr(setup, "make_model", make)


def command(*words):
    return inspect.main([*words])


def test_sparkline():
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, None, np.inf, 3.0]) == "▁  █"
    assert sparkline([2, 2]) == "▁▁" and sparkline([]) == sparkline([None]) == ""
    assert sparkline(np.arange(100), width=4) == "▁▃▆█"


def test_contact_sheet_shows_the_frames_that_are_stored():
    config, dataset = fakes.config(), fakes.dataset()
    reader = contact_sheet.reader_of(config, dataset, "test")
    picture, captions = contact_sheet.contact_sheet(
        config, reader, dataset.class_names, clips=3, training=False
    )
    assert [c.split("  ·  ")[0] for c in captions] == list(fakes.CLASSES)
    assert all(name in c for name, c in zip(("A000", "A001", "A002"), captions))
    # The first frame of the first pair, scaled to the height of the sheet's frames.
    label = [int(c[-3:]) for c in captions]
    index = next(
        i for i in range(7) if reader.records[i]["clip_id"].decode() == captions[0].split()[-1]
    )
    clip = reader.centre(index)["clips"]
    for kind, top in (("rgb", 0), ("infrared", contact_sheet.HEIGHT + 2)):
        frame = Image.fromarray(np.squeeze(clip[kind][0]))
        size = (round(frame.width * contact_sheet.HEIGHT / frame.height), contact_sheet.HEIGHT)
        expected = np.asarray(frame.resize(size, Image.Resampling.LANCZOS))
        start = contact_sheet.MARGIN // 2 + contact_sheet.LINE + top
        shown = picture[
            start : start + contact_sheet.HEIGHT,
            contact_sheet.MARGIN : contact_sheet.MARGIN + size[0],
        ]
        np.testing.assert_array_equal(
            shown, np.broadcast_to(expected.reshape(*size[::-1], -1), shown.shape)
        )
    assert label == [0, 1, 2]


@pytest.mark.slow
def test_augmented_frames_are_those_of_the_network():
    config, dataset = fakes.config(), fakes.dataset()
    reader = contact_sheet.reader_of(config, dataset, "train")
    seen, chosen = [], contact_sheet.choose(reader, 2, 0)
    clips = [contact_sheet._read(reader, index, True, 0) for index in chosen]
    for clip, shown in zip(clips, contact_sheet._augmented(config, clips, True)):
        assert shown["rgb"].shape == (2, 32, 32, 3) and shown["infrared"].dtype == np.uint8
        key = jax.random.fold_in(jax.random.key(config.seed), clip["seed"])
        crop = contact_sheet.augment.draw_crop(
            jax.random.split(key)[0], tuple(config.input.scales), config.input.flip
        )
        exact = contact_sheet.augment.crop_frames(
            jnp.asarray(clip["clips"]["infrared"], jnp.float32), crop, 32
        )
        np.testing.assert_allclose(shown["infrared"], exact, atol=0.6)
        seen.append(shown)
    assert not np.array_equal(seen[0]["rgb"], seen[1]["rgb"])


def test_data_command(in_memory, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    base = ["data", "--config=configs/demo.py", "--clips=4", f"--out={out}"]
    small = ["--config.input.resolution=32", "--config.dataset.rgb_size=(32, 40)"]
    assert command(*base, *small, "--split=test_subjects_c1") == 0
    text = capsys.readouterr().out
    assert "3 of 3 clips, as they are stored" in text and "S001C001P" in text
    width, height = size_of(out)
    assert width > 700 and height > 2 * contact_sheet.HEIGHT
    assert command(*base, "--split=validation") == 2
    assert "unknown split 'validation'; choose from train, test, test_" in capsys.readouterr().err
    assert command(*base[:-1], "--out=/no/such/place.png", *small) == 2
    assert "cannot write /no/such/place.png" in capsys.readouterr().err


@pytest.mark.slow
def test_plan_of_two_phases(tiny):
    config = fakes.config("ours", batch_size=6, num_epochs=2, ema_decay=0.9)
    config.teacher_model.depth = 50
    teacher, student = cost.plan(config, fakes.dataset())
    assert [(p.name, p.modality) for p in (teacher, student)] == [
        ("teacher", "rgb"),
        ("ours", "infrared"),
    ]
    assert (student.clips, student.steps_per_epoch, student.num_steps) == (18, 3, 6)
    model = fakes.TinyModel(3, width=4)
    x = np.zeros((1, 2, 32, 32, 1), np.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    statistics = sum(leaf.size for leaf in jax.tree.leaves(variables["batch_stats"]))
    assert student.cost.parameters == count
    # Parameters, gradients, momentum and the running mean; momentum also counts no step.
    assert 0 <= student.cost.state - 4 * (4 * count + statistics) <= 8
    taught = student.cost.training_flops + teacher.cost.forward_flops
    assert student.update_flops == 6 * taught
    assert student.memory["teacher"] == 4 * teacher.cost.parameters
    schedule = make_optimizer(config.student_training, 6, 3)[1]
    np.testing.assert_allclose(student.rates, [schedule(i) for i in range(6)], rtol=1e-6)


def test_flops_and_activations_of_one_convolution(monkeypatch):
    """A network that can be reckoned by hand: 8 x 8 x 4 outputs of a 3 x 3 kernel on 1 channel."""

    class One(fakes.nn.Module):
        @fakes.nn.compact
        def __call__(self, clips, *, train, dropout_keys=None):
            x = fakes.nn.Conv(4, (3, 3), padding="VALID", use_bias=False)(clips[:, 0])
            return fakes.Outputs(fakes.nn.relu(x).sum((1, 2)), {})

        axis_name: str | None = None

    monkeypatch.setattr(setup, "make_model", lambda *args, **kwargs: One())
    config = fakes.config()
    config.input.resolution, config.input.num_segments = 10, 1
    found = cost.cost(config, "student", 4)
    assert found.parameters == 36
    multiplied = 2 * 8 * 8 * 4 * 9
    assert multiplied <= found.forward_flops <= 1.2 * multiplied
    # Kept for the backward pass: which outputs were positive (a byte or four each), the input.
    assert 256 + 400 <= found.activations <= 4 * 2 * 256 + 400 + 200


def test_counts_of_a_resnet_are_known_ones():
    """torchvision counts 11,176,512 weights below ResNet-18's classifier; 1.81 G mult-adds."""
    config = fakes.config()
    config.input.resolution, config.input.num_segments = 224, 1
    config.student_model.width = 64
    model = setup.make_model(config.student_model, 10, "float32")
    assert isinstance(model, TSN)
    x = jax.ShapeDtypeStruct((1, 1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), x)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
    assert count == 11_176_512 + 5_130
    forward = jax.jit(lambda v, x: model.apply(v, x, train=False).logits)
    # XLA does not count what is multiplied with the zeros of the padding.
    assert operations(forward, variables, x) == pytest.approx(2 * 1.81e9, rel=0.08)


@pytest.mark.slow
def test_config_command(tiny, tmp_path, capsys):
    out = tmp_path / "rates.png"
    config = "configs/demo.py:method=baseline,seed=4"
    flags = ["--config.dataset.data_dir=/nowhere", "--train_clips=160", f"--out={out}"]
    training = {"batch_size": 16, "num_epochs": 12.0, "learning_rate": 2e-3}
    flags += [f"--config.student_training.{name}={value}" for name, value in training.items()]
    assert command("config", f"--config={config}", *flags) == 0
    text = capsys.readouterr().out
    assert "seed = 4" in text and "no dataset ntu_rgbd_ir/ten under /nowhere" in text
    assert "reckoned with 10 classes and 160 training clips" in text
    assert "learning rate of baseline: ▁" in text.replace("▂", "▁") and "peak 0.002" in text
    row = next(line for line in text.splitlines() if " steps   " in line)
    assert row.split()[-1] == "120"  # 160 clips in batches of 16, 12 epochs
    assert size_of(out)[0] > 500


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["config"], "--config is missing"),
        (["config", "--config=configs/none.py"], "configs/none.py does not exist"),
        (["config", "--config=configs/demo.py:metod=at"], "unknown option 'metod'"),
        (["config", "--config=configs/demo.py", "--config.seeds=1"], "seeds"),
        (["date"], "unknown subject 'date'; did you mean 'data' or 'rates'? Choose from data"),
        (["run"], "which run?"),
        (["data", "--clip=3"], "unknown option --clip; did you mean '--clips'"),
        (["run", "/nowhere"], "/nowhere holds no run"),
    ],
)
def test_mistakes_are_one_line(words, message, capsys):
    assert command(*words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1, error


def test_run_command(tmp_path, capsys):
    generate_runs(tmp_path / "a", ("baseline", "ours"), clips=60, steps=60)
    generate_runs(tmp_path / "b", ("ours",), clips=60, steps=60, seed=1)
    (tmp_path / "b" / "ours" / "results.json").unlink()  # Still running.
    out = tmp_path / "curves.png"
    assert command("run", str(tmp_path / "a"), str(tmp_path / "b" / "ours"), f"--out={out}") == 0
    text = capsys.readouterr().out
    assert "a/baseline" in text and "b/ours" in text and "60, not ended" in text
    saved = json.loads((tmp_path / "a" / "ours" / "results.json").read_text())["metrics"]
    assert f"{100 * saved['top1']:.1f} %" in text
    assert "what their configs differ in" in text and "▁" in text
    assert size_of(out)[0] > 1000


def test_80_columns_keep_the_names_of_the_rows(tmp_path):
    generate_runs(
        tmp_path, ("baseline", "ours", "at", "a_method_of_a_long_name"), clips=20, steps=60
    )
    path = tmp_path / "at" / "results.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"dataset": "another/one", "seed": 1})
    )
    runs = comparison.read([tmp_path])
    console = Console(width=80, file=io.StringIO())
    made = [*comparison.tables(runs, 80), comparison.curves(runs, 80)]
    for table in made:
        console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80 and len(made) > 2
    for run in runs:
        assert len(re.findall(rf"^ {run.name} ", text, re.M)) == len(made)
    whole = (
        "dataset",
        "another/one",
        "seed",
        "top-1",
        "class acc.",
        "mAP",
        "nll",
        "ece",
        "12 min 34 s",
    )
    assert all(word in text for word in whole)
    assert comparison.shared_facts(runs) == ["protocol cross_subject"]
    setting = "distillers.dkd.nontarget_weight"
    names = comparison.Named("setting", [setting, "seed"])
    columns = [comparison.Named(run.name, ["['stage1', 'stage2']", "0"]) for run in runs[:3]]
    console = Console(width=80, file=io.StringIO())
    (table,) = comparison.side_by_side(names, columns, 80, "left")
    console.print(table)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80 and any(line.startswith(f" {setting} ") for line in lines)


def test_differences_and_terms(tmp_path):
    generate_runs(tmp_path, ("baseline", "ours"), clips=20, steps=60)
    found = comparison.read([tmp_path])
    assert [run.name for run in found] == ["baseline", "ours"]
    assert comparison.differences(found) == [("method", ["baseline", "ours"])]
    assert comparison.terms(found) == ["ce", "dkd", "mgcam"]
    steps, values = comparison.curve(found[1], "train", "loss")
    assert steps.tolist() == [10, 20, 30, 40, 50, 60] and np.isfinite(values).all()
    (alone,) = comparison.read([tmp_path / "ours"])
    assert alone.name == "ours"
