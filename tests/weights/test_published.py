"""Fetching, against a server in this process that does what servers do."""

import contextlib
import hashlib
import http.server
import re
import threading

import pytest

from jax_irkd.errors import UserError
from jax_irkd.weights import __main__ as command
from jax_irkd.weights import files, published
from tests.helpers import torch_files
from tests.weights.test_pickled import STATE


class Server(http.server.ThreadingHTTPServer):
    """Serves `content`; each answer ends after the next number of `cuts`, while there are any."""

    def __init__(self, content, cuts=(), ranges=True, status=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.cuts, self.ranges, self.status = content, list(cuts), ranges, status
        self.asked = []

    @contextlib.contextmanager
    def running(self):
        thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{self.server_port}/models"
        finally:
            self.shutdown()
            self.server_close()
            thread.join()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.asked.append(self.headers.get("Range", ""))
        first = int(re.findall(r"\d+", server.asked[-1])[0]) if server.asked[-1] else 0
        if server.status != 200 or first >= len(server.content):
            self.send_error(416 if server.status == 200 else server.status)
            return
        first = first if server.ranges else 0
        body = server.content[first:]
        self.send_response(206 if first else 200)
        if first:
            last = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {first}-{last}/{last + 1}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "network.pth"
    torch_files.save(STATE, path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def published_here(content, monkeypatch):
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(published.FILES, "resnet18", name)
    monkeypatch.setattr(published, "PAUSE", 0.0)


def ends_well(folder):
    (path,) = folder.glob("*.safetensors")
    assert {p.name for p in folder.iterdir()} == {path.name, ".lock"}
    assert "conv1.weight" in files.read(path) and path.stem == published.FILES["resnet18"][:-4]
    return path


@pytest.mark.slow
def test_a_file_is_fetched_checked_and_converted_once(content, tmp_path, capsys):
    server = Server(content)
    with server.running() as address:
        argv = ["fetch", "resnet18", f"--out={tmp_path}", f"--source={address}"]
        assert command.main(argv) == 0
        path = ends_well(tmp_path)
        assert f"{path}: 0.7 MB; start from it by --config.weights" in capsys.readouterr().out
        assert command.main(argv) == 0
    assert server.asked == [""]
    assert command.main(["check", str(path), "--depth=18"]) == 0
    said = capsys.readouterr().out
    assert "a ResNet-18 of width 8 for 3 channel(s), 10 classes" in said
    assert "fits an RGB network" in said and "fits an infrared network" in said
    assert command.main(["check", str(path), "--depth=50"]) == 2


def test_a_connection_that_is_cut_goes_on_where_it_was(content, tmp_path):
    server = Server(content, cuts=[1000, 5, 0, 300_000])
    with server.running() as address:
        published.fetch("resnet18", tmp_path, address)
    ends_well(tmp_path)
    assert server.asked == ["", *(f"bytes={n}-" for n in (1000, 1005, 1005, 301_005))]


def test_a_fetch_that_was_stopped_goes_on_the_next_time(content, tmp_path):
    server = Server(content, cuts=[1000, 0, 0, 0, 0])
    with server.running() as address:
        with pytest.raises(UserError, match=r"ended early \(0\.0 MB are kept: the same command"):
            published.fetch("resnet18", tmp_path, address)
        published.fetch("resnet18", tmp_path, address)
    ends_well(tmp_path)
    assert server.asked[-1] == "bytes=1000-"


def test_a_server_without_ranges_begins_anew(content, tmp_path):
    server = Server(content, cuts=[1000, 2000], ranges=False)
    with server.running() as address:
        published.fetch("resnet18", tmp_path, address)
    ends_well(tmp_path)


def test_another_file_is_refused_and_not_kept(content, tmp_path):
    other = content[:-1] + b"x"
    with Server(other).running() as address, pytest.raises(UserError, match="as published; fetch"):
        published.fetch("resnet18", tmp_path, address)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    (tmp_path / f"{published.FILES['resnet18']}.part").write_bytes(content + b"too long")
    server = Server(content)
    with server.running() as address:
        with pytest.raises(UserError, match="begins with"):
            published.fetch("resnet18", tmp_path, address)
        published.fetch("resnet18", tmp_path, address)
    ends_well(tmp_path)


@pytest.mark.parametrize(("status", "asked"), [(404, 1), (403, 1), (503, published.TRIES)])
def test_what_a_server_refuses_is_said(content, tmp_path, status, asked):
    server = Server(content, status=status)
    with server.running() as address, pytest.raises(UserError, match=f"it answers {status}"):
        published.fetch("resnet18", tmp_path, address)
    assert len(server.asked) == asked


def test_without_a_network_one_line_says_what_to_do(tmp_path, capsys):
    argv = ["fetch", "resnet18", f"--out={tmp_path}", "--source=http://127.0.0.1:1"]
    assert command.main(argv) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Connection refused" in said
    assert f"python -m jax_irkd.weights convert {published.FILES['resnet18']}" in said


def test_names_are_checked_before_anything_is_fetched(capsys):
    assert command.main(["fetch", "resnet50", "resnet8"]) == 2
    assert "unknown weights 'resnet8'; did you mean 'resnet18'" in capsys.readouterr().err
    assert command.main(["fetsh", "resnet50"]) == 2
    assert "the first word is 'fetsh'; did you mean 'fetch'" in capsys.readouterr().err
    assert command.main([]) == 2


def test_a_file_that_was_brought_is_converted_and_its_hash_checked(content, tmp_path, capsys):
    name = published.FILES["resnet18"]
    (tmp_path / name).write_bytes(content)
    assert command.main(["convert", str(tmp_path / name)]) == 0
    assert "a ResNet-18 of width 8" in capsys.readouterr().out
    assert files.read(tmp_path / name.replace("pth", "safetensors")).keys() < STATE.keys()
    (tmp_path / name).write_bytes(content + b"x")
    assert command.main(["convert", str(tmp_path / name)]) == 2
    assert "is damaged or another file" in capsys.readouterr().err
    assert command.main(["convert", str(tmp_path / name.replace("pth", "safetensors"))]) == 2
    assert "would be written over" in capsys.readouterr().err
