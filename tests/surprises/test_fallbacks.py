"""What may not be there stops nothing: git, a home, locks, the main thread, UTF-8."""

import errno
import fcntl
import io
import os
import signal
import sys
import threading
from importlib import metadata
from pathlib import Path

import flax.linen as nn
import jax
import pytest

from jax_irkd import errors
from jax_irkd.errors import UserError
from jax_irkd.host import commands, devices, files, interrupts, locks
from jax_irkd.host.terminal import make_console
from jax_irkd.runs import provenance
from jax_irkd.training import evaluation, setup
from jax_irkd.training.evaluation import Network
from tests.helpers import fakes


@pytest.fixture(autouse=True)
def not_said_yet():
    errors.once.cache_clear()


def test_without_git(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert provenance.provenance()["git_commit"] is None
    provenance.provenance()
    assert capsys.readouterr().err.count("git cannot be started") == 1


def test_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    found = provenance.provenance()["versions"]
    assert found["jax-irkd"].count(".") == 2 and found["jax"] == "unknown"
    assert "jax is missing" in commands.version()


def homeless(monkeypatch):
    monkeypatch.delenv("HOME", raising=False)

    def unknown(path):
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", unknown)


@pytest.mark.parametrize("chosen", [None, "", "relative"])
def test_without_a_home(monkeypatch, capsys, chosen):
    homeless(monkeypatch)
    if chosen is None:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", chosen)
    assert devices.cache_folder() is None and devices.cache_folder() is None
    assert capsys.readouterr().err.count("no home folder") == 1
    with pytest.raises(UserError, match="~/data: no home folder is known here; give a full path"):
        files.expanded("~/data")


@pytest.mark.parametrize("chosen", ["", "relative/place"])
def test_an_empty_cache_home_is_none(monkeypatch, tmp_path, chosen):
    monkeypatch.setenv("XDG_CACHE_HOME", chosen)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert devices.cache_folder() == tmp_path / ".cache" / "jax_irkd"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert devices.cache_folder() == tmp_path / "c" / "jax_irkd"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks(monkeypatch, tmp_path, capsys, number):
    def unsupported(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    for _ in range(2):
        with locks.held(tmp_path / "run"):
            pass
    said = capsys.readouterr().err
    assert said.count("file system without locks") == 1 and os.strerror(number) in said


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.ENAMETOOLONG])
def test_where_nothing_can_be_written(monkeypatch, tmp_path, number):
    def refused(*_args, **_kwargs):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refused)
    said = f"cannot write to .*run: {os.strerror(number)}; use"
    with pytest.raises(UserError, match=said), locks.held(tmp_path / "run"):
        pass


def in_a_thread(action):
    found = []

    def work():
        try:
            found.append(action())
        except BaseException as error:
            found.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def heard(number):
    """The signal as Python hears it by itself; nohup, or a shell's &, would have it ignored."""
    by_itself = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    before = signal.signal(number, by_itself)
    yield
    signal.signal(number, before)


def test_outside_the_main_thread():
    def body(argv):
        with interrupts.StopRequest() as stop, interrupts.listening(), commands.importing():
            return 0 if stop.requested is None else 1

    assert in_a_thread(lambda: commands.run(body, [], resumes=True)) == 0


@pytest.mark.parametrize("number", interrupts.ENDING)
def test_a_signal_anywhere_ends_with_75(capsys, number, heard):
    def body(argv):
        os.kill(os.getpid(), number)
        raise AssertionError("not reached")

    before = signal.getsignal(number)
    assert commands.run(body, [], resumes=True) == 75
    name = signal.Signals(number).name
    assert capsys.readouterr().err == f"{name}: stopped; run the same command again to continue\n"
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", interrupts.ENDING)
def test_no_library_holds_a_signal_up(number, heard):
    def body(argv):
        try:
            os.kill(os.getpid(), number)
        except Exception:
            return 0

    assert commands.run(body, [], resumes=True) == 75


@pytest.mark.parametrize("number", interrupts.ENDING)
def test_an_ignored_signal_stays_ignored(number):
    """Under nohup a run goes on when its terminal hangs up."""

    def body(argv):
        os.kill(os.getpid(), number)
        with interrupts.StopRequest() as stop:
            os.kill(os.getpid(), number)
            return 0 if stop.requested is None else 1

    before = signal.signal(number, signal.SIG_IGN)
    try:
        assert commands.run(body, [], resumes=True) == 0
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", interrupts.StopRequest.SIGNALS)
def test_in_the_loop_a_signal_is_remembered(number, heard):
    def body(argv):
        with interrupts.StopRequest() as stop:
            os.kill(os.getpid(), number)
            return 0 if stop.requested == signal.Signals(number).name else 1

    assert commands.run(body, [], resumes=True) == 0


@pytest.mark.parametrize("error", [RuntimeError("reentrant call"), OSError(), ValueError("closed")])
def test_a_signal_is_remembered_where_nothing_can_be_said(monkeypatch, error):
    """In the middle of a line on stderr Python refuses another one: the step is still saved."""

    class Broken(io.StringIO):
        def write(self, text):
            raise error

    monkeypatch.setattr(sys, "stderr", Broken())
    with interrupts.StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested == "SIGTERM"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "koi8-r", "utf-8"])
def test_output_that_is_not_of_utf_8(monkeypatch, encoding):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)

    def body(argv):
        print("Δ 拍手 – ä")
        make_console(80).print("[bold]拍手 – Δ[/bold] …")

    assert commands.run(body, []) == 0
    assert stream.buffer.getvalue().count(b"\n") == 2


def test_an_evaluation_stops_between_two_batches():
    class Never(nn.Module):
        @nn.compact
        def __call__(self, clips, *, train):
            raise AssertionError("a batch was computed")

    config = fakes.config()
    reader = setup.make_reader(config, fakes.dataset(), "test", ("infrared",))
    with pytest.raises(evaluation.Stopped):
        evaluation.evaluate(Network(Never(), {}), config, reader, lambda: True)


@pytest.mark.parametrize(
    "number", [errno.EROFS, errno.EIO, errno.ENAMETOOLONG, errno.EFBIG, errno.ENOSPC, errno.EDQUOT]
)
@pytest.mark.parametrize("named", [True, False])
def test_what_a_disk_answers_is_said(capsys, number, named):
    def body(argv):
        raise OSError(number, os.strerror(number), *(["/some/file"] if named else []))

    assert commands.run(body, []) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    assert ("/some/file" in said) == named


def test_processes_that_agree_say_nothing():
    devices.agree("configuration", {"a": 1})
    devices.first_does(lambda: None)
    with pytest.raises(UserError, match="no"):
        devices.first_does(lambda: (_ for _ in ()).throw(UserError("no")))


def test_processes_that_differ_are_named(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 3)

    def gathered(own):
        return [own, own, own[::-1]]

    monkeypatch.setattr(devices.multihost_utils, "process_allgather", gathered)
    with pytest.raises(UserError, match="do not agree on configuration: 2 differ from process 0"):
        devices.agree("configuration", {"a": 1})
