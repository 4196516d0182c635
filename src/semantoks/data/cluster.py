"""A Dask cluster that is there already, and works instead of this machine."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, Self

import cloudpickle

from semantoks.data.processes import ALONE, call_packed
from semantoks.data.work import Failed, Job, Lost, Result, WorkInterruptedError
from semantoks.errors import InputError

_CONNECT_SECONDS: Final = 30
_COUNT_SECONDS: Final = 10
"""How often the workers are counted; they come and go."""
_LEAST_WINDOW: Final = 64
"""Jobs that are given to a cluster without workers: clusters that adapt start some for them."""


class _Task(NamedTuple):
    """A job on its way, packed, and whether it was with workers when they ended."""

    number: int
    packed: bytes
    suspected: bool = False


class Cluster(Generic[Job, Result]):
    """Work on a cluster, and outlive the end of its workers.

    The scheduler gives the jobs of a worker that has ended to others. A job that was with too many
    of them (Dask's allowed-failures) is done once more when all others rest, since it need not be
    the cause; if its worker ends then, too, it is given up.
    """

    def __init__(self, function: Callable[[Job], Result], address: str) -> None:
        self._client = _connect(address)
        self._address = address
        self._function = cloudpickle.dumps(function)
        self._n_threads = 0
        self._counted = float("-inf")
        self._running: dict[str, tuple[Any, _Task]] = {}
        self._suspects: deque[_Task] = deque()
        self._waiting: deque[_Task] = deque()

    @property
    def window(self) -> int:
        """How many jobs may be under way or wait for their turn."""
        if time.monotonic() > self._counted + _COUNT_SECONDS:
            self._counted = time.monotonic()
            self._n_threads = sum(self._client.nthreads().values())
        return max(_LEAST_WINDOW, 4 * self._n_threads)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # A scheduler that is gone needs no farewell.
        with contextlib.suppress(OSError, TimeoutError):
            self._client.cancel([future for future, _ in self._running.values()], force=True)
        self._running.clear()
        with contextlib.suppress(OSError, TimeoutError):
            self._client.close()

    def submit(self, number: int, job: Job) -> None:
        """Take a job."""
        self._waiting.append(_Task(number, cloudpickle.dumps(job)))

    def collect(self) -> list[tuple[int, Result | Lost | Failed]]:
        """Wait until something is done."""
        from distributed import KilledWorker, wait

        done: list[tuple[int, Result | Lost | Failed]] = []
        while not done:
            self._hand_out()
            try:
                futures = [future for future, _ in self._running.values()]
                with self._client.as_current():
                    ended = wait(futures, return_when="FIRST_COMPLETED").done  # type: ignore[no-untyped-call]
                finished = [future for future in ended if future.status == "finished"]
                results = self._client.gather(finished)
            except KilledWorker:
                # A worker has ended between its result and our fetching it: look again.
                continue
            except (CancelledError, OSError, TimeoutError) as error:
                raise self._interrupted() from error
            for future, result in zip(finished, results, strict=True):
                done.append((self._running.pop(future.key)[1].number, result))
            for future in ended.difference(finished):
                if future.status == "cancelled":
                    raise self._interrupted()
                # What is neither was with a worker that has ended just now: it is done again.
                if future.status == "error":
                    done += self._fail(*self._running.pop(future.key))
        return done

    def _hand_out(self) -> None:
        """Give all jobs to the scheduler, but a suspected one only when no other is there."""
        if self._suspects and not self._running:
            self._start(self._suspects.popleft())
        elif not self._suspects and not self._alone:
            while self._waiting:
                self._start(self._waiting.popleft())

    @property
    def _alone(self) -> bool:
        """Whether what is running must have no other beside it."""
        return any(task.suspected for _, task in self._running.values())

    def _start(self, task: _Task) -> None:
        """Give a job to the scheduler."""
        future = self._client.submit(call_packed, self._function, task.packed, pure=False)
        self._running[future.key] = (future, task)

    def _fail(self, future: Any, task: _Task) -> list[tuple[int, Result | Lost | Failed]]:
        """Give up what ended its worker alone, keep what did so among others, raise the rest."""
        from distributed import KilledWorker

        error = future.exception()
        if not isinstance(error, KilledWorker):
            if isinstance(error, ModuleNotFoundError):
                raise InputError(
                    f"a worker of the cluster at {self._address} lacks {error.name!r}. Install the "
                    "same version of semantoks there as here."
                ) from error
            return [(task.number, Failed(error))]
        if task.suspected:
            reason = f"all workers of the cluster that worked on it ended, at last {ALONE}"
            return [(task.number, Lost(reason))]
        self._suspects.append(task._replace(suspected=True))
        return []

    def _interrupted(self) -> WorkInterruptedError:
        """Say that the cluster is gone."""
        return WorkInterruptedError(
            f"the scheduler at {self._address} is gone, or has cancelled the work. Start it again "
            "and run the same command: it goes on from what is done."
        )


def _connect(address: str) -> Any:
    """Connect to a scheduler."""
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "work on a cluster needs Dask, which is not installed: "
            "pip install 'semantoks[cluster]'."
        ) from error
    file, where = Path(address), {"address": address}
    try:
        if file.suffix == ".json":
            if not file.is_file():
                raise InputError(f"there is no scheduler file {file}. Is the scheduler running?")
            where["scheduler_file"] = where.pop("address")
        return Client(**where, timeout=_CONNECT_SECONDS, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"no Dask scheduler answers at {address} ({error}). Give the address that "
            "`dask scheduler` prints, such as tcp://node17:8786, or its --scheduler-file."
        ) from error
