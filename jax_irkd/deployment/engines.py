"""What a network can be run by: JAX, onnxruntime, OpenVINO; which one is taken, and how it is told.

`compiled` makes a program of an ONNX model, whatever its inputs and outputs are: a clip's or a
frame's. JAX runs what it always ran, the Flax model of a run or the StableHLO of an `.irkd` file.
"""

import functools
import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from typing import Any, Protocol

import numpy as np

from jax_irkd.deployment.choices import ENGINES
from jax_irkd.errors import UserError, nearest, once
from jax_irkd.host import processor
from jax_irkd.host.devices import cache_folder

NAMES = {"TensorrtExecutionProvider": "TensorRT", "CUDAExecutionProvider": "CUDA"}


class Compiled(Protocol):
    """A program in an engine. `name` says which, its version and what it computes on."""

    name: str

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """The outputs in the model's order, of the inputs in the model's order."""
        ...


def choose(engine: str, *, onnx_file: bool = False) -> str:
    """jax, onnxruntime or openvino. Raises UserError for one that is unknown or missing.

    `auto` takes the first that is installed: for an `.onnx` file on a GPU onnxruntime, else JAX on
    a GPU, else OpenVINO on x86 and then onnxruntime, then JAX. docs/performance.md has the times
    behind this order. `onnx_file` says that the program is there already, as ONNX.
    """
    check(engine)
    if engine == "auto":
        return _best(onnx_file)
    if engine == "jax":
        if onnx_file:
            raise UserError(
                "--engine=jax cannot run an .onnx file; export the run as .irkd, or take "
                "--engine=onnxruntime or openvino"
            )
        return engine
    missing = _missing(engine, onnx_file)
    if missing:
        raise UserError(
            f"--engine={engine} needs {' and '.join(missing)}, not installed here: pip install "
            f"{' '.join(missing)}"
        )
    return engine


def check(engine: str) -> None:
    """Raises UserError for an engine that there is not."""
    if engine not in ENGINES:
        raise UserError(f"unknown engine {engine!r}{nearest(engine, ENGINES)}")


def _best(onnx_file: bool) -> str:
    order = ["openvino", "onnxruntime"] if _is_x86() else ["onnxruntime", "openvino"]
    if _gpu_providers():
        order = ["onnxruntime"]
    if not onnx_file and _jax_has_gpu():
        return "jax"
    found = [engine for engine in order if not _missing(engine, onnx_file)]
    if found:
        return found[0]
    if not onnx_file:
        return "jax"
    raise UserError("an .onnx file needs an engine: pip install onnxruntime (or openvino)")


def _missing(engine: str, onnx_file: bool) -> list[str]:
    """The packages that have to be installed first, by pip's names.

    `onnx` writes the program where a file or a run does not hold it.
    """
    packages = [engine, *([] if onnx_file else ["onnx"])]
    return [name for name in packages if not _is_there(name)]


def _is_there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ValueError:  # None in sys.modules: somebody forbids it
        return False


def _is_x86() -> bool:
    return platform.machine().lower() in ("x86_64", "amd64", "i686", "i386")


def _jax_has_gpu() -> bool:
    import jax

    return jax.default_backend() != "cpu"


def _gpu_providers() -> list[str]:
    if not _is_there("onnxruntime"):
        return []
    import onnxruntime

    return [name for name in onnxruntime.get_available_providers() if name in NAMES]


def jax_name() -> str:
    """How JAX is called among the engines."""
    import jax

    return f"JAX {jax.__version__} on {jax.default_backend()}"


def compiled(model: bytes, engine: str, precision: str = "float32") -> Compiled:
    """The ONNX model in `engine`, onnxruntime or openvino. Raises what the engine raises.

    `precision` is the file's: OpenVINO computes bf16 and fp16 files so where the processor can,
    TensorRT likewise; a note says where a processor lacks what makes a precision quick.
    """
    return {"onnxruntime": OnnxRuntime, "openvino": OpenVino}[engine](model, precision)


class OnnxRuntime:
    """By onnxruntime: TensorRT or CUDA where it was built with them, else all cores we may use."""

    def __init__(self, model: bytes, precision: str):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = processor.cores()
        options.log_severity_level = 3  # errors
        # Without VNNI the quick products of 8-bit numbers saturate at 16 bits, in silence.
        options.add_session_config_entry("session.x64quantprecision", "1")
        providers = [(name, _provider_options(name, precision)) for name in _gpu_providers()]
        self._session = onnxruntime.InferenceSession(
            model, options, providers=[*providers, "CPUExecutionProvider"]
        )
        used = self._session.get_providers()[0]
        self.name = f"onnxruntime {onnxruntime.__version__} on {NAMES.get(used, 'cpu')}"
        if used not in NAMES:
            _note(precision, quick=precision == "int8")
        self._inputs = [value.name for value in self._session.get_inputs()]

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        return self._session.run(None, dict(zip(self._inputs, inputs, strict=True)))


def _provider_options(provider: str, precision: str) -> dict[str, Any]:
    if provider != "TensorrtExecutionProvider":
        return {}
    options: dict[str, Any] = {
        "trt_fp16_enable": precision == "fp16",
        "trt_int8_enable": precision == "int8",
    }
    cache = cache_folder()
    if cache is not None:  # Building an engine takes minutes.
        options |= {"trt_engine_cache_enable": True, "trt_engine_cache_path": str(cache / "trt")}
    return options


class OpenVino:
    """By OpenVINO on the CPU, compiled for each batch size that comes."""

    def __init__(self, model: bytes, precision: str):
        self._model = _core().read_model(model=model)
        can = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        half = {"bf16": "BF16", "fp16": "FP16"}.get(precision, "")
        hint = {"BF16": "bf16", "FP16": "f16"}[half] if half in can else "f32"
        self._options = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": processor.cores(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        version = importlib.metadata.version("openvino")
        self.name = f"OpenVINO {version} on cpu"
        _note(precision, quick=precision == "int8" or hint != "f32")
        self._programs: dict[tuple, Any] = {}

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        shapes = tuple(value.shape for value in inputs)
        if shapes not in self._programs:
            model = self._model.clone()
            model.reshape(dict(enumerate(map(list, shapes))))
            self._programs[shapes] = _core().compile_model(model, "CPU", self._options)
        found = self._programs[shapes](list(inputs))
        return [np.array(found[place]) for place in range(len(found))]


@functools.cache
def _core() -> Any:
    """OpenVINO itself, one for the life of the process.

    On some processors each gives its thread a stack of its own for signals. When two go in the
    order they came, the second puts the first one's back, which is gone: the next Ctrl-C or
    SIGTERM would be a segmentation fault.
    """
    return _openvino().Core()


def _openvino() -> Any:
    """The package, without the message to its makers that importing it sends.

    A forked copy of this process would send it, and JAX's threads do not survive a fork.
    """
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    name = "openvino_telemetry"
    held = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # an import then fails, as is wanted
    try:
        return importlib.import_module("openvino")
    finally:
        del sys.modules[name]
        if held is not None:
            sys.modules[name] = held


def _note(precision: str, quick: bool) -> None:
    """Says once where a precision brings no speed on this processor."""
    if precision == "float32":
        return
    found = processor.features(precision)
    if found == []:
        wanted = ", ".join(processor.FEATURES[precision])
        once(
            f"this processor has none of {wanted}: {precision} may be slower than float32 here; "
            "python -m jax_irkd.bench_student compares files"
        )
    elif not quick:
        once(f"this engine computes {precision} files in float32 on CPUs")
