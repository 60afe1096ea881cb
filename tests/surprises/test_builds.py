"""Builds that crash, meet, or are killed; names in any script."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from jax_irkd import build, errors
from jax_irkd.data import loading
from jax_irkd.data.synthetic.raw_ntu import ntu_tree, write_video
from jax_irkd.deployment import annotate, prediction
from jax_irkd.deployment.judgement import Verdict
from jax_irkd.host import lettering
from jax_irkd.inspection import contact_sheet
from jax_irkd.reporting import charts, pictures
from jax_irkd.tfds_builders._shared import inventory, pool, report
from jax_irkd.tfds_builders._shared.cache import Cache, EncodingTask
from jax_irkd.tfds_builders._shared.lock import locked
from jax_irkd.tfds_builders._shared.options import BuildOptions
from jax_irkd.training import parallel
from jax_irkd.video.archives import Found
from tests.deployment.test_predict import Reader
from tests.helpers.crashing import CrashingFilm, crash_on_b

CONFIG = ("ntu_rgbd_ir", "ten")
BUILDER = "jax_irkd.tfds_builders._shared.builder.PairedBuilder"


@pytest.mark.slow
@pytest.mark.parametrize(("keys", "workers"), [("ab", 1), ("b", 4)])
def test_a_decoder_that_crashes_never_takes_the_build_with_it(tmp_path, keys, workers):
    tasks = [EncodingTask(key, "train", "1", None) for key in keys]
    cache = Cache(tmp_path)
    found = pool.encode_all(tasks, crash_on_b, cache, workers, show=False)
    assert [summary.records for summary in found] == [int(key != "b") for key in keys]
    assert found[-1].skipped[0].reason == "crashes the decoder"


@pytest.mark.slow
def test_it_ends_no_inventory(tmp_path):
    good = write_video(tmp_path / "good.mp4", list(np.zeros((3, 48, 64, 3), np.uint8)))
    files = {("b", "rgb"): CrashingFilm(), ("a", "rgb"): good}
    found = {key: Found(source, 1, "1") for key, source in files.items()}
    headers, refused = inventory.read_headers(found, 2, show=False)
    assert [facts.frames for facts in headers.values()] == [3]
    assert [(skip.name, skip.reason) for skip in refused] == [("bad.mp4", "crashes the decoder")]


def test_under_beam_it_is_skipped_too():
    bad, good = (
        pool.encode_alone(crash_on_b, EncodingTask(key, "train", "1", None)) for key in "ba"
    )
    assert not bad.records and bad.skipped[0].reason == "crashes the decoder"
    assert [record.key for record in good.records] == ["a"]


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = tmp_path_factory.mktemp("raw")
    ntu_tree(root, cameras=(1,), actions=(1,), frames=(4, 4))
    return root


def run(raw, out, *flags):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pool, "INLINE", True)
        return build.main(
            ["ntu_rgbd_ir", f"--manual_dir={raw}", f"--data_dir={out}", "--workers=1", *flags]
        )


def clips(out):
    dataset = loading.open_dataset("/".join(CONFIG), out)
    return {name: len(records) for name, records in dataset.splits.items()}


def test_a_build_that_replaces_another_leaves_it_in_place_until_the_end(
    raw, tmp_path, monkeypatch, capsys
):
    assert run(raw, tmp_path) == 0
    folder, before = Path(tmp_path, *CONFIG), clips(tmp_path)

    def killed(self, summaries):
        assert clips(tmp_path) == before
        # A second command that replaces it, too, is refused and moves nothing.
        assert run(raw, tmp_path, "--overwrite") == 2
        assert clips(tmp_path) == before
        raise SystemExit(143)  # What a signal leaves undone.

    monkeypatch.setattr(report.Report, "add", killed)
    assert run(raw, tmp_path, "--overwrite") == 143
    assert "another build is writing to" in capsys.readouterr().err
    assert clips(tmp_path) == before
    monkeypatch.undo()
    # Killed between the two renames: the next command finds the old one.
    (folder / "1.0.0").rename(folder / "replaced.1.0.0")
    assert run(raw, tmp_path) == 0 and clips(tmp_path) == before
    assert run(raw, tmp_path, "--overwrite", "--max_frames=2") == 0
    names = {path.name for path in folder.iterdir()}
    assert names <= {"1.0.0", ".build.lock"} and clips(tmp_path) == before
    with locked(folder):
        assert run(raw, tmp_path) == 0  # Asking for what is there needs no lock.


def test_a_kept_cache_serves_the_build_that_replaces_its_own(raw, tmp_path, monkeypatch):
    stored = []
    store = Cache.store
    monkeypatch.setattr(Cache, "store", lambda *given: stored.append(given) or store(*given))
    encoded = Path(tmp_path, *CONFIG, ".encoded")
    assert run(raw, tmp_path, "--keep_cache") == 0 and stored
    before, kept = len(stored), sorted(encoded.rglob("*.clip"))
    assert run(raw, tmp_path, "--keep_cache", "--overwrite") == 0
    assert len(stored) == before and sorted(encoded.rglob("*.clip")) == kept
    assert run(raw, tmp_path, "--overwrite", "--max_frames=2") == 0
    assert len(stored) == 2 * before and not encoded.exists()  # others, and nothing was to be kept


def test_what_is_built_says_which_of_the_options_it_was_not_built_with(tmp_path, capsys):
    """A data set of before knew fewer of them."""
    raw, out = tmp_path / "raw", tmp_path / "out"
    for clip in ("a/1", "a/2", "b/1", "b/2"):
        for kind in ("rgb", "infrared"):
            write_video(raw / kind / f"{clip}.avi", 4, infrared=kind == "infrared")

    def said(*flags):
        flags = (f"--manual_dir={raw}", f"--data_dir={out}", "--workers=1", *flags)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pool, "INLINE", True)
            assert build.main(["folder_ir", *flags]) == 0
        return capsys.readouterr().out

    said()
    for flag in ("unpaired", "trust_names"):
        note = f"built with {{'{flag}': False}}, you asked for {{'{flag}': True}}"
        assert note in said(f"--{flag}") and "note:" not in said()
    about = out / "folder_ir" / "1.0.0" / "metadata.json"
    known = json.loads(about.read_text())
    about.write_text(
        json.dumps({k: v for k, v in known.items() if k not in ("unpaired", "trust_names")})
    )
    assert "note:" not in said("--unpaired") and "'quality': 80" in said("--quality=80")


def test_clips_are_encoded_once_whichever_of_them_are_kept():
    """The refusal of a build says that --unpaired keeps more, and that nothing is done again."""
    assert BuildOptions(unpaired=True).digest == BuildOptions().digest
    assert BuildOptions(trust_names=True).digest != BuildOptions().digest


def test_a_split_whose_clips_are_all_skipped_can_be_opened(raw, tmp_path, monkeypatch):
    """Under Beam the builder learns what is left of a split when it is written."""

    def like_beam(self, plan, dl_manager, config):
        groups = {
            split: [[task for task in plan.tasks if task.split == split]]
            for split in ("train_subjects_c1", "test_subjects_c1")
        }
        self._write(plan, groups, dl_manager, config)
        tasks = plan.tasks
        self._check(plan, [found for task in tasks if (found := self.cache.summary(task))])

    copy = tmp_path / "raw"
    for path in raw.rglob("*.avi"):
        target = copy / path.relative_to(raw)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes() if "P001" in path.name else b"no video")
    monkeypatch.setattr(f"{BUILDER}._build_here", like_beam)
    assert run(copy, tmp_path / "out", "--max_skipped=0.6") == 0
    assert clips(tmp_path / "out") == {"train_subjects_c1": 1}


@pytest.mark.parametrize("name", ["clip", "x" * 127 + "挥手", "Б" * 200])
def test_clip_ids_of_any_length_travel_between_processes(monkeypatch, name):
    def both(value, tiled=False):
        return np.concatenate([value, value]) if tiled else np.stack([value, 3 * value])

    monkeypatch.setattr(parallel.jax, "process_count", lambda: 2)
    monkeypatch.setattr(parallel.multihost_utils, "process_allgather", both)
    names = np.array([name, "other"])
    assert parallel.gather_names(names).tolist() == [*names.tolist(), *names.tolist()]


NAMES = ("walk", "взмах рукой", "挥手", "हाथ हिलाना", "100 $ or $ 5", "👋")


def boxed(font_path: str, text: str) -> bool:
    """Whether a font draws any letter of `text` as it draws one that it has not."""
    from PIL import ImageFont

    font = ImageFont.truetype(font_path, 40)
    box = bytes(font.getmask("\U0010fffe"))
    return any(bytes(font.getmask(letter)) == box for letter in text if not letter.isspace())


@pytest.mark.parametrize("name", NAMES)
def test_no_name_becomes_boxes(name, capsys):
    errors.once.cache_clear()
    lettering.lettered.cache_clear()
    path, text = lettering.lettered(name)
    assert text and not boxed(path, text)
    fonts, missing = lettering.fonts_for(name)
    if missing:
        assert "\\u" in text.lower() and "Install a font" in capsys.readouterr().err
    else:
        assert text == name and fonts


def test_names_in_pictures(tmp_path, monkeypatch):
    monkeypatch.setattr(lettering, "system_fonts", lambda: ())  # A slim machine.
    lettering.lettered.cache_clear()
    shares = np.eye(len(NAMES))
    chart = charts.confusion_chart(shares, NAMES, colour="ours", label="x")
    drawn = pictures.pixels(chart)
    blank = pictures.pixels(charts.confusion_chart(shares, [" "] * 6, colour="ours", label="x"))
    height = drawn.shape[0] // 6
    for row in range(2, 6):  # Every name leaves ink beside its row.
        place = slice(row * height, (row + 1) * height), slice(0, drawn.shape[1] // 5)
        assert np.abs(drawn[place].astype(int) - blank[place]).sum() > 1000
    texts = re.findall(r">([^<>]*)</text>", pictures.written(str(chart))[0])
    assert "взмах рукой" in texts and not any("挥" in text for text in texts)
    pair = {
        "rgb": np.zeros((2, 48, 64, 3), np.uint8),
        "infrared": np.zeros((2, 48, 64, 1), np.uint8),
    }
    assert contact_sheet.cell(pair, "挥手 · 1")[:16].min() < 200
    image = np.full((240, 320, 3), 90, np.uint8)
    annotate.draw(image, Verdict(np.eye(6)[2]), NAMES)
    assert np.count_nonzero(image[:18, :, 0] > 200) > 40


def test_a_timeline_picture_of_any_names(tmp_path):
    class Named(Reader):
        class_names = NAMES[2:]

    path = write_video(tmp_path / "挥手.avi", 60, infrared=True)
    settings = prediction.VideoSettings(trimmed=False, stride=8)
    result = prediction.predict(Named(), path, settings)
    annotate.timeline_picture(result, Named.class_names, tmp_path / "seen.png")
    assert (tmp_path / "seen.png").stat().st_size > 5000
