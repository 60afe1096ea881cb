"""What is read from a compiled program, on a module written by hand, and how it is judged."""

import importlib.util
import json
import re
import subprocess
import sys

import pytest

from benchmarks import gpu_cards, gpu_cases, gpu_check, gpu_page, hlo
from jax_irkd.configs import pku
from tests.helpers import ROOT

MODULE = """HloModule example

%doubled (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  ROOT %add = f32[4,8]{1,0} add(%p, %p)
}

%sliced (q: f32[10,4,8]) -> f32[4,8] {
  %q = f32[10,4,8]{2,1,0} parameter(0)
  %first = f32[1,4,8]{2,1,0} slice(%q), slice={[0:1], [0:4], [0:8]}
  ROOT %flat = f32[4,8]{1,0} bitcast(%first)
}

%product (l: bf16[4,8], r: bf16[8,2]) -> bf16[4,2] {
  %l = bf16[4,8]{1,0} parameter(0)
  %r = bf16[8,2]{1,0} parameter(1)
  ROOT %dot = bf16[4,2]{1,0} dot(%l, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%turned (m: f32[4,8]) -> f32[8,4] {
  %m = f32[4,8]{1,0} parameter(0)
  ROOT %transpose = f32[8,4]{1,0} transpose(%m), dimensions={1,0}
}

%once (state: (f32[4,8])) -> (f32[4,8]) {
  %state = (f32[4,8]{1,0}) parameter(0)
  %held = f32[4,8]{1,0} get-tuple-element(%state), index=0
  %more = f32[4,8]{1,0} fusion(%held), kind=kLoop, calls=%doubled
  ROOT %next = (f32[4,8]{1,0}) tuple(%more)
}

%test (tested: (f32[4,8])) -> pred[] {
  %tested = (f32[4,8]{1,0}) parameter(0)
  ROOT %yes = pred[] constant(true)
}

ENTRY %main (a: f32[10,4,8], b: bf16[4,8], c: bf16[8,2], d: bf16[2,6,6,3], e: bf16[5,3,3,3]) -> f32[8,4] {
  %a = f32[10,4,8]{2,1,0} parameter(0)
  %b = bf16[4,8]{1,0} parameter(1)
  %c = bf16[8,2]{1,0} parameter(2)
  %d = bf16[2,6,6,3]{3,2,1,0} parameter(3)
  %e = bf16[5,3,3,3]{3,2,1,0} parameter(4)
  %part = f32[4,8]{1,0} fusion(%a), kind=kLoop, calls=%sliced
  %many = bf16[4,2]{1,0} fusion(%b, %c), kind=kCustom, calls=%product
  %conv = (bf16[2,6,6,5]{3,2,1,0}, u8[64]{0}) custom-call(%d, %e), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %start = (f32[4,8]{1,0}) tuple(%part)
  %loop = (f32[4,8]{1,0}) while(%start), condition=%test, body=%once, backend_config={"known_trip_count":{"n":"3"}}
  %out = f32[4,8]{1,0} get-tuple-element(%loop), index=0
  %all = f32[4,8]{1,0} all-reduce(%out), replica_groups={{0,1}}, to_apply=%doubled
  %kept = f32[8,4]{1,0} fusion(%all), kind=kInput, calls=%turned
  ROOT %copied = f32[8,4]{0,1} copy(%kept)
}
"""  # noqa: E501


@pytest.fixture
def program():
    return hlo.Program(MODULE)


def test_kernels_are_counted_with_the_loops_they_are_in(program):
    times = {k.instruction.name: k.times for k in program.kernels()}
    assert times == {"part": 1, "many": 1, "conv": 1, "more": 3, "all": 1, "kept": 1, "copied": 1}


def test_operations_by_hand(program):
    flops = {k.instruction.name: k.flops for k in program.kernels() if k.flops}
    # 4 x 2 outputs of 8 products; 2 x 6 x 6 x 5 outputs of 3 x 3 x 3.
    assert flops == {
        "many": {"bfloat16": 2.0 * 4 * 2 * 8},
        "conv": {"bfloat16": 2.0 * 2 * 6 * 6 * 5 * 27},
    }
    assert hlo.total_flops(program.kernels()) == 128 + 19440


def test_bytes_by_hand(program):
    moved = {k.instruction.name: k.bytes for k in program.kernels()}
    assert moved["part"] == 2 * 4 * 4 * 8  # of a large input only the slice
    assert moved["many"] == 2 * (32 + 16 + 8)
    assert moved["conv"] == 2 * (2 * 36 * 3 + 5 * 27 + 2 * 36 * 5)  # without cuDNN's workspace
    assert moved["more"] == 2 * 128


def test_gradients_of_a_convolution_count_as_the_convolution():
    line = (
        "  ROOT %g = ({out}{{3,2,1,0}}, u8[8]{{0}}) custom-call(%d, %e), window={{size=3x3}}, "
        'dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn${kind}"\n'
    )

    def flops(kind, first, second, out):
        head = f"ENTRY %main (d: {first}, e: {second}) -> {out} {{\n"
        body = f"  %d = {first}{{3,2,1,0}} parameter(0)\n  %e = {second}{{3,2,1,0}} parameter(1)\n"
        text = head + body + line.format(out=out, kind=kind) + "}\n"
        return hlo.total_flops(hlo.Program(text).kernels())

    maps, kernel, change = "bf16[2,6,6,3]", "bf16[5,3,3,3]", "bf16[2,6,6,5]"
    wanted = 2 * 2 * 36 * 5 * 27
    assert flops("convForward", maps, kernel, change) == wanted
    assert flops("convBackwardInput", change, kernel, maps) == wanted
    assert flops("convBackwardFilter", maps, change, kernel) == wanted


def test_copies_and_collectives_are_found(program):
    assert [made.name for made in program.rearrangements(above=100)] == ["kept", "copied"]
    pair = MODULE.replace("ROOT %copied", "%copied").replace(
        "copy(%kept)",
        "copy(%kept)\n  %both = (f32[8,4]{0,1}) tuple(%copied)\n  %one = f32[8,4]{0,1} "
        "get-tuple-element(%both), index=0\n  ROOT %new = (f32[8,4]{0,1}) tuple(%one)",
    )
    assert [made.name for made in hlo.Program(pair).rearrangements(above=100)] == ["kept"]
    assert program.rearrangements(above=128) == []
    assert program.collectives() == [("all-reduce", 128.0)]


def test_of_a_conditional_one_branch_runs():
    either = MODULE.replace(
        "ROOT %copied = f32[8,4]{0,1} copy(%kept)",
        "%which = pred[] parameter(5)\n  ROOT %either = f32[8,4]{1,0} "
        "conditional(%which, %all, %all), true_computation=%turned, false_computation=%twice",
    ).replace(
        "ENTRY",
        "%twice (n: f32[4,8]) -> f32[8,4] {\n  %n = f32[4,8]{1,0} parameter(0)\n"
        "  %first = f32[4,8]{1,0} all-reduce(%n), replica_groups={{0,1}}, to_apply=%doubled\n"
        "  ROOT %second = f32[8,4]{1,0} transpose(%first), dimensions={1,0}\n}\n\nENTRY",
    )
    program = hlo.Program(either)
    assert [k.instruction.name for k in program.kernels()][-2:] == ["kept", "transpose"]
    assert program.collectives() == [("all-reduce", 128.0)] * 2  # of both
    found = [made.name for made in program.rearrangements(above=100)]
    assert found == ["kept", "transpose", "second"]


def test_a_text_that_is_no_module_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.Program("nothing")


@pytest.mark.parametrize("name", gpu_cards.NAMES)
def test_cards_have_rates_and_memory(name):
    card = gpu_cards.card(name)
    assert 1e12 < card.flops["float32"] <= card.flops["tf32"] <= card.flops["bfloat16"] < 2e15
    assert 1e11 < card.bandwidth < 1e13 and 1e10 < card.memory < 2e11
    assert card.seconds({"bfloat16": card.flops["bfloat16"]}, 0) == 1
    assert card.seconds({}, card.bandwidth) == 1


def test_an_unknown_card_is_named_with_the_choices():
    with pytest.raises(ValueError, match=r"unknown card 'h300'; choose one of \['a100', 'h100'"):
        gpu_cards.card("h300")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--cards=h300", "unknown card 'h300'; choose one of .*, or describe it as one of"),
        ("--only=studen", "unknown program 'studen'; did you mean 'student'"),
        ("--devices=3", r"no program for 3 devices; choose from \[1, 4\]"),
        ("--jobs=0", "--jobs=0; it must be above 0"),
        ("--timeout=nan", "--timeout=nan; it must be above 0"),
    ],
)
def test_what_cannot_be_compiled_is_said_in_a_line(monkeypatch, flag, said):
    monkeypatch.setattr(sys, "argv", ["gpu_check", flag])
    with pytest.raises(SystemExit, match=f"^error: {said}"):
        gpu_check.main()


def test_a_page_without_a_place_for_the_tables_is_said_before_anything_is_compiled(tmp_path):
    for page in (tmp_path / "none.md", tmp_path):
        with pytest.raises(SystemExit, match="lacks the marks"):
            gpu_page.split(page)
    with pytest.raises(SystemExit, match=r"holds no results .*; remove it, or name another"):
        gpu_check.load(tmp_path)


GOOD = {
    "held_bytes": 1e9,
    "alias_bytes": 100,
    "state_bytes": 100,
    "gradient_bytes": 50e6,
    "convolutions": [["b01f_o01i->b01f", "bf16"]],
    "copies": [],
    "collectives": [],
}
CASE = gpu_cases.Case("student", distillers={"dkd": {}})


@pytest.mark.parametrize(
    ("case", "change", "words"),
    [
        (CASE, {}, None),
        (CASE, {"convolutions": [["bf01_oi01->bf01", "bf16"]]}, "not channels-last"),
        (CASE, {"convolutions": [["b01f_o01i->b01f", "bf16/f32"]]}, "not bfloat16"),
        (CASE, {"copies": [["copy.1", 9e6]]}, "1 large copies, copy.1 of 9 MB"),
        (CASE, {"alias_bytes": 50}, "are not donated"),
        (CASE, {"held_bytes": 70e9}, "smaller batch, accumulation or remat"),
        (CASE._replace(devices=4), {}, "average 0.0 MB, and gradients are 50.0 MB"),
        (CASE._replace(devices=4), {"collectives": [["all-reduce", 9e7]]}, "average 90.0 MB"),
        (CASE._replace(devices=4), {"collectives": [["all-reduce", 50.1e6]]}, None),
        (CASE, {"collectives": [["all-gather", 5e6]]}, "no method compares clips"),
        (CASE._replace(distillers={"mgcam": {}}), {"collectives": [["all-gather", 5e6]]}, None),
    ],
)
def test_what_counts_as_a_fault(case, change, words):
    found = gpu_check.faults(case, gpu_cards.card("h100"), GOOD | change)
    assert (words is None) == (not found) and all(words in fault for fault in found)


@pytest.mark.slow
def test_the_installed_jaxlib_knows_every_flag_that_we_give_or_advise(tmp_path):
    """XLA ends a process at the first flag that it does not know."""
    variables = gpu_check.environment(tmp_path / "kernels")
    sources = [*ROOT.glob("jax_irkd/**/*.py"), *ROOT.glob("docs/*.md")]
    advised = {flag for path in sources for flag in re.findall(r"--xla_\w+=\w+", path.read_text())}
    assert "--xla_gpu_enable_triton_gemm=false" in advised
    variables["XLA_FLAGS"] = " ".join([variables["XLA_FLAGS"], *sorted(advised)])
    program = "import jax; jax.devices(); print('alive')"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    assert done.stdout == "alive\n", done.stderr


def test_the_last_words_of_a_compiler():
    said = "W0000 something\nF0000 tiling.cc:627 Check failed: a == b\n*** stack ***\n"
    assert gpu_check.last_words(said, -6).endswith(
        "(exit code -6): F0000 tiling.cc:627 Check failed: a == b"
    )


def test_the_largest_batch_lies_on_the_line():
    small, large = {"clips": 8, "held_bytes": 3e9}, {"clips": 32, "held_bytes": 6e9}
    assert gpu_page.largest_batch(small, large, 12e9) == 80


def result(case: str, clips: int, devices: int = 1, card: str = "h100", **fields) -> dict:
    least = dict.fromkeys(gpu_cards.NAMES, 0.004)
    made = {"card": card, "devices": devices, "case": case, "clips": clips, "faults": []}
    made |= {"held_bytes": 1e9 + 1e8 * clips, "temporary_bytes": 5e8, "kernels": 700}
    return made | {"flops": 1e12, "bytes": 1e10, "least_seconds": least} | fields


def test_the_page_keeps_its_text_and_gets_the_tables(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{gpu_page.BEGIN}\nold\n{gpu_page.END}\nafter\n")
    clips = {"student": 8, "teacher": 16, "baseline": 8, "evaluation of the student": 16}
    rows = [result(case, count) for case, count in clips.items()]
    rows += [result("student, 32 clips", 32), result("teacher, 32 clips", 32)]
    broken = {"card": "a100", "devices": 1, "case": "student", "clips": 8, "faults": ["no kernel"]}
    gpu_page.write(page, [*rows, broken])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n") and "old" not in text
    assert "| a100 | 1 | student | 8 | | | | | | | no kernel |" in text
    assert "| h100 | 1 | teacher | 16 | 2.60 GB | 0.50 GB | 700 | 1,000 | 10.00 | 4.00 ms |" in text
    # 0.1 GB a clip beside 1 GB, and 60 GB that JAX takes of 80.
    assert "| NVIDIA H100 SXM, 80 GB | 4.00 | 4.00 | 4.00 | 4.00 | 4.00 | 590 | 590 |" in text
    # Steps of 4 ms where a GPU kept up with the estimate. Five seeds of NTU: 80 epochs of 420 and
    # ten times 840 steps, 88 evaluations that wait for 16 threads; of PKU-MMD: 120 of 1,177 and
    # ten times 2,355 steps, 132 evaluations. 16 processes read 1,427 clips a second.
    step = 0.004 / gpu_page.SHARE
    ntu = 5 * (80 * (420 + 10 * 840) * step + 88 * 2760 / 326) / 3600
    pku = 5 * (120 * (1177 + 10 * 2355) * step + 132 * 2704 / 326) / 3600
    costs = f"3.00 | {3 * ntu:.0f} USD | {3 * pku:.0f} USD"
    wanted = f"| {ntu:.1f} h | {pku:.1f} h | {costs} | {8 / step:.0f} | 11 |"
    assert f"| NVIDIA H100 SXM, 80 GB {wanted}" in text


def test_an_evaluation_is_bounded_by_the_card_where_that_is_slower_than_its_readers():
    rates = dict.fromkeys(gpu_page.ROLES, 100.0)
    batches, config = dict.fromkeys(gpu_page.RUNS, 8), pku.get_config()
    # Eleven runs of five seeds at 100 clips a second: 120 epochs of 80, twelve evaluations of 50.
    found = gpu_page.table_hours(rates, batches, config, train=87, test=50)
    assert found == pytest.approx(5 * 11 * (120 * 80 + 12 * 50) / 100 / 3600)


def test_no_cuda_wheels_is_said_in_a_line(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs JAX's CUDA wheels: pip install 'jax\[cuda12\]'"):
        gpu_check.check_environment({"h100"})
    with pytest.raises(SystemExit, match="pip install libtpu"):
        gpu_check.check_environment({"v5e"})


def test_every_field_of_a_case_is_one_of_the_configuration():
    for case in gpu_cases.all_cases():
        if case.program != "exported":
            case.config()
    with pytest.raises(KeyError, match=r"no field student_training\.batch"):
        gpu_cases.Case("typo", fields={"student_training.batch": 1}).config()


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None,
    reason="compiling for a GPU needs the CUDA wheels, pip install 'jax[cuda12]'",
)
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_student_and_teacher_compile_for_an_h100(tmp_path):
    path = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--quick", f"--results={path}"]
    subprocess.run(command, cwd=ROOT, check=True)
    found = json.loads(path.read_text())
    assert len(found) == 2 and not any(result["faults"] for result in found.values())
