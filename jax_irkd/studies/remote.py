"""A run of a study on another machine: what is sent there, and what comes back.

Sent are the command and the folders; the machine has the same file system and the same Python. The
log lies where a run on this host has it.
"""

import os
import signal
import time
from pathlib import Path

from jax_irkd.host.interrupts import INTERRUPTED
from jax_irkd.studies import attempts
from jax_irkd.studies.attempts import STOPPED, Attempt
from jax_irkd.studies.planning import PlannedRun

POLL_S = 0.2


class Errand:
    """Carries out one run where it is called; its attempts, those of before it was requeued first.

    The file `stop` tells it to save and end. `requeues`: under submitit, a run that saved and ended
    of its own (exit code 75: the cluster told it to) goes back into the queue, and so does one that
    submitit was told to hand back (`checkpoint`).
    """

    def __init__(
        self,
        task: PlannedRun,
        stop: Path,
        requeues: bool,
        before: tuple[Attempt, ...] = (),
        folder: str = "",
    ):
        # Whoever carries it out may be in another folder.
        self.task = task._replace(folder=task.folder.absolute())
        self.stop, self.requeues, self.before = stop.absolute(), requeues, before
        self.folder = folder or os.getcwd()  # where the study was started
        self._child: attempts.Child | None = None
        self._attempt: Attempt | None = None

    def __call__(self) -> list[Attempt]:
        self._child = attempts.start(self.task, folder=self.folder)
        asked = False
        while not self._has_ended(asked):
            if not asked and self.stop.exists():
                asked = True
                attempts.tell(self._child, signal.SIGTERM)
            time.sleep(POLL_S)
        if self.requeues and not asked and self._attempt["exit_code"] == INTERRUPTED:
            _ask_to_be_requeued()
        return [*self.before, self._attempt]

    def _has_ended(self, asked: bool, wait: bool = False) -> bool:
        """Whether the run has; between its end and our note of it no signal is heard."""
        if self._attempt is None:
            heard = signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.valid_signals()))
            try:
                self._attempt = attempts.ended(self._child, asked)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, heard)
        while wait and self._attempt is None:
            time.sleep(POLL_S)
            self._has_ended(asked)
        return self._attempt is not None

    def checkpoint(self):
        """What submitit puts into the queue again: the run saves, and goes on from there."""
        from submitit.helpers import DelayedSubmission

        before = self.before
        if self._child is not None:
            attempts.tell(self._child, signal.SIGTERM)
            self._has_ended(asked=True, wait=True)
            before = (*before, self._attempt | {"state": STOPPED, "reason": "requeued"})
        return DelayedSubmission(Errand(self.task, self.stop, self.requeues, before, self.folder))

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_child": None, "_attempt": None}


def _ask_to_be_requeued() -> None:
    """As the cluster does before it takes the machine away; submitit hears it and ends us."""
    from submitit.core.job_environment import JobEnvironment

    os.kill(os.getpid(), getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))
    time.sleep(1.0)  # the signal is heard in here
