"""The report: complete, self-contained, escaped, and fitting on a phone; on generated runs."""

import contextlib
import html
import html.parser
import io
import json
import re
import shutil
import struct
import subprocess

import numpy as np
import pytest
from rich.console import Console
from tensorboardX.proto import event_pb2

from jax_irkd.metrics import classification, significance
from jax_irkd.reporting import analysis, charts, page, paper, pictures, sections, write
from jax_irkd.reporting.intervals import Estimate, interval_chart
from jax_irkd.reporting.wording import duration, flatten
from jax_irkd.runs import results
from jax_irkd.training.logs import RunLog
from tests.helpers.generated_runs import NTU, generate_runs, write_run

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    folder = generate_runs(tmp_path_factory.mktemp("generated") / "runs")
    write.write_report(folder, sections={"ours": _sections(), "": _sections()[:1]})
    return folder


def _clip(name="generated-00001", label="drink water", predicted="eat meal/snack"):
    rng = np.random.default_rng(0)
    infrared = rng.integers(0, 255, (8, 48, 56, 1), dtype=np.uint8)
    rgb = rng.integers(0, 255, (8, 48, 64, 3), dtype=np.uint8)
    return sections.ShownClip(name, label, predicted, 0.97, infrared, rgb)


def _sections():
    rng = np.random.default_rng(0)
    maps = [rng.random((8, 3, 3))]
    stages = ("stage 1", "stage 2")
    attention = {(i, j): rng.uniform(0.11, 0.14, (8, 8)) for i in stages for j in stages}
    won = _clip()._replace(note="won")
    return [
        sections.mistakes_section([_clip()], 7),
        sections.gradcam_section([won], maps, maps, counts={"won": 9, "lost": 1}, seed=3),
        sections.attention_section(attention),
        sections.table_section("Study", ["method", "top-1"], [["ours", 0.5], ["at", "0.4"]]),
    ]


def _page(folder):
    return write.write_report(folder, []).read_text("utf-8")


class _Reader(html.parser.HTMLParser):
    """Checks that tags nest, and collects what a browser would load."""

    void = ("meta", "img", "br", "link", "input", "hr")

    def __init__(self, text):
        super().__init__()
        self.open, self.loads, self.ids, self.links, self.images = [], [], [], [], []
        self.scripts = 0
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.loads += [
            attributes[a] for a in ("src", "srcset", "data", "xlink:href") if a in attributes
        ]
        self.scripts += tag == "script"
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if "href" in attributes:
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.void:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, tag


def _pages(workdir):
    return [workdir / "report.html", *sorted(workdir.glob("*/report.html"))]


def test_a_page_per_run_and_one_for_all(workdir):
    assert [p.parent.name for p in _pages(workdir)] == ["runs", "baseline", "ours", "teacher"]
    assert all((p.parent / "confusion_matrix.png").exists() for p in _pages(workdir)[1:])


def test_pages_are_self_contained_and_well_formed(workdir):
    for path in _pages(workdir):
        text = path.read_text("utf-8")
        reader = _Reader(text)
        assert not re.search(r"https?://|@import|url\(|//cdn", text)
        assert all(load.startswith("data:image/") for load in reader.loads)
        assert reader.scripts == 0
        assert len(reader.ids) == len(set(reader.ids))
        assert all(link[0] == "#" and link[1:] in reader.ids for link in reader.links)
        assert all(image["alt"] and len(image["src"]) > 500 for image in reader.images)


def test_every_section_is_there(workdir):
    text = (workdir / "ours/report.html").read_text("utf-8")
    for title in (
        "Figures",
        "Learning curves",
        "What is taken for what",
        "Where it differs most from infrared only",
        "Class by class",
        "Is it as sure as it should be?",
        "Most confident mistakes",
        "Where the student looks",
        "What MGCAM attends to",
        "Study",
        "How it was made",
    ):
        assert f">{title}</h" in text, title
    for curve in ("Loss, all terms", "Cross-entropy", "DKD term", "MGCAM term", "mgcam: contrast"):
        assert curve in text, curve
    assert "python -m jax_irkd.main --config=configs/demo.py:method=ours" in text
    assert "student_training.learning_rate" in text and "0000generated" in text
    assert len(_Reader(text).images) == 4
    assert "rejected" not in re.findall(r"<figcaption>(.*?)</figcaption>", text)


def test_figures_on_the_page_are_those_of_the_scores(workdir):
    text = (workdir / "ours/report.html").read_text("utf-8")
    top1 = {}
    for method in ("teacher", "baseline", "ours"):
        with np.load(workdir / method / "scores.npz") as scores:
            logits, labels = scores["logits"], scores["label"]
            top1[method] = classification.top_k_accuracy(logits, labels)
        assert f"{100 * top1[method]:.1f}\N{NO-BREAK SPACE}%" in text
        assert f"ECE {100 * classification.calibration_error(logits, labels):.1f}" in text
    gain = top1["ours"] - top1["baseline"]
    share = gain / (top1["teacher"] - top1["baseline"])
    assert f"leads infrared only by {100 * gain:.1f} points</h1>" in text
    assert f"{100 * gain:+.1f} points" in text
    assert f"gap to the RGB teacher {100 * share:.0f}\N{NO-BREAK SPACE}% is closed, 95 %" in text


def test_sections_are_kept_for_the_next_call(workdir):
    before = (workdir / "ours/report.html").read_text("utf-8")
    write.write_report(workdir, ["ours"])
    assert (workdir / "ours/report.html").read_text("utf-8") == before
    assert "Most confident mistakes" in (workdir / "report.html").read_text("utf-8")


def _tags_of_images(folder):
    """Tags of the pictures in all events files of a run, and their sizes."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        content = path.read_bytes()
        while content:  # length, its checksum, an event, its checksum
            (length,) = struct.unpack_from("<Q", content)
            event = event_pb2.Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]
            found += [
                (v.tag, event.step, v.image.width)
                for v in event.summary.value
                if v.HasField("image")
            ]
    return found


@pytest.mark.slow
def test_tensorboard_shows_the_pictures_of_the_page_once(tmp_path):
    generate_runs(tmp_path, ("ours",), clips=60)
    folder = tmp_path / "ours"
    for _ in range(2):
        write.show_pictures(folder, _sections())
    found = _tags_of_images(folder)
    tags = [tag for tag, _, _ in found]
    assert tags == [
        "report/confusion",
        "report/reliability",
        "report/mistake_1_drink_water_taken_for_eat_meal_snack_infrared",
        "report/mistake_1_drink_water_taken_for_eat_meal_snack_RGB",
        "report/Grad-CAM_1_won_drink_water_infrared_only",
        "report/Grad-CAM_1_won_drink_water_this_student",
        "report/attention_of_MGCAM",
    ]
    assert {step for _, step, _ in found} == {600} and min(width for *_, width in found) > 300
    with contextlib.closing(RunLog(folder, 300)):  # Taken up again: the end is not known any more.
        pass
    assert _tags_of_images(folder) == []


def test_only_named_runs_are_written(tmp_path):
    generate_runs(tmp_path, clips=40)
    assert write.write_report(tmp_path, ["baseline"]) == tmp_path / "report.html"
    assert [p.parent.name for p in sorted(tmp_path.glob("*/report.html"))] == ["baseline"]


@pytest.mark.parametrize("methods", [("teacher",), ("baseline",), ("ours",), ("teacher", "ours")])
def test_missing_runs_are_said(tmp_path, methods):
    generate_runs(tmp_path, methods, clips=60)
    text = _page(tmp_path)
    _Reader(text)
    assert ("No infrared-only run of these settings lies beside" in text) == ("ours" in methods)
    assert ("No teacher lies beside this run" in text) == ("teacher" not in methods)


def test_missing_files_are_said(tmp_path):
    generate_runs(tmp_path, clips=60)
    for path in tmp_path.glob("*/scores.npz"):
        path.unlink()
    for path in tmp_path.glob("*/metrics.jsonl"):
        path.unlink()
    text = _page(tmp_path)
    _Reader(text)
    assert "No metrics.jsonl was found" in text and "No scores.npz was found" in text
    assert "<h1>Ours (DKD + MGCAM): " in text and "leads" not in text and "[" not in _cells(text)


def _cells(page):
    return "".join(re.findall(r"<td.*?</td>", page[: page.index("How it was made</h")]))


def test_the_least_that_results_may_hold(tmp_path):
    (tmp_path / "ours").mkdir()
    (tmp_path / "ours/results.json").write_text('{"metrics": {"top1": 0.5}}')
    assert "50.0" in _page(tmp_path)


def test_a_teacher_from_elsewhere(tmp_path):
    generate_runs(tmp_path, ("baseline", "ours"), clips=60)
    path = tmp_path / "ours/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"teacher": {"top1": 0.99}}))
    text = _page(tmp_path)
    assert "99.0" in text and "The teacher was brought from elsewhere" in text


def test_a_student_that_falls_behind_is_not_praised(tmp_path):
    generate_runs(tmp_path, clips=600)
    shutil.move(tmp_path / "ours", tmp_path / "kept")
    shutil.move(tmp_path / "baseline", tmp_path / "ours")
    shutil.move(tmp_path / "kept", tmp_path / "baseline")
    for method in ("ours", "baseline"):
        path = tmp_path / method / "results.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"method": method}))
    text = _page(tmp_path)
    assert re.search(r"<h1>Ours \(DKD \+ MGCAM\) trails infrared only by \d+\.\d points</h1>", text)
    closed = float(re.search(r'"gap closed">-(\d+)', text)[1])
    assert f"The gap to the RGB teacher is {closed:.0f}\N{NO-BREAK SPACE}% wider than that" in text


def test_a_student_that_changed_nothing(tmp_path):
    generate_runs(tmp_path, ("teacher", "baseline"), clips=80)
    shutil.copytree(tmp_path / "baseline", tmp_path / "ours")
    path = tmp_path / "ours/results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"method": "ours"}))
    text = _page(tmp_path)
    assert "cannot be told from infrared only</h1>" in text and "p = 1)" in text


@pytest.mark.parametrize("won", [2, -1])
def test_a_clip_or_two_are_no_headline(tmp_path, won):
    # The demo's 210 clips; two more right, or one fewer, is what another seed does.
    labels, ids = np.arange(210) % 10, np.array([f"clip{i}" for i in range(210)])
    right = np.random.default_rng(0).random(210) < 0.62
    better = right.copy()
    better[np.flatnonzero(right != (won > 0))[: abs(won)]] = won > 0
    for method, known in (("teacher", np.ones(210, bool)), ("baseline", right), ("ours", better)):
        logits = 4.0 * np.eye(10)[np.where(known, labels, (labels + 1) % 10)]
        write_run(tmp_path / method, method, "generated/ten", NTU, ids, labels, logits, 60)
    text = _page(tmp_path)
    assert "cannot be told from infrared only</h1>" in text
    assert "includes no difference at all" in text and f"{100 * won / 210:+.1f} points" in text
    visible = re.sub(r"<style.*?</style>", "", text, flags=re.S)
    assert not re.search(r"lifts|lowers|improves|thanks to|falls behind", visible)


def test_runs_on_other_clips_get_no_interval(tmp_path):
    generate_runs(tmp_path, clips=60)
    path = tmp_path / "baseline/scores.npz"
    with np.load(path) as scores:
        arrays = dict(scores)
    np.savez(path, **arrays | {"clip_id": np.char.add(arrays["clip_id"], "x")})
    text = _page(tmp_path)
    assert "were not tested on the same clips" in text and "McNemar" not in text


def test_clips_in_another_order_are_paired_by_name(tmp_path):
    generate_runs(tmp_path, clips=100)
    before = re.search(r"Top-1 difference.*?</p>", _page(tmp_path))
    path = tmp_path / "baseline/scores.npz"
    with np.load(path) as scores:
        arrays = {name: scores[name][::-1] for name in scores}
    np.savez(path, **arrays)
    after = re.search(r"Top-1 difference.*?</p>", _page(tmp_path))
    assert before.group() == after.group()


def test_names_are_escaped(tmp_path):
    names = ["<script>alert(1)</script>", '"><img src=x onerror=y>', "a & b", "$\\frac{1}{2}$"]
    generate_runs(tmp_path, class_names=names, clips=80, dataset="<b>data</b>")
    clip = _clip("<i>id</i>", names[0], names[1])
    extra = [
        sections.mistakes_section([clip], 1),
        sections.table_section("<u>t</u>", ["<h>"], [["<r>", "<c>"]], "<l>"),
    ]
    path = write.write_report(tmp_path, sections={"": extra})
    text = path.read_text("utf-8")
    reader = _Reader(text)
    assert reader.scripts == 0 and len(reader.images) == 2
    for raw in ("<script", "<b>data", "<i>id", "<u>t", "<h>", "<r>", "<c>", "<l>", "<img src=x"):
        assert raw not in text, raw
    assert "a &amp; b" in text


def test_sixty_classes_and_many_methods(tmp_path):
    methods = ["teacher", "baseline", "st", "at", "sp", "cc", "rkd", "dkd", "mgcam", "ours"]
    methods += ["pkt", "ofd", "fitnet"]
    generate_runs(tmp_path, methods, class_names=[f"class {i}" for i in range(60)], clips=600)
    path = write.write_report(tmp_path, [])
    text = path.read_text("utf-8")
    _Reader(text)
    assert path.stat().st_size < 1.5e6
    assert "40 classes between these and the last ten" in text
    assert text.count('<tr class="focus">') == 1
    marks = re.findall(r'<th scope="row"><i class="key ([a-z0-9 ]+)"', text)
    assert len(set(marks)) == len(methods)  # also the ninth and tenth student


def test_classes_without_clips_are_named(tmp_path):
    generate_runs(tmp_path, class_names=[*NTU[:3], "never seen"], clips=30, seed=1)
    for path in tmp_path.glob("*/scores.npz"):
        with np.load(path) as scores:
            arrays = dict(scores)
        np.savez(path, **arrays | {"label": np.minimum(arrays["label"], 2)})
    text = _page(tmp_path)
    assert "1 class has no test clip" in text and "never seen" in text


def test_errors_name_the_folder(tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match=r"no finished run in .* there are \[\]"):
        write.write_report(tmp_path)
    generate_runs(tmp_path, ("ours",), clips=20)
    with pytest.raises(FileNotFoundError, match=r"no run 'at' in .* there are \['ours'\]"):
        write.write_report(tmp_path, ["at"])
    (tmp_path / "ours/results.json").write_text("{")
    with pytest.raises(FileNotFoundError, match=r"no finished run in .* there are \[\]"):
        write.write_report(tmp_path)
    assert "results.json is not JSON" in capsys.readouterr().err


def test_printed_table(workdir):
    console = Console(width=78, record=True, file=io.StringIO())
    write.print_table(workdir, console)
    text = console.export_text()
    assert "RGB teacher" in text and "gap closed" in text
    assert "generated/ten, 600 test clips, seed 0" in text
    assert str(workdir / "report.html") in text.replace("\n", "")


def test_paper_figures_stand_beside_ours_as_what_they_are(tmp_path):
    generate_runs(tmp_path, dataset="ntu_rgbd_ir/ten", clips=60)
    text = _page(tmp_path)
    assert "ours, another dataset" in text and "tested on 60 other" in text
    assert "80.86\N{NO-BREAK SPACE}%" in text and "71.20\N{NO-BREAK SPACE}%" in text
    runs = results.read_runs(tmp_path)
    full = [run._replace(results=run.results | {"num_clips": 2745}) for run in runs]
    assert paper.paper_rows(full[-1], full)["same"]
    pku = {"dataset": "pku_mmd_ir", "protocol": "cross_view", "num_clips": 100}
    rows = paper.paper_rows(full[-1]._replace(results=pku), full)
    assert [row["paper"] for row in rows["rows"]] == [0.567, 0.588] and not rows["same"]
    other = full[-1]._replace(results={"dataset": "custom"})
    assert paper.paper_rows(other, full) is None


def test_pku_is_judged_by_its_map(tmp_path):
    generate_runs(tmp_path, dataset="pku_mmd_ir", clips=200)
    text = _page(tmp_path)
    assert (
        re.search(r"Infrared only reaches [\d.]+\s% mAP, Ours", text)
        and "does not define its mAP" in text
    )
    assert re.search(r"infrared only by [\d.]+ points of top-1</h1>", text)
    assert re.search(r'data-label="gap closed">\d+\s% \[\d+, \d+\]<', text)  # in mAP


def test_confusion_matrix_picture(tmp_path):
    from PIL import Image

    matrix = np.array([[3, 1], [0, 0]])
    path = tmp_path / "matrix.png"
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    names = ["$a_b$ & <c>", "d" * 60]
    chart = charts.confusion_chart(shares, names, colour="student", label="generated")
    path.write_bytes(pictures.png(charts.sheet([("generated", chart)], label="generated")))
    with Image.open(path) as picture:
        assert picture.format == "PNG" and picture.width > 300
        assert len(np.unique(np.asarray(picture))) > 20


def test_strips_and_overlays():
    frames = np.arange(4 * 6 * 8, dtype=np.uint8).reshape(4, 6, 8, 1)
    assert pictures.strip(frames, 12).shape == (12, 4 * 16 + 3 * 2, 1)
    maps = np.zeros((4, 3, 4))
    maps[0, 0, 0] = 2.0
    shown = sections.overlay(frames, maps)
    assert shown.shape == (4, 6, 8, 3) and shown.dtype == np.uint8
    assert shown[0, 0, 0].sum() > 3 * frames[0, 0, 0, 0] + 200  # lit where the map is
    assert sections.overlay(frames, np.zeros((4, 3, 4))).max() <= frames.max()


def test_curves_are_called_by_what_they_are():
    named = {
        ("train", "fitnet"): ("FitNet term, weighted", ""),
        ("train", "rkd_distance"): ("RKD distance term, weighted", ""),
        ("train", "fitnet/pull"): ("fitnet: pull", ""),
        ("eval", "ema_top1"): ("Test accuracy, top-1, of the running mean", "%"),
        ("time", "ms/data"): ("Time for data", "ms a step"),
    }
    assert {key: analysis._named(*key, {"fitnet", "rkd"}) for key in named} == named


def test_an_interval_has_the_colour_of_what_it_says():
    rows = [("up", 2, 1, 3), ("down", -2, -3, -1), ("neither", 1, -1, 3)]
    drawn = interval_chart([Estimate(*row) for row in rows], unit="points", label="x")
    assert re.findall(r'class="dot (\w+)"', drawn) == ["student", "worse", "baseline"]
    picture = pictures.pixels(charts.sheet([("x", drawn)], label="x"), zoom=1)
    colours = {tuple(colour) for colour in picture.reshape(-1, 3).tolist()}
    assert (0xB4, 0x54, 0x1A) in colours and (0x0B, 0x7A, 0x63) in colours


@pytest.mark.parametrize(
    "low, high, want",
    [(0, 1, [0, 0.25, 0.5, 0.75, 1]), (10, 600, [100, 200, 300, 400, 500, 600]), (3, 3, [3])],
)
def test_ticks_by_hand(low, high, want):
    assert charts.ticks(low, high, 4) == want


def test_moving_average_skips_what_is_missing():
    values = np.ones(100)
    values[[10, 11]] = np.nan
    np.testing.assert_allclose(charts.moving_average(values), 1.0)
    assert charts.moving_average(np.arange(9.0)) == pytest.approx(np.arange(9.0))
    line = np.arange(200.0)
    np.testing.assert_allclose(charts.moving_average(line), line, atol=1e-9)  # up to the ends
    noise = np.random.default_rng(0).normal(size=(500, 200))
    ends = np.array([charts.moving_average(one)[[0, -1]] for one in noise])
    assert np.std(ends) < 0.7  # of eleven points; a single one has 1


@pytest.mark.parametrize(
    ("won", "lost", "clips"), [(0.02, 0.02, 21), (0.2, 0.1, 21), (0.4, 0.02, 60)]
)
def test_a_class_of_few_clips_gets_an_honest_interval(won, lost, clips):
    rng = np.random.default_rng(0)
    draws = rng.multinomial(clips, [won, lost, 1 - won - lost], size=4000)
    found = [significance.matched_interval(a, b, clips) for a, b, _ in draws]
    held = [low <= won - lost <= high for _, low, high in found]
    assert 0.93 < np.mean(held) <= 1
    # 3 won, 1 lost of 20 by hand: d = 2/22, half = 1.96 sqrt((5/22 - d^2)/22).
    low, high = significance.matched_interval(3, 1, 20)[1:]
    assert (low, high) == pytest.approx((2 / 22 - 0.19553, 2 / 22 + 0.19553), abs=1e-4)


def _study(folder, seeds=3, clips=120):
    """`seedN` folders of a study, of the same clips."""
    labels = np.arange(clips) % len(NTU)
    for seed in range(seeds):
        generate_runs(folder / f"seed{seed}", seed=seed, clips=clips, labels=labels)
        for path in (folder / f"seed{seed}").glob("*/results.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"seed": seed}))
    return folder


@pytest.mark.slow
def test_a_run_of_a_study_speaks_for_all_its_seeds(tmp_path):
    _study(tmp_path)
    sections = {"ours": _sections()[:1], "": _sections()[3:]}
    whole = write.write_report(tmp_path / "seed1", ["ours"], sections=sections).read_text("utf-8")
    assert "Of seed 1 alone." not in whole  # a study's tables are of all seeds
    text = (tmp_path / "seed1/ours/report.html").read_text("utf-8")
    assert text.count("Of seed 1 alone.") == 1  # its mistakes
    _Reader(text)
    runs = {
        (seed, method): results.read_run(tmp_path / f"seed{seed}" / method)
        for seed in range(3)
        for method in ("teacher", "baseline", "ours")
    }
    means = {
        method: np.mean([runs[seed, method].figure("top1") for seed in range(3)])
        for method in ("teacher", "baseline", "ours")
    }
    for mean in means.values():
        assert f"{100 * mean:.1f} ± " in text
    gain = 100 * (means["ours"] - means["baseline"])
    assert "points over 3 seeds</h1>" in text and f"difference {gain:+.1f} points" in text
    assert "seeds 0, 1, 2" in text and "McNemar" not in text and "of seed 1 alone" in text
    assert "One seed each" not in text and "narrower than a bootstrap over clips and seeds" in text
    console = Console(width=80, record=True, file=io.StringIO())
    write.print_table(tmp_path / "seed1", console)
    said = console.export_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "120 test clips, seeds 0, 1, 2\n" in said
    assert all(f" {100 * mean:.1f} ± " in said for mean in means.values())
    path = tmp_path / "seed2/ours/results.json"  # other settings: another experiment
    other = json.loads(path.read_text())
    other["config"]["distillers"]["dkd"]["weight"] = 5.0
    path.write_text(json.dumps(other))
    write.write_report(tmp_path / "seed1", ["ours"])
    assert "over 2 seeds</h1>" in (tmp_path / "seed1/ours/report.html").read_text("utf-8")


def test_bold_is_what_is_best_and_units_are_everywhere_the_same(tmp_path):
    generate_runs(tmp_path, class_names=NTU[:2], clips=300)
    text = _page(tmp_path)
    assert "top-5" not in text
    found = results.read_runs(tmp_path)
    best = {run.method: run.figure("nll") for run in found if run.method != "teacher"}
    least = min(best.values())
    bold = re.findall(r'<td data-label="NLL" class="best">([\d.]+)<', text)
    assert bold == [f"{least:.3f}"]
    cells = re.findall(r'<td data-label="(top-1|mAP|ECE|class acc\.)"[^>]*>([^<]+)<', text)
    assert len(cells) == 12 and all(value.endswith("\N{NO-BREAK SPACE}%") for _, value in cells)
    assert ">training step</text>" in text and ">%</text>" in text and ">nats</text>" in text
    assert re.search(r"<small>[+-]?\d+ to [+-]?\d+</small>", text)  # of a class's gain


def test_a_curve_of_one_point_and_of_none():
    one, none = np.array([5.0]), np.array([np.nan])
    for y in (one, none):
        svg = charts.line_chart([charts.Series("a", "student", one, y)], label="x")
        assert "nan" not in svg


@pytest.mark.parametrize(
    "seconds, words", [(4.236, "4.24 s"), (754.2, "12 min 34 s"), (11_999, "3 h 19 min")]
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_flattened_settings():
    tree = {"b": {"y": 1, "x": None}, "a": [1, 2], "c": {}}
    assert flatten(tree) == [("a", "[1, 2]"), ("b.x", ""), ("b.y", "1"), ("c", "{}")]


def test_headline_rows(workdir):
    rows = page.headline_rows(results.read_runs(workdir))
    assert [row["title"] for row in rows] == ["RGB teacher", "Infrared only", "Ours (DKD + MGCAM)"]
    assert rows[0]["cells"]["gap closed"] == "" and rows[2]["cells"]["gap closed"]


_PROBE = """<script>addEventListener("load", () => {
document.querySelectorAll("details").forEach(d => d.open = true);
const root = document.documentElement;
const wide = [...document.querySelectorAll("body *")].filter(e =>
  !e.closest(".scroll, nav, svg") && e.getBoundingClientRect().right > root.clientWidth + 1);
const broken = [...document.images].filter(i => !i.complete || !i.naturalWidth).length;
const loaded = performance.getEntriesByType("resource").filter(r => !r.name.startsWith("data:"));
const over = root.scrollWidth - root.clientWidth;
parent.postMessage([innerWidth, over, broken, loaded.length, wide.map(e => e.outerHTML)], "*");
})</script>"""
_HOST = """<script>const all = []; addEventListener("message", e => { all.push(e.data);
document.documentElement.dataset.probe = JSON.stringify(all.sort()) })</script>"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_nothing_overflows_on_a_phone_or_a_desktop(workdir, tmp_path):
    # In frames, as Chromium's own window cannot be as narrow as a phone.
    generate_runs(tmp_path, class_names=[c * 80 for c in "WIM"], dataset="d" * 90, clips=60)
    pages = [(workdir / "ours/report.html").read_text("utf-8"), _page(tmp_path)]
    frames = []
    for index, text in enumerate(pages):
        path = tmp_path / f"page{index}.html"
        path.write_text(text.replace("</body>", _PROBE + "</body>"), "utf-8")
        frames += [f'<iframe src="{path.name}" style="width: {w}px"></iframe>' for w in (400, 1280)]
    (tmp_path / "host.html").write_text(_HOST + "".join(frames).replace("px", "px; border: 0"))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    command += ["--virtual-time-budget=3000", f"--user-data-dir={tmp_path / 'profile'}"]
    address = (tmp_path / "host.html").as_uri()
    done = subprocess.run([*command, address], capture_output=True, text=True, timeout=120)
    probe = html.unescape(re.search(r'data-probe="(.*?)"', done.stdout)[1])
    assert json.loads(probe) == [[1280, 0, 0, 0, []]] * 2 + [[400, 0, 0, 0, []]] * 2
