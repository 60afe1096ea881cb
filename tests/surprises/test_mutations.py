"""Zips, videos and label files with damaged bytes: read or named, whatever the damage.

A hundred of each; `make chaos` tries 2,000.
"""

import io
import os
import zipfile

import numpy as np
import pytest

from jax_irkd.data.synthetic.raw_ntu import write_video
from jax_irkd.pku_mmd.annotations import looks_like_labels, parse_labels
from jax_irkd.tfds_builders._shared import encoding
from jax_irkd.video.decoding import Film
from jax_irkd.video.faults import VideoError
from jax_irkd.video.finding import find
from tests.helpers import made_films as films
from tests.test_fuzz import mutate

TIMES = 2000 if os.environ.get("CHAOS") else 100


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = tmp_path_factory.mktemp("whole")
    video = write_video(root / "a.avi", 6, infrared=True).read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("infrared/wave/a.avi", video)
        archive.writestr("rgb/wave/ä.avi", video)
    return {
        "avi": video,
        "mkv": films.write_deep(root / "a.mkv", 4).read_bytes(),
        "tiff": films.write_pages(root / "a.tiff", 4).read_bytes(),
        "zip": packed.getvalue(),
    }


@pytest.mark.parametrize("kind", ["avi", "mkv", "tiff", "zip"])
def test_damaged_films_are_read_or_named(whole, kind, tmp_path):
    rng = np.random.default_rng(0)
    read = named = 0
    for number in range(TIMES):
        path = tmp_path / str(number) / f"a.{kind}"
        path.parent.mkdir()
        path.write_bytes(mutate(whole[kind], rng))
        found = find(path.parent)
        named += len(found.unreadable)
        for film in found.films:
            try:
                assert encoding.encode_clip(film.source, infrared=True, max_frames=4).frames
                assert sum(1 for _ in Film(film.source, tolerant=True).shots()) > 0
                read += 1
            except VideoError as error:
                assert f"a.{kind}" in str(error)
                named += 1
        path.unlink()
    assert read > TIMES // 20 and named > TIMES // 20


def test_damaged_label_files_are_read_or_named():
    rng = np.random.default_rng(0)
    text = b"8,11,30,2\n3,41,60,2\n12,70,90,1\n"
    kept = 0
    for _ in range(TIMES):
        damaged = mutate(text, rng).decode("utf-8", errors="replace")
        if not looks_like_labels(damaged):
            continue
        found = parse_labels(damaged)
        for instance in found.instances:
            assert 0 <= instance.start < instance.stop <= 10_000_000
        assert all(row and reason for row, reason in found.dropped + found.repaired)
        kept += len(found.instances)
    assert kept > TIMES
