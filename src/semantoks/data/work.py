"""Does the same with many things: in this process, in several, or on a cluster.

Jobs are taken one by one, and what came of them is given back in their order. At any time only a
few are under way or wait for their turn, so that memory does not grow with their number.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from itertools import chain
from numbers import Integral
from typing import Final, NamedTuple, Protocol, TypeVar

from semantoks.errors import ConfigurationError, InputError

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
        from semantoks.data.cluster import Cluster

        yield from _with(Cluster(function, scheduler), jobs)
        return
    n_workers = available_cores() if workers is None else workers
    alone = float("inf") if n_workers == 1 else patience if workers is None else -1.0
    yield from _here(function, jobs, seconds=alone)
    # Without a job left, no process is started.
    for job in jobs:
        from semantoks.data.processes import Processes

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
