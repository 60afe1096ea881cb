"""The benchmarks, one after the other: results beside their targets, as JSON and as a table.

    python -m benchmarks [--all] [--quick] [--only=step,inputs] [--out=docs]

Each runs in a process of its own and also alone, `python -m benchmarks.step`. Writes
OUT/performance.json, and the table between the two marks of OUT/performance.md. A benchmark that
fails, for want of a package say, is named and the others go on. Results of other benchmarks, and
of other machines with another accelerator, stay as they are. Those that take many minutes run only
when they are named or with `--all`. `--quick` shows in two minutes that six of the others run; its
numbers mean little and go to runs/benchmarks.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks._measure import number, several

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"
TITLES = {
    "step": "The distillation step",
    "losses": "The losses",
    "devices": "The same numbers on the accelerator",
    "balance": "Weights in units of the cross-entropy",
    "inputs": "The input path",
    "training": "A run as users start it",
    "shift": "The temporal shift",
    "seeds": "Several students in one program",
    "growth": "Cost as work grows",
    "startup": "Start and memory",
    "student": "The student at work",
    "frames": "Every frame once",
    "past": "A causal network in a stream",
    "engines": "Engines and precisions",
    "build": "Building a data set",
    "small_build": "Building a data set of small films",
}
QUICK = {
    "step": ["--clips=2", "--segments=2", "--resolution=96", "--repeats=1", "--no-parts"],
    "losses": ["--clips=2", "--segments=2", "--resolution=96", "--repeats=1"],
    "balance": ["--methods=at", "--clips=2", "--segments=2", "--repeats=1"],
    "inputs": [
        "--clips=2",
        "--frames=16",
        "--rounds=1",
        "--repeats=1",
        "--batches=3",
        "--threads=2",
        "--processes=",
    ],
    "seeds": ["--clips=2", "--segments=1", "--resolution=96", "--repeats=1", "--students=2"],
    "growth": ["--quick", "--repeats=1"],
}
# Minutes each: only when asked for by name or with --all.
SLOW = (
    "devices",
    "training",
    "shift",
    "student",
    "frames",
    "past",
    "engines",
    "build",
    "small_build",
)


def run_one(name: str, options: list[str]) -> dict | None:
    """The content a benchmark saves; None when it fails."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "results.json")
        command = [sys.executable, "-m", f"benchmarks.{name}", *options, f"--json={path}"]
        print(f"\n== {name}: {' '.join(command[1:])}", flush=True)
        code = subprocess.run(command).returncode
        if code or not path.exists():
            print(f"== {name} failed with code {code}; the others go on", file=sys.stderr)
            return None
        return json.loads(path.read_text())


def merge(old: list[dict], new: list[dict]) -> list[dict]:
    """New entries in the place of old ones of the same benchmark and accelerator, in order."""

    def key(entry: dict) -> tuple[int, str]:
        return list(TITLES).index(entry["benchmark"]), entry["machine"]["accelerator"]

    kept = {key(entry): entry for entry in [*old, *new]}
    return [kept[place] for place in sorted(kept)]


def table(entries: list[dict]) -> str:
    """Markdown: what was measured where, and a table for each benchmark.

    An entry may have a `note`, a sentence that was written beside its results.
    """
    lines = []
    for entry in entries:
        machine = entry["machine"]
        versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
        computer = machine["accelerator"] or machine["processor"]
        lines += [
            f"### {TITLES[entry['benchmark']]} ({computer})",
            "",
            f"`python -m benchmarks.{entry['benchmark']}` in {entry['seconds']} s on "
            f"{computer}, {machine['cores']} cores, "
            f"{machine['memory_gb']} GB; {machine['date']}, commit {machine['commit']}; "
            f"{machine['system']}, {versions}.",
            "",
            *([entry["note"], ""] if "note" in entry else []),
            "| what | median | quartiles | target | reached |",
            "| --- | ---: | --- | --- | --- |",
            *map(_row, entry["results"]),
            "",
        ]
    return "\n".join(lines)


def _row(result: dict) -> str:
    low, high = result["low"], result["high"]
    spread = "" if low is None or high is None else f"{number(low)} to {number(high)}"
    reached = {None: "", True: "yes", False: "**no**"}[result["met"]]
    note = f" ({result['note']})" if result["note"] else ""
    value = f"{number(result['value'])} {result['unit']}".strip()
    return f"| {result['name']}{note} | {value} | {spread} | {result['target']} | {reached} |"


def write(out: Path, entries: list[dict]) -> None:
    """performance.json, and the table in performance.md, whose other text stays."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / "performance.json"
    old = json.loads(path.read_text()) if path.exists() else []
    merged = merge(old, entries)
    path.write_text(json.dumps(merged, indent=1, ensure_ascii=False) + "\n")
    page = out / "performance.md"
    text = page.read_text() if page.exists() else f"# Performance\n\n{BEGIN}\n{END}\n"
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END} that the table goes between")
    before, rest = text.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n{table(merged)}{END}{after}")
    print(f"\nwrote {path} and {page}")


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--all", action="store_true", help=f"with {' and '.join(SLOW)}")
    parser.add_argument("--only", type=several(TITLES), default=[])
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    out = arguments.out or Path("runs/benchmarks" if arguments.quick else "docs")
    default = QUICK if arguments.quick else [n for n in TITLES if arguments.all or n not in SLOW]
    entries, failed = [], []
    for name in arguments.only or default:
        options = QUICK.get(name, []) if arguments.quick else []
        if name == "growth":
            options = [*options, f"--out={out / 'performance'}"]
        entry = run_one(name, options)
        if entry:
            entries.append(entry)
        else:
            failed.append(name)
    if entries:
        write(out, entries)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
