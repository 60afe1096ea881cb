"""A ROS 2 node: infrared images in, answers out.

    python examples/ros2_node.py --ros-args -p run:=student.irkd -r image:=/camera/image_raw

Subscribes `image` (sensor_msgs/Image: mono8, 8UC1, mono16, 16UC1, rgb8, bgr8) and publishes

- `action` (std_msgs/String): every `stride` frames a JSON line as `predict --stream --json` prints
  it, with the image's `frame_id` in place of latency and dropped frames,
- `action_label` (std_msgs/String): the name of the most probable class, empty where nothing was
  recognised.

Parameters: `run` (a run's folder, an .irkd or an .onnx file), `seconds` of a window, `stride` in
frames, `topk` classes in the answer, `range` of images of more than eight bits (auto or MIN,MAX).
Needs ROS 2 (rclpy, sensor_msgs, std_msgs), imported when the node is started, and `pip install
jax-irkd` in the same Python. Old images are dropped while the network computes, never queued.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_irkd import Recognizer
from jax_irkd.deployment.answers import judged, predictions

# dtype and channels of the encodings that cameras publish; BGR is turned round.
ENCODINGS = {
    "mono8": (np.uint8, 1),
    "8UC1": (np.uint8, 1),
    "mono16": (np.uint16, 1),
    "16UC1": (np.uint16, 1),
    "rgb8": (np.uint8, 3),
    "bgr8": (np.uint8, 3),
}


def to_array(message: Any) -> np.ndarray:
    """The picture of a sensor_msgs/Image: uint8 or uint16 `h w`, or RGB `h w 3`.

    Rows may be padded (`step`) and numbers of either byte order. Raises ValueError for an encoding
    that is not among `ENCODINGS`.
    """
    if message.encoding not in ENCODINGS:
        raise ValueError(
            f"unknown encoding {message.encoding!r}; choose one of {', '.join(ENCODINGS)}"
        )
    kind, channels = ENCODINGS[message.encoding]
    order = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    rows = np.frombuffer(bytes(message.data), np.uint8).reshape(message.height, message.step)
    width = message.width * channels * order.itemsize
    image = np.ascontiguousarray(rows[:, :width]).view(order).astype(kind)
    if channels == 1:
        return image
    image = image.reshape(message.height, message.width, 3)
    return image[..., ::-1] if message.encoding == "bgr8" else image


def seconds_of(stamp: Any) -> float:
    """A builtin_interfaces/Time in seconds."""
    return stamp.sec + 1e-9 * stamp.nanosec


class Answering:
    """What the node does, without ROS: an image message in, None or (JSON line, label) out."""

    def __init__(self, recognizer: Recognizer, topk: int = 5):
        self.recognizer, self.topk = recognizer, topk

    def __call__(self, message: Any) -> tuple[str, str] | None:
        # A camera without a clock stamps 0: then frames count, not seconds.
        moment = seconds_of(message.header.stamp) or None
        prediction = self.recognizer.push(to_array(message), moment)
        if prediction is None:
            return None
        names = self.recognizer.classifier.class_names
        line = {
            "time": round(prediction.time, 3),
            "frame_id": message.header.frame_id,
            **judged(prediction),
            "predictions": predictions(prediction.probabilities, names, self.topk),
        }
        return json.dumps(line), prediction.label


def main(argv: Sequence[str] | None = None) -> None:
    import rclpy
    from rclpy.node import Node
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import Image
    from std_msgs.msg import String

    class ActionNode(Node):
        def __init__(self):
            super().__init__("action_recognition")
            defaults = {"run": "", "seconds": 2.0, "stride": 16, "topk": 5, "range": ""}
            given = {
                name: self.declare_parameter(name, value).value for name, value in defaults.items()
            }
            if not given["run"]:
                raise SystemExit("name the network: --ros-args -p run:=student.irkd")
            topk = given.pop("topk")
            recognizer = Recognizer(given.pop("run"), **given)
            self.get_logger().info("ready")
            self.answering = Answering(recognizer, topk)
            self.lines = self.create_publisher(String, "action", 10)
            self.labels = self.create_publisher(String, "action_label", 10)
            # The newest image only: what cannot be looked at in time is dropped.
            newest = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            self.create_subscription(Image, "image", self.received, newest)

        def received(self, message: Image) -> None:
            try:
                answer = self.answering(message)
            except ValueError as error:
                self.get_logger().error(str(error), once=True)
                return
            if answer:
                line, label = answer
                self.lines.publish(String(data=line))
                self.labels.publish(String(data=label))

    rclpy.init(args=sys.argv if argv is None else list(argv))
    node = ActionNode()
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
