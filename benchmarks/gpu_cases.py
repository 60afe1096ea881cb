"""What `gpu_check` compiles: every method and option, both networks, training and what follows."""

import ast
import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jax_irkd import distillers
from jax_irkd.configs import demo, ntu
from jax_irkd.training import programs, steps

CLASSES = 10
OURS = {"dkd": {}, "mgcam": {}}
# Options that no list of choices names.
MORE = {"mgcam": {"sigma": ["median"]}, "dkd": {"warmup_epochs": [5.0]}}
SETUPS = {"paper": ntu.get_config, "demo": demo.get_config}


class Case(NamedTuple):
    """A program: an update or an evaluation of a role, or the exported student.

    `fields` are those of the configuration, with dots. Everything but float32 says bfloat16.
    """

    name: str
    program: str = "update"
    role: str = "student"
    distillers: Mapping[str, Mapping[str, Any]] = {}
    fields: Mapping[str, Any] = {}
    devices: int = 1
    setup: str = "paper"
    measure: bool = False  # the pulls of the distillers' terms

    @property
    def relational(self) -> bool:
        """Whether a distiller compares the clips of all devices, and so has to gather them."""
        return any("axis_name" in _fields(name) for name in self.distillers)

    def config(self) -> ConfigDict:
        config = SETUPS[self.setup]()
        config.dtype = "bfloat16"
        with config.unlocked():
            config.distillers = ConfigDict({k: dict(v) for k, v in self.distillers.items()})
        for path, value in self.fields.items():
            *sections, field = path.split(".")
            section = functools.reduce(getattr, sections, config)
            if field not in section:
                raise KeyError(f"case {self.name!r}: the configuration has no field {path}")
            section[field] = value
        return config

    @property
    def clips(self) -> int:
        config = self.config()
        if self.program == "update":
            return config[f"{self.role}_training"].batch_size
        return config.input.eval_batch_size


def _fields(name: str) -> dict[str, dataclasses.Field]:
    kind = distillers.get(name)
    return {f.name: f for f in dataclasses.fields(kind) if f.name not in ("parent", "name")}


def options(name: str) -> dict[str, list]:
    """Every choice of every field of a method but the defaults.

    A field says its choices itself, when it is given a wrong one.
    """
    found = {}
    for field in _fields(name).values():
        if isinstance(field.default, bool):
            found[field.name] = [not field.default]
        if not isinstance(field.default, str):
            continue
        try:
            distillers.get(name)(**{field.name: "?"})
        except ValueError as error:
            choices = ast.literal_eval(str(error).split("choose one of ")[1])
            found[field.name] = [choice for choice in choices if choice != field.default]
    return found | MORE.get(name, {})


def packs(rows: int = 12) -> list[dict[str, dict[str, Any]]]:
    """All options of all methods in so many programs (more where they do not fit together).

    A program has every method at most once, with as many options as go together; what one field
    does is not always seen beside another, so the fields begin in different programs. A program of
    many takes minutes to compile and says little when it fails: the smallest takes the next.
    """
    made: list[dict[str, dict[str, Any]]] = [{} for _ in range(rows)]
    for name in distillers.names():
        for field, choices in options(name).items():
            for choice in choices:
                _place(sorted(made, key=len), made, name, field, choice)
    return [pack for pack in made if pack]


def groups(names: list[str], most: int = 4) -> list[dict[str, dict[str, Any]]]:
    """The methods with their defaults, at most so many in a program."""
    return [{name: {} for name in names[i : i + most]} for i in range(0, len(names), most)]


def _place(order: list[dict], made: list[dict], name: str, field: str, choice: Any) -> None:
    option = {field: choice}
    if (field, choice) == ("vertex", "frame") and "layer" in _fields(name):
        option["layer"] = "stage4"  # frames have to be those of a map
    for pack in order:
        held = pack.get(name, {})
        alone = {"attention", "distance", "sigma"}  # without a graph there are no distances
        clash = field in held or (field in alone and alone & set(held))
        if not clash and _fits(name, held | option):
            pack[name] = held | option
            return
    made.append({name: option})


def _fits(name: str, fields: dict[str, Any]) -> bool:
    try:
        distillers.get(name)(**fields)
    except ValueError:
        return False
    return True


def all_cases() -> list[Case]:
    """In the order of their weight: what users run first comes first."""
    names = distillers.names()
    gathers = [name for name in names if "axis_name" in _fields(name)]
    student, training = "student_training", "student_training.batch_size"
    found = [
        Case("student", distillers=OURS),
        Case("teacher", role="teacher"),
        Case("baseline"),
        Case("student, 32 clips", distillers=OURS, fields={training: 32}),
        Case("teacher, 32 clips", role="teacher", fields={"teacher_training.batch_size": 32}),
        Case("evaluation of the student", "evaluation"),
        Case("evaluation of the teacher", "evaluation", "teacher"),
        Case("student", distillers=OURS, devices=4),
        Case("teacher", role="teacher", devices=4),
        Case("baseline", devices=4),
        Case("student, 32 clips", distillers=OURS, fields={training: 32}, devices=4),
        Case(
            "teacher, 32 clips",
            role="teacher",
            fields={"teacher_training.batch_size": 32},
            devices=4,
        ),
        Case("evaluation of the student", "evaluation", devices=4),
        Case("exported student", "exported"),
        Case("exported student, bf16", "exported", fields={"dtype": "bf16"}),
        Case("exported student, int8", "exported", fields={"dtype": "int8"}),
        Case("student, measuring pulls", distillers=OURS, measure=True),
        Case("demo: student", distillers=OURS, setup="demo"),
        Case("demo: teacher", role="teacher", setup="demo"),
        Case("demo: evaluation", "evaluation", setup="demo"),
        *(
            Case(f"{', '.join(group)}", distillers=group, devices=4)
            for some in (gathers, [name for name in names if name not in gathers])
            for group in groups(some)
        ),
        *(Case(f"options {i + 1}", distillers=pack) for i, pack in enumerate(packs())),
    ]
    changes = {
        "accumulation 4, 32 clips": {training: 32, f"{student}.accumulation": 4},
        "running mean (EMA)": {f"{student}.ema_decay": 0.999},
        "remat, 32 clips": {training: 32, "student_model.remat": True},
        "temporal shift": {"student_model.temporal": "shift", "teacher_model.temporal": "shift"},
        "causal shift": {"student_model.temporal": "causal", "teacher_model.temporal": "causal"},
        "partial batch norm": {"student_model.partial_bn": True},
        "AdamW, clipped": {f"{student}.optimizer": "adamw", f"{student}.clip_norm": 1.0},
        "float32": {"dtype": "float32"},
        "ResNet-34": {"student_model.depth": 34},
    }
    found += [Case(name, distillers=OURS, fields=fields) for name, fields in changes.items()]
    found.append(
        Case("sync_bn", distillers=OURS, fields={"student_model.sync_bn": True}, devices=4)
    )
    return found


def lower(case: Case, devices: list) -> tuple[Any, int, int]:
    """The case's program for `devices`, and the bytes of the state it should give away and of the
    gradients that devices should average."""
    if case.program == "exported":
        function, arguments = exported(case)
        whole = NamedSharding(Mesh(np.asarray(devices), (steps.AXIS,)), PartitionSpec())
        return jax.jit(function, in_shardings=whole).lower(*arguments), 0, 0
    update = functools.partial(programs.update_program, measure=case.measure)
    evaluation = functools.partial(programs.evaluation_program, devices=len(devices))
    make = {"update": update, "evaluation": evaluation}
    made = make[case.program](case.config(), case.role, CLASSES)
    given = [made.arguments[i] for i in made.donate]
    gradients = [state.params for state in given]
    return split_over(devices, made).lower(), _bytes(given), _bytes(gradients)


def _bytes(tree: PyTree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def split_over(devices: list, made: programs.StepProgram):
    """`made` traced for `devices`, batch split and state whole, as `pmap` does it."""
    mesh = Mesh(np.asarray(devices), (steps.AXIS,))
    places = tuple(
        PartitionSpec(steps.AXIS) if i in made.split else PartitionSpec()
        for i in range(len(made.arguments))
    )
    step = jax.shard_map(
        made.step, mesh=mesh, in_specs=places, out_specs=PartitionSpec(), check_vma=False
    )
    arguments = tuple(
        jax.tree.map(
            lambda x, place=place: jax.ShapeDtypeStruct(
                x.shape, x.dtype, sharding=NamedSharding(mesh, place)
            ),
            argument,
        )
        for argument, place in zip(made.arguments, places)
    )
    return jax.jit(step, donate_argnums=made.donate).trace(*arguments)


def exported(case: Case):
    """The program of an `.irkd` file with drawn weights, for 16 clips."""
    from benchmarks._distillation import draw
    from jax_irkd.data.spec import InputSpec
    from jax_irkd.deployment.program import PLATFORMS, WIDEST_WINOGRAD, make_program
    from jax_irkd.training.evaluation import Network
    from jax_irkd.training.setup import make_model

    config = case.config()
    precision = case.fields.get("dtype", "float32")
    model = make_model(config.student_model, CLASSES, "float32")
    inputs = config.input
    size = tuple(config.dataset.infrared_size)
    spec = InputSpec("infrared", inputs.num_segments, size, inputs.resolution, inputs.eval_scale)
    network = Network(model, draw(model, 1, seed=0))
    program = make_program(network, spec, precision, winograd=WIDEST_WINOGRAD)
    clips = jax.ShapeDtypeStruct((inputs.eval_batch_size, *spec.shape), jnp.uint8)
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in program.weights]
    jitted = jax.jit(program.function, keep_unused=True)
    return jax.export.export(jitted, platforms=PLATFORMS)(shapes, clips).call, (shapes, clips)
