"""The page of a stream: what viewers get, who may look, and what goes wrong around it."""

import contextlib
import gc
import http.client
import json
import socket
import sys
import threading
import time

import av
import cv2
import numpy as np
import pytest

from jax_irkd import predict
from jax_irkd.data.synthetic.raw_ntu import number_of, picture, write_video
from jax_irkd.deployment import serving
from jax_irkd.deployment.board import Board
from jax_irkd.deployment.judgement import Verdict
from jax_irkd.deployment.recording import Recorder
from jax_irkd.deployment.serving import Address, Server, parse_address
from jax_irkd.errors import UserError
from jax_irkd.video.streams import name_of
from tests.deployment.test_predict import Reader
from tests.video.test_streams import source_of

pytest.importorskip("uvicorn")


def line(label, moment=0.0):
    best = [{"label": label, "class": "sit", "probability": 0.9}]
    return {"time": moment, "latency": 0.01, "dropped": 0.0, "predictions": best}


@contextlib.contextmanager
def served(token="", host="127.0.0.1"):
    """A board and a way to ask its server."""
    server, board = Server(Address(host, 0), token), Board("camera", "student.irkd")
    server.start(board)
    opened = []

    def ask(path, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", server.address.port, timeout=10)
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        opened.extend((connection, answer))
        return answer

    try:
        yield board, ask, server
    finally:
        if not board.closed:
            board.tell("ended")
        for one in opened:
            one.close()
        server.close()


def event_of(answer, kind="message"):
    """The next event of a kind: its number and what it says."""
    fields = {}
    for raw in iter(answer.readline, b""):
        name, _, value = raw.decode().rstrip("\n").partition(": ")
        if name:
            fields[name] = value
        elif fields.get("event", "message") == kind and "data" in fields:
            return int(fields.get("id", 0)), json.loads(fields["data"])
        else:
            fields = {}
    return None


def picture_of(answer):
    """The next picture of a multipart answer."""
    while not (head := answer.readline()).lower().startswith(b"content-length"):
        assert head, "the pictures ended"
    answer.readline()
    data = answer.read(int(head.split(b":")[1]))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


def test_viewers_get_the_newest_of_everything():
    with served() as (board, ask, _):
        index = ask("/").read().decode()
        assert "http" not in index.replace("http-equiv", "")  # nothing from elsewhere
        for name in ("watch.js", "watch.css", "icon.svg"):
            assert f'"{name}"' in index and ask(f"/{name}").status == 200
        assert ask("/../page/index.html").status == ask("/nothing").status == 404
        assert event_of(ask("/events"), "status")[1]["state"] == "starting"
        for number in (1, 2):
            board.answer(line(number))
        early, late, other = ask("/events?since=0"), ask("/events"), ask("/events?since=77")
        again = ask("/events", **{"Last-Event-ID": "1"})
        assert [event_of(early)[0] for _ in range(2)] == [1, 2]
        assert event_of(other)[0] == 1 and event_of(again)[0] == 2
        assert event_of(late, "status")[1]["latency"] == 0.01
        early.close()  # a viewer goes; the others do not notice
        board.answer(line(3, 1.5))
        assert event_of(late) == (3, line(3, 1.5)) and event_of(again)[0] == 3
        # Pictures: a second viewer, another size and depth in the middle.
        board.show(picture(5, infrared=True))
        one, two = ask("/picture"), ask("/picture")
        assert number_of(picture_of(one)) == number_of(picture_of(two)) == 5
        one.close()
        board.show(np.full((30, 20), 700, np.uint16))
        assert picture_of(two).shape == (30, 20, 3)
        status = json.loads(ask("/status").read())
        assert status["state"] == "live" and status["size"] == [20, 30]
        board.tell("lost", "camera was lost (off)")
        while event_of(late, "status")[1]["state"] != "lost":
            pass
        board.answer(line(4))
        board.tell("ended", "the source has ended")
        assert event_of(late)[0] == 4 and event_of(late, "status")[1]["state"] == "ended"
        assert event_of(late) is None  # and the connection ends


def test_a_source_that_stands_still_and_answers_of_long_ago(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    board = Board("camera", "net")
    board.show(picture(0))
    board.answer(line(1))
    now[0] += 3
    assert board.status()["state"] == "stalled" and board.status()["text"] == "no frame for 3 s"
    board.show(picture(1))
    assert (board.status()["state"], board.status()["text"]) == ("live", "")
    board.remark("the source has got colours")
    assert board.status()["text"] == "the source has got colours"
    now[0] += 300
    board.answer(line(2))
    assert [number for number, _ in board.answers(0)] == [2]


def test_the_end_is_the_end():
    """The thread that reads the source may bring a picture or a loss after it was ended."""
    changes = []
    board = Board("camera", "net", lambda: changes.append(1))
    board.show(picture(0))
    board.tell("ended", "it was stopped")
    known = board.picture()[0], len(changes)
    board.show(picture(1))
    board.tell("lost", "trying again")
    assert board.closed and (board.picture()[0], len(changes)) == known
    assert (board.status()["state"], board.status()["text"]) == ("ended", "it was stopped")


def test_who_may_look():
    with served() as (_, ask, _):
        assert ask("/status", Host="elsewhere.org").status == 400
        assert ask("/status", Host="localhost:80").status == 200
    with served(host="0.0.0.0") as (_, ask, server):
        token = server.token
        assert len(token) > 15 and server.url.endswith(f"/?token={token}")
        for path in ("/", "/events", "/picture", "/status", "/watch.js", f"/?token={token}x"):
            assert ask(path).status == 401
        assert ask("/status", Authorization=f"Bearer {token}").status == 200
        assert ask(f"/status?token={token}", Host="robot.local").status == 200
        first = ask(f"/?token={token}")
        cookie = first.getheader("set-cookie").partition(";")[0]
        assert (first.status, first.getheader("location")) == (303, "/")
        assert ask("/picture", Cookie=cookie).status == 200
        assert ask("/picture", Cookie=cookie + "x").status == 401


@pytest.mark.parametrize(
    "text,expected",
    [
        ("", "127.0.0.1:8000"),
        ("9000", "127.0.0.1:9000"),
        (":9000", "127.0.0.1:9000"),
        ("localhost:0", "localhost:0"),
        ("0.0.0.0", "0.0.0.0:8000"),
        ("[::1]:81", "[::1]:81"),
    ],
)
def test_addresses(text, expected):
    address = parse_address(text)
    assert str(address) == expected and address.local == ("0.0.0.0" not in text)


def test_sources_are_shown_without_their_passwords():
    shown = name_of("rtsp://me:secret@robot:554/infrared?password=secret")
    assert shown == "rtsp://robot:554/infrared" and name_of("/dev/video0") == "/dev/video0"


@pytest.fixture
def command(monkeypatch, capsys):
    monkeypatch.setattr("jax_irkd.deployment.recognizer.open_classifier", lambda *_: Reader())

    def run(*argv):
        code = predict.main(["--run=student.irkd", *map(str, argv)])
        captured = capsys.readouterr()
        return code, captured.out.splitlines(), captured.err.splitlines()

    return run


def test_a_stream_is_shown_and_recorded(tmp_path, command, monkeypatch):
    path = write_video(tmp_path / "a.avi", 40, infrared=True, rate=60)
    told, viewers, start = [], [], Server.start

    def look(port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/events?since=0")
        with contextlib.closing(connection), connection.getresponse() as answer:
            while event := event_of(answer):
                told.append(event[1])

    def started(server, board):
        start(server, board)
        viewers.append(threading.Thread(target=look, args=[server.address.port]))
        viewers[0].start()

    monkeypatch.setattr(Server, "start", started)
    seen = tmp_path / "seen.mp4"
    code, out, errors = command(
        f"--stream={path}", "--serve=0", f"--annotate={seen}", "--stride=8", "--json"
    )
    viewers[0].join()
    assert code == 0 and len(out) > 2 and [json.loads(text) for text in out] == told
    assert errors[0].startswith("watch it at http://127.0.0.1:")
    with av.open(str(seen)) as film:
        frames = [(frame.time, frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]
    assert len(frames) == 40 and frames[-1][0] == pytest.approx(39 / 60, abs=0.02)
    assert frames[0][1].shape == (48, 64, 3)
    code, _, errors = command(f"--stream={path}", f"--annotate={seen}")
    assert code == 2 and "seen.mp4 exists and is kept" in errors[0]


def test_a_recording_goes_on_at_another_size_and_without_its_end(tmp_path):
    path = tmp_path / "a.mp4"
    scores = Verdict(np.array([0.1, 0.9]))
    with Recorder(path, ("walk", "sit")) as recorder:
        recorder.add(picture(0), 0.0, None)
        recorder.add(picture(1, (128, 100)), 0.1, scores)
        recorder.add(picture(2), 0.1, scores)  # no later than the one before
        for number in range(3, 150):
            recorder.add(picture(number), 0.1 * number, scores)
        cut = path.read_bytes()  # as after a loss of power
    (tmp_path / "cut.mp4").write_bytes(cut)
    for name, least in (("a.mp4", 150), ("cut.mp4", 50)):
        with av.open(str(tmp_path / name)) as film:
            shapes = {(f.width, f.height) for f, _ in zip(film.decode(video=0), range(least))}
            assert shapes == {(64, 48)}


def test_a_lost_source_is_said_on_the_page(monkeypatch, command):
    source = source_of([range(9), OSError("off"), range(9), OSError("off")], monkeypatch)
    told, states = Board.tell, []
    monkeypatch.setattr(Board, "tell", lambda *a: states.append(a[1:]) or told(*a))
    monkeypatch.setattr("jax_irkd.deployment.live._preparer", lambda *_: lambda image: 1)
    monkeypatch.setattr(
        "jax_irkd.deployment.live._answers", lambda recognizer, source, *_: (0 for _ in source if 0)
    )
    code, _, errors = command(f"--stream={source}", "--serve=0", "--patience=0.1")
    assert code == 2 and errors[-1].startswith("error: no frame from rtsp://camera")
    assert states[0][0] == "lost" and states[0][1] in errors
    assert states[-1] == ("ended", errors[-1].removeprefix("error: "))


def test_mistakes_around_the_page(tmp_path, command, monkeypatch):
    path = write_video(tmp_path / "a.avi", 4, infrared=True)
    (tmp_path / "there.mp4").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        stream = f"--stream={path}"
        for flags, message in (
            ((stream, f"--serve={port}"), f"--serve=127.0.0.1:{port} cannot be had (Address al"),
            ((stream, "--serve=here:there"), "--serve=here:there is no address; give HOST:PORT"),
            ((stream, "--serve=70000"), "is no address"),
            ((stream, "--serve=192.0.2.7"), "--serve=192.0.2.7:8000 cannot be had"),
            ((path, "--serve"), "--serve shows a --stream"),
            ((stream, "--token=x"), "--token is for the page of --serve"),
            ((stream, f"--annotate={tmp_path / 'a.avi'}"), "cannot hold a stream"),
            ((stream, f"--annotate={tmp_path / 'text.txt'}"), "cannot hold a stream"),
            ((stream, f"--annotate={tmp_path / 'there.mp4'}"), "exists and is kept"),
            ((stream, f"--annotate={tmp_path / 'no' / 'a.mp4'}"), "there is no folder"),
        ):
            code, _, errors = command(*flags)
            assert code == 2 and len(errors) == 1 and message in errors[0]
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    code, _, errors = command(stream, "--serve")
    assert (code, len(errors)) == (2, 1) and "--serve needs uvicorn: pip install" in errors[0]


def test_an_address_that_is_not_this_machines():
    with pytest.raises(UserError, match="cannot be had"):
        Server(Address("no.such.host.invalid", 1))


@pytest.mark.slow
def test_viewers_of_a_command_that_fails_cost_no_traceback(monkeypatch, caplog):
    """It ends before the stream does; and one of them, a phone asleep, does not read."""
    monkeypatch.setattr(serving, "GOODBYE", 0.2)
    unheard = []
    monkeypatch.setattr(sys, "unraisablehook", unheard.append)
    with served() as (board, _, server):
        asleep = socket.create_connection(("127.0.0.1", server.address.port))
        asleep.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        asleep.sendall(b"GET /picture HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        noise = np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)
        board.show(noise)
        assert asleep.recv(1)
        server.close()
        gc.collect()
        asleep.close()
    assert not unheard and not caplog.records
