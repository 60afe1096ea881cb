"""Just enough of ROS 2's Python for a node to be started, given images, and asked what it said."""

import sys
from types import ModuleType, SimpleNamespace

import pytest


class Node:
    """Parameters as `given`; keeps what is published by topic, and what receives images."""

    given: dict = {}  # noqa: RUF012
    newest = None

    def __init__(self, name: str):
        self.published: dict[str, list[str]] = {}
        self.logged: list[str] = []
        Node.newest = self

    def declare_parameter(self, name, default):
        return SimpleNamespace(value=type(default)(self.given.get(name, default)))

    def create_publisher(self, kind, topic, depth):
        said = self.published.setdefault(topic, [])
        return SimpleNamespace(publish=lambda message: said.append(message.data))

    def create_subscription(self, kind, topic, receive, quality):
        assert (kind, topic, quality.depth) == ("Image", "image", 1)
        self.receive = receive

    def get_logger(self):
        return SimpleNamespace(
            info=self.logged.append, error=lambda text, once: self.logged.append(text)
        )

    def destroy_node(self):
        self.published["gone"] = []


def install(monkeypatch: pytest.MonkeyPatch, images) -> type[Node]:
    """Stand-ins for rclpy and its messages; `spin` gives `images` to the node."""

    def spin(node):
        for image in images:
            node.receive(image)
        raise KeyboardInterrupt

    def module(name, **names):
        made = ModuleType(name)
        vars(made).update(names)
        monkeypatch.setitem(sys.modules, name, made)

    done = lambda *_, **__: None  # noqa: E731
    module("rclpy", init=done, spin=spin, try_shutdown=done)
    module("rclpy.node", Node=Node)
    reliability = SimpleNamespace(BEST_EFFORT="best effort")
    module("rclpy.qos", QoSProfile=SimpleNamespace, ReliabilityPolicy=reliability)
    module("sensor_msgs")
    module("sensor_msgs.msg", Image="Image")
    module("std_msgs")
    module("std_msgs.msg", String=SimpleNamespace)
    return Node
