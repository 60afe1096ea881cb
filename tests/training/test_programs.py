"""Programs made from shapes alone, and all of them lowered for CUDA, where none of it can run."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu_cases
from jax_irkd import distillers
from jax_irkd.data import loading
from jax_irkd.inspection import compilation
from jax_irkd.models import resnet
from jax_irkd.models.outputs import Outputs
from jax_irkd.training import evaluation, programs, setup, steps
from jax_irkd.training.loop import Trainer
from jax_irkd.training.phase import Network
from tests.helpers import fakes


@pytest.fixture(autouse=True)
def shallow(monkeypatch):
    """Two networks of depth 10 and narrow: tracing takes time with every layer."""
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.BasicBlock, (1, 1, 1, 1)))


def small(**fields):
    config = gpu_cases.Case("small", distillers=gpu_cases.OURS).config()
    config.input.resolution, config.input.num_segments = 32, 2
    config.dataset.rgb_size, config.dataset.infrared_size = (40, 48), (40, 44)
    for model in (config.teacher_model, config.student_model):
        model.depth, model.width = 10, 8
    for name, value in fields.items():
        config.student_training[name] = value
    return config


def for_cuda(made: programs.StepProgram, devices: int = 2) -> str:
    """The program over virtual devices, as StableHLO for CUDA."""
    traced = gpu_cases.split_over(jax.devices()[:devices], made)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def convolved_types(text: str) -> list[str]:
    """The types of both operands of every convolution."""
    found = re.findall(r"stablehlo\.convolution.*: \(tensor<\S*x(\w+)>, tensor<\S*x(\w+)>\)", text)
    return [kind for pair in found for kind in pair]


def scattered_sizes(text: str) -> list[int]:
    """How many numbers the result of every scatter holds, where it may add to one of them twice."""
    sizes = []
    for part in text.split('"stablehlo.scatter"')[1:]:
        if "unique_indices = true" not in part.split("}>")[0]:
            shape = re.search(r"\}\) : .*?-> tensor<(\S+?)x[a-z]\w*>", part).group(1)
            sizes.append(math.prod(map(int, shape.split("x"))))
    return sizes


@pytest.mark.slow
def test_updates_for_cuda_convolve_in_bfloat16_and_give_the_state_away():
    config = small(ema_decay=0.9, accumulation=2)
    config.student_model.update(remat=True, sync_bn=True, temporal="shift")
    made = programs.update_program(config, "student", 3)
    text = for_cuda(made)
    types = convolved_types(text)
    assert len(types) > 60 and set(types) == {"bf16"}
    given = len(jax.tree.leaves(made.arguments[0]))
    assert len(re.findall(r"jax\.buffer_donor|tf\.aliasing_output", text)) == given
    assert "stablehlo.all_reduce" in text and "stablehlo.all_gather" in text


@pytest.mark.slow
def test_what_is_rarely_asked_for_lowers_at_odd_sizes(monkeypatch):
    monkeypatch.setitem(resnet.BLOCKS, 10, (resnet.Bottleneck, (1, 1, 1, 1)))
    config = small(batch_size=6, extra_clips=12, class_weights="balanced", label_smoothing=0.1)
    config.distillers = {"dkd": {}}
    config.student_training.update(optimizer="adamw", clip_norm=1.0)
    config.student_model.update(frozen="stage1", temporal="causal")
    config.input.update(num_segments=3, resolution=72, mixup=0.2, cutmix=1.0, erasing=0.25)
    config.input.update(colour_jitter=0.4, hue_jitter=0.1, grey_share=0.2, eval_batch_size=9)
    config.eval.update(clips=2, crops=10)
    measuring = programs.update_program(config, "student", 3, measure=True)
    for made in (measuring, programs.evaluation_program(config, "teacher", 3, 3)):
        traced = gpu_cases.split_over(jax.devices()[:3], made)
        for platform in ("cuda", "tpu"):
            text = traced.lower(lowering_platforms=(platform,)).as_text()
            assert set(convolved_types(text)) == {"bf16"}, platform


@pytest.mark.slow
def test_a_network_alone_gathers_nothing():
    text = for_cuda(programs.update_program(small(), "teacher", 3))
    assert "stablehlo.all_reduce" in text and "stablehlo.all_gather" not in text


def test_evaluation_for_cuda_gathers_scores_only():
    text = for_cuda(programs.evaluation_program(small(), "student", 3))
    gathered = re.findall(r'"stablehlo\.all_gather".*?-> tensor<(\S+)>', text, re.DOTALL)
    assert sorted(gathered) == ["16x3xf32", "16xf32", "16xi32", "16xi32"]


def outputs(channels: int) -> Outputs:
    """What a network gives for four clips of two frames of 32 pixels."""
    maps = {
        f"stage{i + 1}": jnp.zeros((4, 2, 8 // 2**i, 8 // 2**i, channels * 2**i), jnp.bfloat16)
        for i in range(4)
    }
    maps |= {f"{stage}_preact": values for stage, values in maps.items()}
    maps["stem"] = jnp.zeros((4, 2, 16, 16, channels), jnp.bfloat16)
    return Outputs(jnp.zeros((4, 3)), maps | {"pooled": jnp.zeros((4, 8 * channels))})


LEARNED = {"ccskd", "fitnet", "fsp", "ofd", "reviewkd", "simkd", "vid"}  # with layers always
PACKS = [{name: {}} for name in distillers.names()] + gpu_cases.packs()


@pytest.mark.slow
@pytest.mark.parametrize("pack", PACKS, ids=str)
def test_every_method_and_option_exports_for_cuda_and_learns_in_bfloat16(pack):
    student, teacher = outputs(4), outputs(16)
    made = {name: distillers.get(name)(**fields) for name, fields in pack.items()}
    labels, epoch = jnp.zeros(4, jnp.int32), jnp.ones(())
    variables = {
        name: jax.eval_shape(
            functools.partial(steps.alone(one).init, epoch=epoch),
            jax.random.key(0),
            student,
            teacher,
            labels,
        )
        for name, one in made.items()
    }

    def loss(student, variables):
        total = 0.0
        for name, one in made.items():
            terms, _ = one.apply(
                variables[name],
                student,
                teacher,
                labels,
                epoch=epoch,
                mutable=["batch_stats", "diagnostics"],
            )
            total += sum(terms.values())
        return total

    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=["cuda"])(student, variables)
    text = exported.mlir_module()
    assert exported.platforms == ("cuda",) and len(text) > 1000
    types = convolved_types(text)
    assert set(types) <= {"bf16"} and len(types) >= 6 * len(LEARNED & set(pack))
    # One over maps adds its numbers one by one on a GPU, in another order every time.
    assert all(size <= 8 * 8 for size in scattered_sizes(text)), "more than pairs of frames"


def test_every_choice_of_every_method_is_in_a_pack():
    wanted = {
        (name, field, choice)
        for name in distillers.names()
        for field, choices in gpu_cases.options(name).items()
        for choice in choices
    }
    packed = {
        (name, *option)
        for pack in gpu_cases.packs()
        for name, fields in pack.items()
        for option in fields.items()
    }
    assert ("mgcam", "attention", "identity") in wanted and ("sp", "vertex", "frame") in wanted
    assert wanted <= packed


@pytest.mark.slow
def test_shapes_are_those_of_the_loop(tmp_path):
    config = fakes.config("st")
    distilled = {"distillers": setup.make_distillers(config.distillers), "teacher": fakes.teacher()}
    trainer = Trainer(fakes.phase(config, **distilled), config, fakes.dataset(), tmp_path)
    batches = loading.training_batches(
        trainer.reader, seed=0, batch_size=6, first_step=0, process=(0, 1), threads=1
    )
    batch = next(iter(batches))
    del batch["clip_id"]
    _, _, shapes, _ = programs.update_program(config, "student", 3).arguments
    assert jax.tree.map(lambda x: (x.shape, x.dtype), batch) == jax.tree.map(
        lambda x: (x.shape, x.dtype), shapes
    )


def flat(batch: dict) -> dict:
    clips, *_ = batch["clips"].values()
    return batch | {"clips": clips}


class Given(Exception):
    """What an evaluation gave its program first."""


@pytest.mark.parametrize(
    ("views", "batch", "devices"), [(1, 16, 4), (10, 16, 4), (1, 6, 4), (1, 2, 4), (3, 8, 2)]
)
def test_doctor_compiles_the_evaluation_that_the_run_makes(views, batch, devices, monkeypatch):
    def first(variables, given):
        raise Given({name: x.shape for name, x in flat(given).items()})

    config = fakes.config(batch_size=8)
    config.student_model.depth = config.teacher_model.depth = 10
    config.eval.clips, config.input.eval_batch_size, config.num_devices = views, batch, devices
    monkeypatch.setattr(evaluation, "_eval_on", lambda *arguments: first)
    reader = setup.make_reader(config, fakes.dataset(), "test", ("infrared",))
    with pytest.raises(Given) as run:
        evaluation.evaluate(Network(fakes.TinyModel(), {}), config, reader)
    compiled = []
    monkeypatch.setattr(programs, "update_program", lambda *given, measure: None)
    monkeypatch.setattr(programs, "memory_of", lambda made, here: compiled.append(made) or 0.0)
    assert all(found.good for found in compilation.compile_programs(config))
    made = next(one for one in compiled if one and "infrared" in one.arguments[1]["clips"])
    assert run.value.args[0] == {
        name: (devices, x.shape[0] / devices, *x.shape[1:])
        for name, x in flat(made.arguments[1]).items()
    }


def test_memory_of_a_program_holds_its_arguments():
    config = small()
    config.dtype, config.student_model.width = "float32", 4
    made = programs.evaluation_program(config, "student", 3, 2)
    held = programs.memory_of(made, jax.devices()[:2])
    variables, batch = (
        sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(argument))
        for argument in made.arguments
    )
    assert variables + batch / 2 < held < 50 * (variables + batch)
