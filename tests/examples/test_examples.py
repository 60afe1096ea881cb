"""What lies in examples/: the ROS 2 node without ROS, and the notebook from top to bottom."""

import ast
import json
import os
import runpy
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jax_irkd.data.synthetic.raw_ntu import picture
from jax_irkd.deployment.recognizer import Recognizer
from tests.deployment.test_predict import Reader
from tests.examples import ros_stubs
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def node():
    """The names of ros2_node.py, which come without rclpy."""
    assert "rclpy" not in sys.modules
    return SimpleNamespace(**runpy.run_path(str(ROOT / "examples" / "ros2_node.py")))


def message(image, encoding, moment=0.0, padding=0, big=False):
    """A sensor_msgs/Image as drivers fill it in."""
    order = image.astype(image.dtype.newbyteorder(">" if big else "<"))
    rows = np.frombuffer(order.tobytes(), np.uint8).reshape(image.shape[0], -1)
    rows = np.pad(rows, ((0, 0), (0, padding)))
    stamp = SimpleNamespace(sec=int(moment), nanosec=round(moment % 1 * 1e9))
    return SimpleNamespace(
        encoding=encoding, height=image.shape[0], width=image.shape[1], step=rows.shape[1],
        is_bigendian=int(big), data=rows.tobytes(),
        header=SimpleNamespace(stamp=stamp, frame_id="infrared"),
    )  # fmt: skip


@pytest.mark.parametrize("padding", [0, 6])
@pytest.mark.parametrize("encoding", ["mono8", "16UC1", "rgb8", "bgr8"])
def test_images_of_ros_are_those_of_the_camera(node, encoding, padding):
    kind, channels = node.ENCODINGS[encoding]
    image = np.random.default_rng(0).integers(0, np.iinfo(kind).max, (5, 7, channels), kind)
    sent = image[..., ::-1] if encoding == "bgr8" else image
    got = node.to_array(message(sent, encoding, padding=padding, big=encoding == "16UC1"))
    assert got.dtype == kind
    np.testing.assert_array_equal(got.reshape(image.shape), image)


def test_other_images_are_refused_by_name(node):
    with pytest.raises(ValueError, match=r"unknown encoding 'yuv422'; choose one of mono8"):
        node.to_array(message(np.zeros((2, 2), np.uint8), "yuv422"))


def test_the_node_answers_as_the_recognizer_does(node):
    answering = node.Answering(Recognizer(Reader(), seconds=0.8, stride=8), topk=2)
    recognizer = Recognizer(Reader(), seconds=0.8, stride=8)
    made = 0
    for number in range(40):
        image, moment = picture(number, infrared=True), 100 + 0.1 * number
        expected = recognizer.push(image, moment)
        answer = answering(message(image, "rgb8", moment))
        assert (answer is None) == (expected is None)
        if expected:
            line = json.loads(answer[0])
            assert (line["time"], line["frame_id"]) == (round(moment, 3), "infrared")
            assert answer[1] == expected.label == line["predictions"][0]["class"]
            assert len(line["predictions"]) == 2
            made += 1
    assert made == 5


def test_the_node_publishes_what_it_recognises(node, monkeypatch):
    """Through stand-ins for rclpy: parameters, one bad image, answers on both topics, the end."""
    images = [message(picture(n, infrared=True), "rgb8", 100 + 0.1 * n) for n in range(17)]
    images.insert(3, message(picture(0), "yuv422"))
    ros = ros_stubs.install(monkeypatch, images)
    monkeypatch.setattr("jax_irkd.deployment.recognizer.open_classifier", lambda *_: Reader())
    with pytest.raises(SystemExit, match="name the network"):
        node.main([])
    monkeypatch.setattr(ros, "given", {"run": "student.irkd", "stride": 8, "topk": 1})
    node.main([])
    said = ros.newest.published
    assert said["action_label"] == ["walk", "walk"] and "gone" in said
    assert [len(json.loads(line)["predictions"]) for line in said["action"]] == [1, 1]
    assert ros.newest.logged[0] == "ready" and "unknown encoding" in ros.newest.logged[1]


def cells():
    return json.loads((ROOT / "examples" / "first_day.ipynb").read_text("utf-8"))["cells"]


def test_the_notebook_is_python_and_says_what_it_shows():
    """Nothing in it is of Jupyter, so that it runs anywhere; it was saved as it ran."""
    code = [cell for cell in cells() if cell["cell_type"] == "code"]
    for cell in code:
        ast.parse("".join(cell["source"]))
    assert "**generated**" in "".join(cells()[0]["source"])
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    assert not [out for cell in code for out in cell["outputs"] if out["output_type"] == "error"]
    assert len((ROOT / "examples" / "first_day.ipynb").read_bytes()) < 500_000


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(tmp_path):
    code = ["".join(cell["source"]) for cell in cells() if cell["cell_type"] == "code"]
    # Compiled as all tests are, but for one device.
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = os.environ | {
        "MPLBACKEND": "agg", "TMPDIR": str(tmp_path), "XLA_FLAGS": " ".join(flags)
    }  # fmt: skip
    ended = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=ROOT, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "of 6 clips" in ended.stdout and "DKD" in ended.stdout
