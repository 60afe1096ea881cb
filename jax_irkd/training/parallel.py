"""State whole on every device, the batch split: the only file that calls `jax.pmap`."""

from collections.abc import Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree
from ml_collections import ConfigDict

from jax_irkd.errors import UserError
from jax_irkd.host.prefetch import ahead
from jax_irkd.training import steps


def devices_of(config: ConfigDict, clips: int = 0, parts: int = 1) -> list[jax.Device]:
    """This process's devices.

    Raises UserError when so many `clips` cannot be split over the devices of all processes, and
    there into so many `parts` (`accumulation`), or `num_devices` is a number that cannot be had.
    """
    local = jax.local_devices()
    if config.num_devices > len(local):
        raise UserError(f"num_devices={config.num_devices}, but {len(local)} devices are here")
    if jax.process_count() > 1 and 0 < config.num_devices < len(local):
        raise UserError(
            f"num_devices={config.num_devices}, but each of {jax.process_count()} processes takes "
            f"all {len(local)} devices it sees; show each fewer with CUDA_VISIBLE_DEVICES, or "
            "leave num_devices at 0"
        )
    local = local[: config.num_devices or None]
    total = len(local) * jax.process_count()
    if clips % (total * parts):
        cut = f" in {parts} parts each" if parts > 1 else ""
        less = "a smaller accumulation, " if parts > 1 else ""
        raise UserError(
            f"a batch of {clips} clips cannot be divided by {total} devices{cut}; choose a "
            f"multiple of {total * parts}, {less}or fewer devices with --config.num_devices"
        )
    return local


def on_devices(step, devices, *, in_axes, donate=()):
    """`step` on every device: state whole on each, batch split.

    With several processes pmap takes all devices, and hands back arrays that it must not be given
    as donations again.
    """
    alone = jax.process_count() == 1
    return jax.pmap(
        step,
        axis_name=steps.AXIS,
        in_axes=in_axes,
        out_axes=None,
        donate_argnums=donate if alone else (),
        devices=list(devices) if alone else None,
    )


def replicate(tree: PyTree, devices: list[jax.Device]) -> PyTree:
    """`tree` whole on every device: given as it is, pmap would copy it there at every call."""
    return jax.device_put(tree, _sharding(devices))


def _sharding(devices: Sequence[jax.Device], *axes: str) -> NamedSharding:
    """How an array lies on `devices`: cut along its first axis, or without one whole on each."""
    return NamedSharding(Mesh(np.asarray(devices), (steps.AXIS,)), PartitionSpec(*axes))


def split(batch: PyTree, devices: int) -> PyTree:
    """The leading axis of every array cut into one part a device."""
    return jax.tree.map(lambda x: x.reshape(devices, x.shape[0] // devices, *x.shape[1:]), batch)


def placed(
    batches: Iterable[dict], devices: Sequence[jax.Device]
) -> Iterator[tuple[list[str], PyTree]]:
    """The names of a batch's clips, and the batch cut for `devices`.

    Where the GPUs or TPUs of one process compute it lies there already, two steps before its turn:
    copies wait for what has been started on the device, so that one made for the next step alone
    would hold it up. With several processes, and on CPUs, it stays where it is until its step.
    """

    def cut() -> Iterator[tuple[list[str], PyTree]]:
        for batch in batches:
            names = batch.pop("clip_id").tolist()
            yield names, split(batch, len(devices))

    if _share_memory(devices) or jax.process_count() > 1:
        return cut()
    parts = _sharding(devices, steps.AXIS)
    return ahead(((names, jax.device_put(batch, parts)) for names, batch in cut()), depth=1)


def _share_memory(devices: Sequence[jax.Device]) -> bool:
    """Whether the devices compute where the batches are."""
    return devices[0].platform == "cpu"


def any_process(flag: bool) -> bool:
    """Whether `flag` holds in any process; all of them have to ask."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array([flag]))))


def gather_names(names: np.ndarray) -> np.ndarray:
    """Clip ids of all processes, in the order in which the devices hold the clips."""
    if jax.process_count() == 1:
        return names
    codes = np.char.encode(names)
    # Whole ids, of any script: as wide as the longest one of all processes, in steps of 128 bytes.
    longest = multihost_utils.process_allgather(np.array([codes.dtype.itemsize]))
    width = 128 * max(1, -(-int(np.max(longest)) // 128))
    columns = codes.astype(f"S{width}").view(np.uint8).reshape(len(names), width)
    gathered = np.asarray(multihost_utils.process_allgather(columns, tiled=True))
    return np.char.decode(np.ascontiguousarray(gathered).view(f"S{width}")[:, 0])
