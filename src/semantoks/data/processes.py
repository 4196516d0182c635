"""Processes of this machine that work side by side, one job each at a time."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Final, Generic, NamedTuple, Self

import cloudpickle

from semantoks.data.work import Failed, Job, Lost, Result

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
