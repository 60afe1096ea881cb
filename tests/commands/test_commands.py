"""What all commands have in common: help, mistakes, Ctrl-C, a reader that goes away, full disks."""

import errno
import json
import os
import re
import signal
import subprocess
import sys
import threading

import pytest

from jax_irkd import __main__ as door
from jax_irkd.errors import UserError, nearest
from jax_irkd.host import commands, parsing
from jax_irkd.host.interrupts import Interrupted
from tests.helpers import ROOT

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
CONFIG = "--config=configs/demo.py"
# Arguments with which a command begins to work.
WORKING = {
    "main": [CONFIG],
    "study": [CONFIG],
    "build": ["ntu_rgbd_ir", "--manual_dir=/nowhere"],
    "predict": ["--run=/nowhere", "a.avi"],
    "export": ["--run=/nowhere", "--out=/nowhere.irkd"],
    "inspect": ["config", CONFIG],
    "doctor": [CONFIG],
    "fuse": ["/nowhere/a", "/nowhere/b"],
    "report": ["/nowhere"],
    "bench_student": ["/nowhere"],
    "data.synthetic": ["--out=/nowhere"],
    "detection": ["/nowhere/a", "/nowhere/b"],
    "data.synthetic.gestures": ["--out=/nowhere"],
    "data.synthetic.untrimmed": ["--out=/nowhere"],
    "weights": ["save", "--run=/nowhere", "--out=/nowhere.safetensors"],
}
WITH_CONFIG = ("main", "study", "inspect", "doctor")


def python(code, *argv, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *argv],
        **{"capture_output": True, "text": True, "cwd": ROOT, "env": ENVIRONMENT} | options,
    )


def mistake(capsys, name, argv):
    """The line in which a command refuses `argv`."""
    assert door.module(name).main(argv) == 2
    out, said = capsys.readouterr()
    assert said.startswith("error: ") and said.count("\n") == 1 and not out, said
    return said


def test_every_module_that_can_be_started_is_a_command():
    files = [p for p in (ROOT / "jax_irkd").rglob("*.py") if '__main__":' in p.read_text()]
    names = {".".join(p.relative_to(ROOT / "jax_irkd").with_suffix("").parts) for p in files}
    assert {name.removesuffix(".__main__") for name in names} == {*door.NAMES, "__main__"}
    assert set(WORKING) == set(door.NAMES)


def test_help_loads_nothing_heavy():
    code = """
import io, json, sys, contextlib
from jax_irkd import __main__ as door
heavy, said = {"jax", "cv2", "av", "matplotlib", "scipy", "tensorflow_datasets"}, {}
for name in door.NAMES:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = door.module(name).main(["--help"])
    said[name] = [code, out.getvalue(), sorted(heavy & set(sys.modules))]
print(json.dumps(said))
"""
    said = json.loads(python(code, env={**ENVIRONMENT, "COLUMNS": "80"}).stdout)
    for name, (code, text, loaded) in said.items():
        assert code == 0 and not loaded, (name, loaded)
        assert f"python -m jax_irkd.{name}" in text
        assert max(map(len, text.splitlines())) <= 80, name


def test_help_fits_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "24")
    text = "A long first line.\n\npython -m x\n    --one=1 [--two-two=2]\n\none   a row\n"
    assert parsing.fitted(text) == (
        "A long first line.\n\npython -m x --one=1\n    [--two-two=2]\n\none   a row"
    )
    assert parsing.fitted_line("  --option=…  what it is for") == (
        "  --option=…  what it is\n              for"
    )


def test_help_tells_every_default():
    made = parsing.parser("x", "Text.")
    made.add_argument("--many", type=int, default=0, help="clips")
    made.add_argument("--said", default=3, help="threads (default: all)")
    made.add_argument("--maybe", help="a file")
    made.add_argument("--flag", action="store_false", help="a switch")
    lines = {line.split()[0]: line for line in made.format_help().splitlines() if " --" in line}
    assert lines["--many"].endswith("clips (default: 0)")
    assert lines["--said"].endswith("threads (default: all)")
    assert lines["--maybe"].endswith("a file") and lines["--flag"].endswith("a switch")


def test_the_door_lists_all_commands_at_80_columns(capsys):
    assert door.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in door.NAMES:
        assert f"\n  {name} " in text
    assert max(map(len, text.splitlines())) <= 80
    assert door.main([]) == 2
    capsys.readouterr()
    assert door.main(["predct", "--run=x"]) == 2
    assert "unknown command 'predct'; did you mean 'predict' or" in capsys.readouterr().err
    assert door.main(["fuse", "one"]) == 2
    assert "fusion needs two runs" in capsys.readouterr().err


@pytest.mark.parametrize("name", door.NAMES)
def test_version(name, capsys):
    assert door.module(name).main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("jax_irkd ")


@pytest.mark.parametrize("name", door.NAMES)
def test_an_unknown_option_is_named_with_all_there_are(name, capsys):
    said = mistake(capsys, name, [*WORKING[name], "--wrkdirr=1"])
    assert "unknown option --wrkdirr; " in said and "hoose from --" in said


def test_a_misspelt_option_is_named_before_what_is_missing(capsys):
    said = mistake(capsys, "predict", ["--rnu=x", "a.avi"])
    assert "unknown option --rnu; did you mean '--run'" in said
    assert "unknown option -out; did" in mistake(capsys, "data.synthetic", ["-out=x"])
    assert door.module("predict").main(["--rnu=x", "--help"]) == 0
    assert "usage" in capsys.readouterr().out
    assert door.module("predict").parse(["--run=x", "--", "-a.avi"]).videos == ["-a.avi"]


@pytest.mark.parametrize("name", sorted({*door.NAMES} - {"predict", "bench_student", "fuse"}))
def test_a_word_too_many_is_named(name, capsys):
    assert "'stray' is one word too many" in mistake(capsys, name, [*WORKING[name], "stray"])


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("main", "--workdir"),
        ("study", "--jobs"),
        ("inspect", "--out"),
        ("doctor", "--workdir"),
        ("build", "--data_dir"),
        ("predict", "--topk"),
        ("export", "--which"),
        ("fuse", "--weights"),
        ("bench_student", "--batch"),
        ("data.synthetic", "--seed"),
        ("data.synthetic.gestures", "--seed"),
        ("data.synthetic.untrimmed", "--seed"),
        ("weights", "--out"),
        ("detection", "--threshold"),
    ],
)
@pytest.mark.parametrize("following", [[], ["--version_"]])
def test_an_option_without_a_value_is_named(name, option, following, capsys):
    said = mistake(capsys, name, [*WORKING[name], option, *following])
    assert f"{option} has no value" in said or "unknown option --version_" in said


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        (
            "predict",
            "--windows=shard",
            "--windows is 'shard'; did you mean 'shared'? Choose from auto",
        ),
        ("predict", "--topk=few", "--topk is 'few'; it must be a whole number"),
        ("detection", "--threshold=x", "--threshold is 'x'; it must be a number"),
        (
            "main",
            "--busy=nowait",
            "--busy is 'nowait'; did you mean 'wait'? Choose from auto, wait",
        ),
        ("doctor", "--programs=maybe", "--programs is 'maybe'; write --programs or --noprograms"),
        ("inspect", "--clips=x", "--clips is 'x'; it must be a positive integer"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_those_that_can(name, option, words, capsys):
    assert words in mistake(capsys, name, [*WORKING[name], option])


CONFIG_MISTAKES = [
    (["--config"], "--config has no value"),
    (["--config", "--workdir=x"], "--config has no value"),
    (["--config="], "--config has no value"),
    (["--config=README.md"], "README.md is no config"),
    (["--config=configs"], "config file configs does not exist; "),
    (["--config=configs/dmo.py"], "did you mean 'demo'? Choose from custom, demo, ntu, pku"),
    ([CONFIG, CONFIG], "--config is given 2 times"),
    ([f"{CONFIG}:metod=at"], "unknown option 'metod' after the config; did you mean 'method'"),
    ([f"{CONFIG}:seed=x"], "option seed='x' should be of type int"),
    ([CONFIG, "--config.student_model.wdth=3"], "no field 'wdth'; did you mean 'width'"),
    ([CONFIG, "--config.sed=3"], "--config has no field 'sed'; did you mean 'seed'"),
    ([CONFIG, "--config.seed.x=3"], "--config.seed is a value and has no field 'x'"),
    ([CONFIG, "--config.seed=x"], "seed is 'x'; it must be a whole number"),
    ([CONFIG, "--config.seed"], "--config.seed"),
    ([CONFIG, "--config.method=our"], "unknown method 'our'; did you mean 'ours'"),
    ([CONFIG, "--config.method=at"], "behind the file, --config=FILE:method=at"),
    ([CONFIG, "--config.protocol=cross_viw"], "unknown protocol 'cross_viw'; did you mean 'cross_"),
    ([f"{CONFIG}:protocol=cross_viw"], "unknown protocol 'cross_viw'; did you mean 'cross_view'"),
    ([CONFIG, "--config.input.scales=wide"], "input.scales is 'wide'; it must be"),
    (["--config.log_every=3"], "3 changes a config, but --config=FILE is missing"),
]


@pytest.mark.parametrize("name", WITH_CONFIG)
@pytest.mark.parametrize(("argv", "words"), CONFIG_MISTAKES)
def test_mistakes_in_the_config_are_named(name, argv, words, capsys, tmp_path):
    before = [] if name == "inspect" and argv[0].startswith("config") else ["config"]
    said = mistake(capsys, name, [*(before if name == "inspect" else []), *argv])
    if name == "study" and re.search(r"(--config\.|:)(method|seed)=", argv[-1]):
        words = "is the study's to choose; use --methods"
    assert words in said, said


@pytest.mark.parametrize("name", WITH_CONFIG)
def test_an_unknown_method_is_refused_with_all_there_are(name, capsys):
    argv = {
        "study": [CONFIG, "--methods=our"],
        "inspect": ["config", f"{CONFIG}:method=our"],
    }.get(name, [f"{CONFIG}:method=our"])
    said = mistake(capsys, name, argv)
    assert "unknown method 'our'; did you mean 'ours'? Choose from" in said
    for method in ("ours", "baseline", "teacher", "tstdd", "dkd", "fitnet"):
        assert f" {method}," in said


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def get_confg(arg=''): pass", "has no function get_config"),
        ("def get_config(arg=''): return {}", "gives a dict; it should give a ConfigDict"),
        ("x = 1\nraise NameError('lost')", "line 2: NameError: lost"),
        ("def get_config(:", "SyntaxError"),
    ],
)
def test_a_config_file_that_is_wrong_is_named_with_the_line(text, words, tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(text)
    said = mistake(capsys, "main", [f"--config={file}"])
    assert str(file) in said and words in said


ENDS = [
    (None, 0, ""),
    (UserError("wrong"), 2, "error: wrong\n"),
    (Interrupted("saved at step 3"), 75, "saved at step 3\n"),
    (KeyboardInterrupt(), 130, "interrupted\n"),
    (OSError(errno.ENOSPC, "No space", "a/b"), 2, "error: the disk is full (a/b); free space"),
    (PermissionError(errno.EACCES, "Permission denied", "a/b"), 2, "error: a/b: Permission denied"),
    (ModuleNotFoundError("x", name="sklearn"), 2, "error: the module sklearn is not installed"),
    (SystemExit(3), 3, ""),
]


@pytest.mark.parametrize(("error", "code", "words"), ENDS)
def test_how_a_command_ends(error, code, words, capfd):
    def body(argv):
        if error is not None:
            raise error

    before = signal.getsignal(signal.SIGINT)
    assert commands.run(body, []) == code
    said = capfd.readouterr().err
    assert said.startswith(words) and said.count("\n") == bool(words)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    "error", [ValueError("x"), OSError(22, "no file named"), ModuleNotFoundError(name="jax_irkd.x")]
)
def test_faults_of_ours_are_not_hidden(error):
    def body(argv):
        raise error

    with pytest.raises(type(error)):
        commands.run(body, [])


def test_what_continues_says_so(capsys):
    def body(argv):
        raise KeyboardInterrupt

    assert commands.run(body, [], resumes=True) == 130
    assert capsys.readouterr().err == "interrupted; run the same command again to continue\n"


AT_AN_IMPORT = """
import os, signal, sys
from jax_irkd import __main__ as door

class Hook:  # Ctrl-C when the library is asked for
    def find_spec(self, name, path=None, target=None):
        if name == library:
            os.kill(os.getpid(), signal.SIGINT)

command, library, *sys.argv[1:] = sys.argv[1:]
sys.meta_path.insert(0, Hook())
sys.exit(door.module(command).main())
"""


@pytest.mark.parametrize("name", door.NAMES)
def test_ctrl_c_while_libraries_are_loaded(name):
    library = "ml_collections" if name in WITH_CONFIG else "numpy"
    ended = python(AT_AN_IMPORT, name, library, *WORKING[name])
    assert ended.returncode == 130
    assert ended.stderr in ("interrupted\n", f"interrupted; {commands.AGAIN}\n")


def test_ctrl_c_that_a_library_turns_into_another_error():
    code = """
import os, signal, sys
from jax_irkd.host import commands, parsing
def body(argv):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))
    except KeyboardInterrupt:
        raise ImportError("half loaded") from None
sys.exit(commands.run(body))
"""
    ended = python(code)
    assert ended.returncode == 130
    assert ended.stderr in ("interrupted\n", f"interrupted; {commands.AGAIN}\n")


WHERE_PYTHON_DROPS_IT = """
import gc, os, signal, sys, time
from jax_irkd.host import commands
place, number = sys.argv[1], getattr(signal, sys.argv[2])

def send():
    gc.callbacks.clear()
    os.kill(os.getpid(), number)
    sum(range(1000))

class Finalised:
    def __del__(self):
        send()

def body(argv):
    if place == "finaliser":
        Finalised()
    else:
        gc.callbacks.append(lambda phase, info: send())
        gc.collect()
    print("dropped", flush=True)
    time.sleep(float(sys.argv.pop()))
sys.exit(commands.run(body, resumes=True))
"""


@pytest.mark.parametrize("place", ["finaliser", "collection"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_that_python_drops_comes_again(place, name):
    ended = python(WHERE_PYTHON_DROPS_IT, place, name, "60", timeout=30)
    assert ended.stdout == "dropped\n"
    said = "interrupted" if name == "SIGINT" else "SIGTERM: stopped"
    assert ended.stderr == f"{said}; {commands.AGAIN}\n"
    assert ended.returncode == (130 if name == "SIGINT" else 75)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_dropped_signal_does_not_unmake_an_end_that_came_first(name):
    ended = python(WHERE_PYTHON_DROPS_IT, "finaliser", name, "0")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "dropped\n", "")


SPEAKING = """
import sys
from jax_irkd.host import commands, parsing
from jax_irkd.host.terminal import make_console
say = print if sys.argv[1] == "print" else make_console(80).print
def body(argv):
    for number in range(100_000):
        say(number)
sys.exit(commands.run(body))
"""


@pytest.mark.parametrize("by", ["print", "rich"])
def test_a_reader_that_goes_away_ends_a_command_without_a_word(by):
    with subprocess.Popen(
        [sys.executable, "-c", SPEAKING, by],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "0\n"
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141


@pytest.mark.parametrize("by", ["print", "rich"])
def test_a_full_device_under_the_output(by):
    with open("/dev/full", "w") as full:
        ended = python(SPEAKING, by, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 2
    assert ended.stderr == "error: the disk is full; free space and try again\n"


@pytest.mark.parametrize("installed", [True, False])
@pytest.mark.parametrize("file", ["fuse.py", "main.py", "inspect.py", "config.py"])
def test_a_file_of_the_package_started_by_itself(file, installed):
    ended = subprocess.run(
        [sys.executable, *([] if installed else ["-S"]), ROOT / "jax_irkd" / file],
        capture_output=True,
        text=True,
        cwd="/",
        env=ENVIRONMENT if installed else {},
    )
    assert ended.returncode == 2 or not installed
    if installed:
        assert ended.stderr.startswith("error: start python -m jax_irkd.")
        assert ended.stderr.count("\n") == 1
    assert "circular" not in ended.stderr


def test_children_do_not_hear_ctrl_c():
    code = """
import os, signal, subprocess, sys
from jax_irkd.host.interrupts import deaf_children
with deaf_children():
    child = subprocess.Popen([sys.executable, "-c", "input(); print('alive')"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.send_signal(signal.SIGINT)
print(child.communicate(b"\\n")[0], signal.pthread_sigmask(signal.SIG_BLOCK, []))
"""
    assert python(code).stdout == "b'alive\\n' set()\n"


def test_a_signal_after_the_last_word_does_not_unmake_the_end():
    script = (
        "import atexit, os, signal, sys\n"
        "from jax_irkd.host import commands\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGTERM)\n"
        "sys.exit(commands.run(lambda argv: print('done'), resumes=True))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_nearest():
    assert nearest("our", ["ours", "at"]) == "; did you mean 'ours'? Choose from ours, at"
    assert nearest("x", ["ours", "at"]) == "; choose from ours, at"
    assert nearest("AT", ["at"]) == "; did you mean 'at'? Choose from at"
    assert nearest("x", []) == "; there is nothing to choose from"


def test_run_works_outside_the_main_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(commands.run(lambda argv: 0, [])))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(tmp_path, monkeypatch):
    """A shell replaces it in a word of its own only."""
    from jax_irkd import build, export, fuse, predict, report
    from jax_irkd.detection import __main__ as detection

    monkeypatch.setenv("HOME", str(tmp_path))
    home = {
        build.parse(["folder_ir", "--manual_dir=~/raw"]).manual_dir: "raw",
        build.parse(["folder_ir", "--data_dir=~/x", "--crop_file=~/c"]).crop_file: "c",
        predict.parse(["--run=~/run", "~/a.avi", "b.avi"]).run: "run",
        predict.parse(["--run=~/run", "~/a.avi", "b.avi"]).videos[0]: "a.avi",
        export.parse(["--run=~/run", "--out=~/out.irkd"]).out: "out.irkd",
        fuse.parse(["~/one", "~/two", "--out=~/f.json"]).out: "f.json",
        report.parse(["~/runs"]).workdir: "runs",
        detection.parse(["~/mine", "~/theirs"]).ground: "theirs",
    }
    assert {path: str(tmp_path / name) for path, name in home.items()} == dict(zip(home, home))
    assert predict.parse(["--run=x", "a~b.avi"]).videos == ["a~b.avi"]
