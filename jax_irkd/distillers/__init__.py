"""One file per distillation method: its pure losses and a linen module `Distiller`.

`get("sp")` finds `sp.py` in this folder; a leading underscore hides a helper. A name
with a dot is a module of your own, anywhere on `sys.path`: `get("my_package.my_method")`.
A new method is one new file; nothing is registered. Its `Distiller` derives from `_method.Method`,
which makes the teacher a constant, and writes `terms` (or from `StageMethod`, and writes `stage`);
its loss is prepared by `_inputs.takes` and ended by `_reduction.reduce`.

Every `Distiller` has hyper-parameters as fields (`weight` and, where clips are compared
with each other, `axis_name` included) and one call:

    terms = distiller.apply(variables, student, teacher, labels, epoch=epoch, mutable=...)

- `student` and `teacher` are `Outputs`; the teacher gets no gradient. `labels` is `int b`, or a
  distribution over the classes for every clip where the method allows it.
- `epoch` is optional and keyword-only: the current epoch as a float, counted from 1 as in
  the official code (floor(step / steps_per_epoch) + 1). Only a warm-up (`dkd`) or a
  schedule (`ccskd`) reads it; with one of these switched on, leaving it out is an error.
- The result is a dict of weighted float32 scalars. The loss is their sum: every term counts.
- A `share` in a configuration is no field of the module: the training step multiplies what the
  module returns (`jax_irkd.training.balance`). Fields it would undo are named in `without_share`.
- Learnable parts (`ccskd`, `cc` with `form="embedding"`, `mgcam` with
  `activation="conv1x1"`, `fitnet`) live in the collections `params` and `batch_stats`. Batch norm
  always uses the statistics of the batch, synchronised over `axis_name`.
- What is worth logging but no part of the loss is sown into the collection `diagnostics`
  (a tuple with one scalar per name); name it in `mutable` to receive it.
- A method that compares clips gathers them over `axis_name` first. The mean of the
  per-device gradients is then the gradient of the one-device loss. Initialise with
  `distiller.clone(axis_name=None)`: there is no axis outside pmap.
"""

import importlib
import pkgutil


def names() -> list[str]:
    """The methods of this folder, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


def get(name: str) -> type:
    """The class `Distiller` of a method.

    Raises ValueError for a name that is neither one of `names()` nor the dotted path of a
    module with a class `Distiller`.
    """
    if name in names():
        return importlib.import_module(f"{__name__}.{name}").Distiller
    if "." not in str(name):
        raise ValueError(f"unknown distiller {name!r}; choose one of {names()}")
    return _from_path(name)


def _from_path(name: str) -> type:
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # the module exists; something it imports does not
        raise ValueError(
            f"unknown distiller {name!r}; there is no such module on sys.path "
            f"(missing: {error.name!r}); choose one of {names()} or give the dotted path "
            "of a module with a class Distiller"
        ) from error
    if not hasattr(module, "Distiller"):
        raise ValueError(
            f"unknown distiller {name!r}; the module has no class Distiller; "
            f"choose one of {names()} or add the class"
        )
    return module.Distiller
