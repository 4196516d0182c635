"""Parallel work: the same function over many jobs, in this process, in others, or on a cluster."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager
from itertools import chain
from multiprocessing.connection import Connection, wait
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, Protocol, Self, TypeVar

import cloudpickle

from semantoks.errors import ConfigurationError, InputError

# Jobs are taken one by one, and what came of them is given back in their order. At any time only a
# few are under way or wait for their turn, so that memory does not grow with their number.

Job = TypeVar("Job")
Result = TypeVar("Result")
JobIn = TypeVar("JobIn", contravariant=True)

PATIENCE: Final = 1.0
"""Seconds that this process works alone before it starts others, which takes as long."""


class Lost(NamedTuple):
    """A job that has ended the process that worked on it, twice."""

    reason: str


class Failed(NamedTuple):
    """A job that the function has raised an error for."""

    error: Exception


class WorkInterruptedError(InputError):
    """Work was broken off for reasons that lie outside of it; what is done may be kept."""


class Crew(Protocol[JobIn, Result]):
    """Those who do the work."""

    @property
    def window(self) -> int:
        """How many jobs may be under way or wait for their turn."""

    def submit(self, number: int, job: JobIn) -> None:
        """Take a job."""

    def collect(self) -> list[tuple[int, Result | Lost | Failed]]:
        """Wait until something is done."""


def work(
    function: Callable[[Job], Result],
    jobs: Iterable[Job],
    *,
    workers: int | None = 1,
    scheduler: str | None = None,
    patience: float = PATIENCE,
) -> Generator[Result | Lost]:
    """Call a function on many jobs, and give back what it returns in their order.

    A process that is killed is replaced, and its job is done again when no other is under way, so
    that neither memory nor another job can be the cause. If that ends the process, too, the job is
    given up.

    Examples
    --------
    >>> list(work(abs, [-1, 2, -3]))
    [1, 2, 3]
    """
    check_workers(workers, scheduler)
    jobs = iter(jobs)
    if scheduler is not None:
        yield from _with(Cluster(function, scheduler), jobs)
        return
    n_workers = available_cores() if workers is None else workers
    alone = float("inf") if n_workers == 1 else patience if workers is None else -1.0
    yield from _here(function, jobs, seconds=alone)
    # Without a job left, no process is started.
    for job in jobs:
        yield from _with(Processes(function, n_workers), chain([job], jobs))


def check_workers(workers: object, scheduler: str | None) -> None:
    """Refuse what does not say who does the work."""
    if workers is None:
        return
    if isinstance(workers, bool) or not isinstance(workers, Integral) or workers < 1:
        raise ConfigurationError(
            f"workers is {workers!r}; it is the number of processes, at least 1. Leave it out "
            "(None) for one a core."
        )
    if scheduler is not None and workers != 1:
        raise ConfigurationError(
            f"{workers} processes of this machine (workers, --workers) and the cluster at "
            f"{scheduler} (scheduler, --scheduler) are both asked for; choose one."
        )


def available_cores() -> int:
    """Count the cores that this process may use."""
    import joblib

    return int(joblib.cpu_count())


def _here(
    function: Callable[[Job], Result], jobs: Iterator[Job], *, seconds: float
) -> Iterator[Result]:
    """Work in this process for some seconds, or until all is done."""
    from threadpoolctl import threadpool_limits

    began = time.monotonic()
    while time.monotonic() - began < seconds:
        for job in jobs:
            # As many threads as in the other processes: sums may depend on it in the last bit.
            with threadpool_limits(1):
                result = function(job)
            yield result
            break
        else:
            return


def _with(
    crew: AbstractContextManager[Crew[Job, Result]], jobs: Iterator[Job]
) -> Iterator[Result | Lost]:
    """Let others work, and keep what is done early until its turn comes."""
    with crew as others:
        early: dict[int, Result | Lost | Failed] = {}
        n_given = n_taken = 0
        while True:
            while n_given < n_taken + others.window:
                for job in jobs:
                    others.submit(n_given, job)
                    n_given += 1
                    break
                else:
                    break
            if n_taken == n_given:
                return
            while n_taken not in early:
                early.update(others.collect())
            outcome = early.pop(n_taken)
            n_taken += 1
            if isinstance(outcome, Failed):
                raise outcome.error
            yield outcome


ONE_THREAD: Final = {
    f"{library}_NUM_THREADS": "1"
    for library in ("OMP", "OPENBLAS", "MKL", "BLIS", "NUMEXPR", "VECLIB_MAXIMUM")
} | {"VECLIB_MAXIMUM_THREADS": "1"}
"""The cores belong to the processes: threads on top of that would stand in each other's way."""
ALONE: Final = (
    "with no other job beside it. It may need more memory than there is, or crash a library that "
    "reads it."
)
"""The end of a sentence that says how a job was lost, and what may be the cause."""


class _Task(NamedTuple):
    """A job on its way, packed, and how often it has ended a process."""

    number: int
    packed: bytes
    n_ends: int = 0


class Processes(Generic[Job, Result]):
    """Work in several processes, and outlive the end of each.

    Since a process has one job at a time, it is known which one was at work when it ended. That job
    is done again when all others rest; if it ends its process again, it is given up.
    """

    def __init__(self, function: Callable[[Job], Result], n_workers: int) -> None:
        self._function = cloudpickle.dumps(function)
        self._n_workers = n_workers
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, _Task]] = {}
        self._waiting: deque[_Task] = deque()
        self._suspects: deque[_Task] = deque()

    @property
    def window(self) -> int:
        """How many jobs may be under way or wait for their turn."""
        return 3 * self._n_workers + 2

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in [*self._idle, *(worker for worker, _ in self._busy.values())]:
            worker.end()

    def submit(self, number: int, job: Job) -> None:
        """Take a job."""
        self._waiting.append(_Task(number, cloudpickle.dumps(job)))
        self._hand_out()

    def collect(self) -> list[tuple[int, Result | Lost | Failed]]:
        """Wait until something is done."""
        done: list[tuple[int, Result | Lost | Failed]] = []
        while not done:
            self._hand_out()
            for pipe in wait(list(self._busy)):
                done += self._receive(*self._busy.pop(pipe))  # type: ignore[call-overload]
        self._hand_out()
        return done

    def _hand_out(self) -> None:
        """Give jobs to whoever is free."""
        while len(self._busy) < self._n_workers and (task := self._next()) is not None:
            worker = self._idle.pop() if self._idle else _Worker(self._function)
            # A process that has ended meanwhile is found out when its answer is awaited.
            with contextlib.suppress(OSError):
                worker.pipe.send_bytes(task.packed)
            self._busy[worker.pipe] = (worker, task)

    def _next(self) -> _Task | None:
        """Choose the next job; one that has ended a process is done alone."""
        if any(task.n_ends for _, task in self._busy.values()):
            return None
        if self._suspects:
            return None if self._busy else self._suspects.popleft()
        return self._waiting.popleft() if self._waiting else None

    def _receive(self, worker: _Worker, task: _Task) -> list[tuple[int, Result | Lost | Failed]]:
        """Take the answer of a process, or note that it has ended."""
        try:
            succeeded, answer = pickle.loads(worker.pipe.recv_bytes())
        except (EOFError, OSError):
            how = worker.find_out()
            if task.n_ends == 0:
                self._suspects.append(task._replace(n_ends=1))
                return []
            reason = f"the process that worked on it ended twice ({how}), the second time {ALONE}"
            return [(task.number, Lost(reason))]
        self._idle.append(worker)
        return [(task.number, answer if succeeded else Failed(answer))]


class _Worker:
    """A process, and the pipe to it."""

    def __init__(self, function: bytes) -> None:
        # Unlike those of the standard library, its processes need no `if __name__ == "__main__"`
        # in the script that they are started from.
        from joblib.externals.loky.backend.context import get_context

        context = get_context("loky")
        self.pipe, there = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(there, function), env=ONE_THREAD, daemon=True
        )
        with _without_interrupts():
            self._process.start()
        there.close()

    def find_out(self) -> str:
        """Say how the process has ended."""
        self._process.join(timeout=1)
        self.end()
        code = int(self._process.exitcode or 0)
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return f"exit code {code}"

    def end(self) -> None:
        """End the process, whatever it does."""
        self.pipe.close()
        if self._process.exitcode is None:
            # Windows has no SIGKILL; its SIGTERM is as final.
            os.kill(self._process.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
        self._process.join()


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started meanwhile: the first one ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(pipe: Connection, function: bytes) -> None:
    """Answer jobs until the other end of the pipe is closed, by the other process or its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send_bytes(_answer(function, pipe.recv_bytes()))


def _answer(function: bytes, job: bytes) -> bytes:
    """Do a job; return whether that worked, and the result or the error, packed."""
    packed: bytes
    try:
        packed = cloudpickle.dumps((True, call_packed(function, job)))
    except Exception as error:
        told = traceback.format_exc()
        try:
            packed = cloudpickle.dumps((False, error))
            pickle.loads(packed)
        except Exception:
            # Not every error can travel.
            packed = cloudpickle.dumps((False, RuntimeError(told)))
    return packed


def call_packed(function: bytes, job: bytes) -> Any:
    """Call a function on a job, both packed by cloudpickle."""
    return _unpack(function)(pickle.loads(job))


@functools.lru_cache(maxsize=1)
def _unpack(function: bytes) -> Callable[[Any], Any]:
    """Unpack a function."""
    return pickle.loads(function)  # type: ignore[no-any-return]


_CONNECT_SECONDS: Final = 30
_COUNT_SECONDS: Final = 10
"""How often the workers are counted; they come and go."""
_LEAST_WINDOW: Final = 64
"""Jobs that are given to a cluster without workers: clusters that adapt start some for them."""


class _ClusterTask(NamedTuple):
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
        self._running: dict[str, tuple[Any, _ClusterTask]] = {}
        self._suspects: deque[_ClusterTask] = deque()
        self._waiting: deque[_ClusterTask] = deque()

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
        self._waiting.append(_ClusterTask(number, cloudpickle.dumps(job)))

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

    def _start(self, task: _ClusterTask) -> None:
        """Give a job to the scheduler."""
        future = self._client.submit(call_packed, self._function, task.packed, pure=False)
        self._running[future.key] = (future, task)

    def _fail(self, future: Any, task: _ClusterTask) -> list[tuple[int, Result | Lost | Failed]]:
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
