"""NVIDIA's GPUs: which of them are this process's."""

from collections.abc import Mapping


def of_this_process(environ: Mapping[str, str]) -> list[int] | None:
    """Which of the GPUs it sees this process takes, by their places; None leaves it to JAX.

    An empty list means all. By itself JAX gives a task of SLURM the GPU of the task's number on its
    host, which is right only where all tasks of a host see all of its GPUs and each takes one: a
    task alone on its host would leave the others idle, one that sees its own GPU only would ask for
    a GPU it does not see.
    """
    if environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    visible = [name for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    hosts, a_task = environ.get("SLURM_STEP_NUM_NODES"), environ.get("SLURM_GPUS_PER_TASK", "")
    alone = hosts is not None and hosts == environ.get("SLURM_NTASKS")
    own = a_task.rpartition(":")[2] == str(len(visible))  # of 2 or a100:2
    return list(range(len(visible))) if alone or own or len(visible) == 1 else None
