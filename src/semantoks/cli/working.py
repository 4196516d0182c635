"""Options of verbs that can share their work out: processes of this machine, or a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from cyclopts import Group, Parameter


@Parameter(name="*", group=Group("Many cores and clusters", sort_key=3))
@dataclass(frozen=True)
class Working:
    """Who does the work; the result is the same.

    Parameters
    ----------
    workers : int
        Processes of this machine, a thread each; 1 is this process alone. By default, prepare takes
        all cores that it may use, and embed is one process with a thread a core.
    scheduler : str
        Address (tcp://node17:8786) or file (.json) of the scheduler of a Dask cluster that does the
        work instead. It must see the files under the same paths.
    """

    workers: int | None = None
    scheduler: str | None = None


ALL_CORES: Final = Working()
"""Who does the work if nothing is said."""
