"""How the command line speaks: progress, tables, and errors of one paragraph."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table


@Parameter(name="*", group="Output")
@dataclass(frozen=True)
class Output:
    """Options for what a verb prints.

    Parameters
    ----------
    quiet : bool
        Print nothing but errors.
    json : bool
        Print the result as one JSON object, and nothing else, on the standard output.
    debug : bool
        Show the traceback of an error.
    """

    quiet: Annotated[bool, Parameter(negative="", alias="-q")] = False
    json: Annotated[bool, Parameter(negative="")] = False
    debug: Annotated[bool, Parameter(negative="")] = False
    console: Annotated[Console, Parameter(parse=False)] = field(
        default_factory=lambda: Console(highlight=False), repr=False
    )

    @property
    def speaks(self) -> bool:
        """Whether anything is printed for people."""
        return not (self.quiet or self.json)

    def words(self) -> list[str]:
        """Say the same to another process."""
        given = {"--quiet": self.quiet, "--json": self.json, "--debug": self.debug}
        return [word for word, wanted in given.items() if wanted]

    def say(self, content: str | Table) -> None:
        """Print something for a person."""
        if self.speaks:
            self.console.print(content, markup=False, soft_wrap=isinstance(content, str))

    def result(self, content: dict[str, Any]) -> None:
        """Print the result for a machine, if that was asked for."""
        if self.json:
            print(json.dumps(_finite(content), default=str, indent=1))  # noqa: T201

    @contextmanager
    def progress(self, what: str, detail: str = "") -> Iterator[Callable[[int, int, str], None]]:
        """Show a bar while something goes on."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[detail]}"),
        )
        errors = Console(stderr=True)
        with Progress(*columns, console=errors, disable=not self.speaks) as bar:
            task = bar.add_task(what, total=None, detail=detail)

            def advance(done: int, total: int, detail: str = "") -> None:
                bar.update(task, completed=done, total=total, detail=detail)

            yield advance


def _finite(content: Any) -> Any:
    """Replace what JSON has no word for, NaN and infinity, by null."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def rows_table(title: str, rows: dict[str, Any]) -> Table:
    """Make a table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def complain(message: str) -> None:
    """Print an error as one paragraph on the standard error."""
    console = Console(stderr=True, highlight=False)
    console.print("error:", style="bold red", end=" ")
    console.print(" ".join(message.split()), markup=False, soft_wrap=True)
