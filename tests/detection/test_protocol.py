"""Detection against a slow literal version of the official protocol, and against hand values."""

import numpy as np
import pytest

from jax_irkd.detection.__main__ import main
from jax_irkd.detection.proposals import segments, suppress
from jax_irkd.detection.protocol import evaluate
from jax_irkd.detection.rows import Row, read_folder, read_rows, write_folder

FIGURES = ["F1", "AP", "mAP_action", "mAP_video", "2D-AP"]


def _oracle(proposals, ground, videos, theta=0.5, labels=51):
    """The protocol in plain loops: lists of rows, matched anew for every figure."""
    proposals = [[(*row, v) for row in proposals.get(v, ())] for v in videos]
    ground = [[(*row, v) for row in ground[v]] for v in videos]
    props = [[p for video in proposals for p in video if int(p[0]) == c] for c in range(labels + 1)]
    truth = [[g for video in ground for g in video if int(g[0]) == c] for c in range(labels + 1)]
    all_props = [p for rows in props for p in rows]
    all_truth = [g for rows in truth for g in rows]

    def overlap(p, g):
        if int(p[0]) != int(g[0]) or p[4] != g[4]:
            return 0.0
        covered, extent = min(p[2], g[2]) - max(p[1], g[1]), max(p[2], g[2]) - min(p[1], g[1])
        return float(covered == 0) if extent == 0 else covered / extent

    def match(rows, theta, truth):
        chosen = []
        for p in rows:
            best = -1
            for index, g in enumerate(truth):
                if overlap(p, g) >= theta and (
                    best < 0 or overlap(p, g) >= overlap(p, truth[best])
                ):
                    best = index
            chosen.append(best)
        return chosen

    def precision_recall(chosen, truth):
        if not chosen or not truth:
            return 0.0, 0.0
        positive = len({best for best in chosen if best >= 0})
        return positive / len(chosen), positive / len(truth)

    def f1(rows, truth):
        precision, recall = precision_recall(match(rows, theta, truth), truth)
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    def ap(rows, theta, truth):
        rows = sorted(rows, key=lambda row: row[3])
        chosen = match(rows, theta, truth)
        highest, recall = precision_recall(chosen, truth)
        score = 0.0
        for dropped in range(len(rows)):
            if chosen[dropped] < 0:
                continue
            precision, now = precision_recall(chosen[dropped + 1 :], truth)
            highest = max(highest, precision)
            score += highest * (recall - now)
            recall = now
        return score

    return {
        "F1": f1(all_props, all_truth),
        "AP": ap(all_props, theta, all_truth),
        "mAP_action": sum(ap(props[c], theta, truth[c]) for c in range(1, labels + 1)) / labels,
        "mAP_video": sum(ap(p, theta, g) for p, g in zip(proposals, ground)) / len(videos),
        "2D-AP": sum(ap(all_props, (i + 1) * 0.05, all_truth) for i in range(20)) / 20,
    }


def _random_case(seed, labels=4):
    """Few labels and coarse numbers, so that ties, duplicates and zero lengths are common."""
    rng = np.random.default_rng(seed)
    ground, proposals = {}, {}
    for video in range(rng.integers(1, 4)):
        name = f"{video:04d}-L"
        starts = rng.integers(0, 20, rng.integers(1, 6)) * 5
        ground[name] = [
            Row(int(rng.integers(1, labels + 1)), int(s), int(s + rng.integers(-1, 7) * 5), 1.0)
            for s in starts
        ]
        rows = []
        for row in ground[name]:
            for _ in range(rng.integers(0, 4)):
                shift = rng.integers(-3, 4, 2) * 3 * (rng.random(2) < 0.7)
                label = row.label if rng.random() < 0.8 else int(rng.integers(0, labels + 1))
                sure = float(rng.integers(0, 6)) / 5
                rows.append(
                    Row(label, float(row.start + shift[0]), float(row.end + shift[1]), sure)
                )
        rng.shuffle(rows)
        proposals[name] = [Row(int(r[0]), *r[1:]) for r in rows]
    return proposals, ground


def test_equals_the_literal_protocol_on_thousands_of_random_proposals():
    total = 0
    for seed in range(250):
        proposals, ground = _random_case(seed)
        total += sum(map(len, proposals.values()))
        theta = [0.05, 0.3, 0.5, 0.75, 1.0][seed % 5]
        got = evaluate(proposals, ground, threshold=theta, num_classes=4)
        want = _oracle(proposals, ground, list(ground), theta, labels=4)
        for name in FIGURES:
            assert got[name] == pytest.approx(want[name], abs=1e-12), (seed, name)
    assert total > 2000


def _annotations(videos=5, seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"{v:04d}-M": [
            Row(int(c), 100 * i + 1, 100 * i + int(rng.integers(20, 90)), 2.0)
            for i, c in enumerate(rng.permutation(51) + 1)
        ]
        for v in range(videos)
    }


def test_perfect_proposals_score_one():
    ground = _annotations()
    assert evaluate(ground, ground) == pytest.approx(dict.fromkeys(FIGURES, 1.0))


def test_duplicate_at_the_top():
    # Two annotations; the first is proposed twice, the most confident time as a duplicate.
    # Rising in confidence: drop b (P 2/3, recall 1 to 1/2), drop a (P reaches 1), drop a's
    # duplicate (recall 1/2 to 0): AP = 2/3 * 1/2 + 1 * 1/2.
    ground = {"v": [Row(1, 1, 50, 1), Row(2, 60, 99, 1)]}
    found = [Row(1, 1, 50, 1.0), Row(1, 1, 50, 0.9), Row(2, 60, 99, 0.5)]
    got = evaluate({"v": found}, ground, num_classes=2)
    assert got["AP"] == pytest.approx(5 / 6)
    assert got["F1"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1))
    assert got["mAP_action"] == pytest.approx((1 + 1) / 2)


def test_figures_by_hand():
    # Overlap of [0, 100] and [0, 62] is 0.62: a hit at 12 of the 20 thresholds. The wrong
    # label is never one. A miss at the bottom is not dropped on its own, so P stays 1/2.
    ground = {"v": [Row(3, 0, 100, 1)]}
    got = evaluate({"v": [Row(3, 0, 62, 0.9), Row(2, 0, 100, 0.1)]}, ground)
    assert got["F1"] == pytest.approx(2 / 3)
    assert got["AP"] == 0.5
    assert got["mAP_action"] == pytest.approx(1 / 51)
    assert got["mAP_video"] == 0.5
    assert got["2D-AP"] == pytest.approx(0.5 * 12 / 20)


def test_thresholds_are_the_official_products():
    # 12 * 0.05 is a little more than 0.6 in floating point, so an overlap of 0.6 misses there.
    ground = {"v": [Row(1, 0, 100, 1)]}
    assert evaluate({"v": [Row(1, 0, 60, 1)]}, ground)["2D-AP"] == pytest.approx(11 / 20)


def test_nothing_found_is_zero_and_not_an_error():
    ground = _annotations(2)
    wrong = {name: [Row(1, 90_000, 90_010, 0.5)] for name in ground}
    assert evaluate(wrong, ground) == dict.fromkeys(FIGURES, 0.0)
    assert evaluate(dict.fromkeys(ground, ()), ground) == dict.fromkeys(FIGURES, 0.0)


def test_zero_length_intervals():
    ground = {"v": [Row(1, 5, 5, 1)]}
    assert evaluate({"v": [Row(1, 5, 5, 1)]}, ground, num_classes=1)["AP"] == 1
    assert evaluate({"v": [Row(1, 6, 6, 1)]}, ground, num_classes=1)["AP"] == 0


def test_label_zero_counts_in_the_pool_and_in_no_class():
    ground = {"v": [Row(0, 1, 50, 1), Row(1, 60, 99, 1)]}
    got = evaluate(ground, ground, num_classes=1)
    assert got["AP"] == got["mAP_video"] == got["mAP_action"] == 1
    half = evaluate({"v": ground["v"][1:]}, ground, num_classes=1)
    assert half["AP"] == 0.5 and half["mAP_action"] == 1


def test_missing_videos_are_an_explicit_choice():
    ground = _annotations(4)
    half = dict(list(ground.items())[:2])
    with pytest.raises(ValueError, match=r"2 of 4 labelled videos have no proposals: \['0002-M'"):
        evaluate(half, ground)
    assert evaluate(half, ground, missing="official") == pytest.approx(dict.fromkeys(FIGURES, 1.0))
    empty = evaluate(half, ground, missing="empty")
    assert empty["mAP_video"] == 0.5 and empty["AP"] == pytest.approx(0.5)
    assert empty == evaluate(half | dict.fromkeys(list(ground)[2:], ()), ground)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"missing": "skip"}, r"missing='skip'; choose one of \['error', 'official', 'empty'\]"),
        ({"threshold": 0.0}, r"threshold must lie in \(0, 1\], not 0.0"),
        ({"num_classes": 10}, "needs finite numbers, label 0 to 10"),
    ],
)
def test_errors(change, message):
    ground = _annotations(1)
    with pytest.raises(ValueError, match=message):
        evaluate(ground, ground, **change)


def test_videos_without_labels_are_refused():
    ground = _annotations(1)
    with pytest.raises(ValueError, match=r"1 videos have proposals and no labels: \['0009-R'"):
        evaluate({"0009-R": []} | ground, ground)
    with pytest.raises(ValueError, match="no video to evaluate"):
        evaluate({}, ground, missing="official")


def test_text_files_round_trip(tmp_path):
    rows = [Row(7, 1, 4925, 0.123456789012), Row(51, 12, 20, 2)]
    write_folder(tmp_path / "out", {"0002-L": rows, "0003-R": []})
    assert (tmp_path / "out/0002-L.txt").read_text() == "7,1,4925,0.123456789012\n51,12,20,2\n"
    assert read_folder(tmp_path / "out") == {"0002-L": rows, "0003-R": []}


def test_reading_accepts_blanks_and_three_columns(tmp_path):
    path = tmp_path / "0001-L.txt"
    path.write_bytes(b"\xef\xbb\xbf3 10 20 0.5\r\n\r\n4, 30, 40, 1\r\n")
    assert read_rows(path) == [Row(3, 10, 20, 0.5), Row(4, 30, 40, 1)]
    path.write_text("3,10,20\n")
    assert read_rows(path, confidence=1.0) == [Row(3, 10, 20, 1.0)]
    with pytest.raises(ValueError, match="line 1: expected label,start,end,confidence, found"):
        read_rows(path)
    with pytest.raises(FileNotFoundError, match="give one text file per video"):
        read_folder(tmp_path / "nowhere")


def test_command_prints_the_figures(tmp_path, capsys):
    ground = _annotations(2)
    write_folder(tmp_path / "labels", ground)
    write_folder(tmp_path / "found", dict(list(ground.items())[:1]))
    folders = [str(tmp_path / "found"), str(tmp_path / "labels")]
    assert main(folders) == 2
    assert "choose missing='official'" in capsys.readouterr().err
    assert main([*folders, "--missing=official"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["AP", "1.000000"]


def _windows(frames, length=32, stride=16):
    starts = np.arange(0, frames - length + 1, stride)
    return np.stack([starts, starts + length], axis=1)


def test_segments_by_hand():
    # Windows of 32 every 16 frames; window i owns the 16 frames around its centre 16 (i + 1).
    # Windows 3, 4 and 5 say class 2 (label 3): centres 64, 80 and 96, so frames 56 to 103.
    spans = _windows(320)
    scores = np.full((len(spans), 4), 0.1)
    scores[3:6, 2] = [0.6, 0.9, 0.6]
    (row,) = segments(scores, spans, smoothing=1)
    assert row[:3] == (3, 57, 104) and row.confidence == pytest.approx(0.7)
    assert segments(scores, spans, smoothing=1, min_frames=49) == []
    assert segments(scores, spans, smoothing=1, thresholds=[0.95]) == []


def test_first_and_last_window_reach_the_ends():
    spans = _windows(96)
    (row,) = segments(np.ones((len(spans), 1)), spans)
    assert row == (1, 1, 96, 1.0)


def test_smoothing_and_gaps_join_a_broken_action():
    spans = _windows(320)
    scores = np.zeros((len(spans), 1))
    scores[[4, 5, 7, 8]] = 1.0
    assert len(segments(scores, spans, smoothing=1)) == 2
    assert len(segments(scores, spans, smoothing=3)) == 1
    (row,) = segments(scores, spans, smoothing=1, max_gap=16)
    assert row.confidence == pytest.approx(4 / 5)  # the gap counts in the mean


def test_several_thresholds_propose_nested_segments():
    spans = _windows(800)
    scores = np.zeros((len(spans), 1))
    scores[10:40] = 0.4
    scores[20:30] = 0.9
    nested = segments(scores, spans, smoothing=1, thresholds=[0.3, 0.8])
    assert [r.end - r.start + 1 for r in nested] == [160, 480]
    assert len(segments(scores, spans, smoothing=1, thresholds=[0.3, 0.8], nms_overlap=0.3)) == 1


def test_suppression_is_per_class_and_keeps_the_confident():
    rows = [Row(1, 1, 100, 0.5), Row(1, 11, 110, 0.8), Row(2, 1, 100, 0.4), Row(1, 300, 400, 0.1)]
    assert suppress(rows) == [rows[1], rows[2], rows[3]]
    # 90 common frames of 110: an overlap of 9/11 passes only a larger limit.
    assert len(suppress(rows, 0.82)) == 4


def test_planted_actions_are_found():
    rng = np.random.default_rng(0)
    truth = [
        Row(int(c), 200 * i + 40, 200 * i + 139, 1) for i, c in enumerate(rng.integers(1, 6, 9))
    ]
    spans = _windows(1900, 24, 8)
    centres = spans.mean(axis=1)
    scores = rng.uniform(0, 0.3, (len(spans), 5))
    for row in truth:
        scores[(centres >= row.start) & (centres <= row.end), row.label - 1] = 0.9
    found = {"v": segments(scores, spans)}
    assert evaluate(found, {"v": truth}, num_classes=5)["F1"] == 1.0


@pytest.mark.parametrize(
    "change, message",
    [
        ({"smoothing": 2}, "odd number of windows, not 2"),
        ({"spans": _windows(96)[:1]}, "5 rows of scores do not fit 1 windows"),
        ({"spans": _windows(96)[::-1]}, "windows must be in order"),
        ({"scores": np.full((5, 2), np.nan)}, "not finite"),
    ],
)
def test_window_errors(change, message):
    arguments = {"scores": np.zeros((5, 2)), "spans": _windows(96)} | change
    with pytest.raises(ValueError, match=message):
        segments(**arguments)


def test_no_windows_no_segments():
    assert segments(np.zeros((0, 3)), np.zeros((0, 2), int)) == []


@pytest.mark.parametrize("bad", [{3}, {2, 3}, {0, 6}, {2, 4}, set(range(7)), set()])
@pytest.mark.parametrize("max_gap", [0, 16, 200])
def test_no_segment_reaches_into_windows_that_do_not_count(bad, max_gap):
    """The frames nearest to such a window's centre are in no segment, all others are, whatever
    gaps are joined; its own scores are not even numbers."""
    spans = np.array([[16 * i, 16 * i + 64] for i in range(7)])
    counts = np.array([i not in bad for i in range(7)])
    scores = np.where(counts[:, None], [[0.9, 0.1]], np.nan)
    rows = segments(scores, spans, max_gap=max_gap, counts=counts)
    covered = {frame for row in rows for frame in range(int(row.start) - 1, int(row.end))}
    centres = spans.mean(axis=1) - 0.5
    nearest = [int(np.abs(centres - frame).argmin()) for frame in range(160)]
    assert covered == {frame for frame in range(160) if nearest[frame] not in bad}
    assert all(row.label == 1 and row.confidence == pytest.approx(0.9) for row in rows)


def test_a_link_to_nothing_loses_no_video(tmp_path):
    write_folder(tmp_path, {"0002-L": [Row(3, 10, 20, 0.5)]})
    (tmp_path / "folder").mkdir()
    assert list(read_folder(tmp_path)) == ["0002-L"]
    (tmp_path / "0003-L.txt").symlink_to("gone.txt")
    with pytest.raises(FileNotFoundError, match=r"0003-L\.txt"):
        read_folder(tmp_path)
