"""The application that verbs join, and how it ends: exit codes, errors of one paragraph."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Final

import cyclopts
from cyclopts import App, Parameter

from semantoks import __version__
from semantoks.errors import ConfigurationError, InputError
from semantoks.terminal import Output, complain

INTERRUPTED: Final = 130
_HELP: Final = """\
Brain-Semantoks: a foundation model of functional MRI.

Recordings in; pretraining; features; an honest probe beside connectivity; a report. Commands are
listed in the order of use; the --help of each has an example.

Exit codes: 0 done, 1 unusable input, 2 an error in the command line or in a configuration key,
130 stopped by Ctrl-C, SIGTERM or SIGUSR1 (pretrain has saved by then)."""

app = App(
    name="semantoks",
    help=_HELP,
    version=__version__,
    help_format="plaintext",
    sort_key=None,
    default_parameter=Parameter(negative_iterable=""),
)
SILENT: Final = Output()
"""What a verb does when it is called without output options."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    # Threads that spin while they wait stall each other where cores are shared: measured, a run
    # ten times as long. This must stand before PyTorch is imported; who set it keeps it.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """Run one command."""
    try:
        return int(call(arguments) or 0)
    except (cyclopts.CycloptsError, InputError, OSError, KeyboardInterrupt) as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _explain(error)


def _explain(error: BaseException) -> int:
    """Say in one paragraph what was wrong, and return the exit code."""
    if isinstance(error, KeyboardInterrupt):
        complain("stopped.")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):  # the reader of our output has seen enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        complain(f"{error.strerror or error}{where}. Nothing that was there is lost.")
        return 1
    if isinstance(error, cyclopts.CycloptsError):
        verbs = [name for name in (error.command_chain or ()) if not name.startswith("-")]
        complain(f"{error} Try semantoks {' '.join([*verbs, '--help'])}.")
        return 2
    complain(str(error))
    return 2 if isinstance(error, ConfigurationError) else 1


def call(arguments: Sequence[str]) -> Any:
    """Parse and call a verb."""
    return app(
        list(arguments), exit_on_error=False, print_error=False, result_action="return_value"
    )
