"""A run as a folder: configuration, logs, checkpoints, and the model at the end."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import json
import math
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

import numpy as np
import torch

from semantoks import __version__
from semantoks.errors import InputError
from semantoks.files import replacing

CHECKPOINT_VERSION: Final = 1
_ONE_REQUEST: Final = 1.0
"""Seconds in which two signals count as one: clusters and launchers may both send it."""


class Log:
    """A table that grows by a row at a time, as CSV and as JSON lines."""

    def __init__(
        self, folder: Path, name: str, columns: Sequence[str], *, after: int | None = None
    ) -> None:
        self.columns = tuple(columns)
        self._csv, self._lines = folder / f"{name}.csv", folder / f"{name}.jsonl"
        kept = [] if after is None else [row for row in self.rows() if row["step"] <= after]
        with replacing(self._csv) as path, path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(self.columns)
            # A log of an older version may lack a column.
            writer.writerows([row.get(column) for column in self.columns] for row in kept)
        with replacing(self._lines) as path, path.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row) + "\n" for row in kept)

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        values = {c: None if _is_not_finite(row[c]) else row[c] for c in self.columns}
        with self._csv.open("a", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerow(values.values())
        with self._lines.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(values) + "\n")

    def rows(self) -> list[dict[str, Any]]:
        """Read the rows that were written whole."""
        if not self._lines.is_file():
            return []
        rows = []
        for line in self._lines.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # a kill can tear the last line
                rows.append(json.loads(line))
        return rows


def save_checkpoint(folder: Path, step: int, content: dict[str, Any], *, keep: int) -> Path:
    """Write a checkpoint atomically and remove the oldest."""
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08d}.pt"
    try:
        with replacing(path) as beside:
            torch.save({"format_version": CHECKPOINT_VERSION, "step": step, **content}, beside)
            with replacing(_checksum_file(path)) as checksum:
                checksum.write_text(_checksum(beside), encoding="ascii")
    except (OSError, RuntimeError) as error:
        # torch reports a failed write as a RuntimeError of its archive writer.
        last = max(folder.glob("step-*.pt"), default=None)
        stays = f"the last good checkpoint is {last}" if last else "there is no earlier checkpoint"
        raise InputError(
            f"checkpoint {path} cannot be written ({error}); {stays}. Make room, then go on with "
            "--resume."
        ) from error
    for old in sorted(folder.glob("step-*.pt"))[:-keep]:
        _checksum_file(old).unlink(missing_ok=True)
        old.unlink()
    return path


class Checkpoint(NamedTuple):
    """A checkpoint as read."""

    content: dict[str, Any]
    damaged: tuple[Path, ...]


def load_checkpoint(run: Path) -> Checkpoint:
    """Load the newest checkpoint of a run that is whole."""
    known = {path.with_suffix(".pt") for path in (run / "checkpoints").glob("step-*")}
    paths = sorted(known, reverse=True)
    for i, path in enumerate(paths):
        if not _is_whole(path):
            continue
        content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if content["format_version"] > CHECKPOINT_VERSION:
            raise InputError(f"checkpoint {path} was written by a newer semantoks; update yours.")
        return Checkpoint(content, tuple(paths[:i]))
    damaged = f"; {len(paths)} are damaged or missing" if paths else ""
    raise InputError(f"{run} holds no checkpoint to resume from{damaged}. Start the run anew.")


def drop_later_checkpoints(run: Path, step: int) -> None:
    """Remove what is left of checkpoints after a step; they would count among those to keep."""
    for path in (run / "checkpoints").glob("step-*"):
        if path.stem > f"step-{step:08d}" or step < 0:
            path.unlink()


def _is_whole(checkpoint: Path) -> bool:
    """Say whether a checkpoint is there and what it was when it was written."""
    checksum = _checksum_file(checkpoint)
    if not checkpoint.is_file() or not checksum.is_file():
        return False
    return checksum.read_text(encoding="ascii") == _checksum(checkpoint)


def _checksum_file(checkpoint: Path) -> Path:
    """Say where the checksum of a checkpoint stands."""
    return checkpoint.with_suffix(".sha256")


def _checksum(path: Path) -> str:
    """Compute the SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON atomically."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=1), encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read JSON that `write_json` wrote."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); restore it.") from error
    return content


def versions() -> dict[str, str]:
    """Say what a run was computed with."""
    return {
        "semantoks": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
    }


@contextlib.contextmanager
def graceful_stop() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into a question to be asked between steps.

    Clusters announce the end of a job by SIGTERM or SIGUSR1.
    """
    asked, when = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    kinds = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGUSR1"):  # not on Windows
        kinds.append(signal.SIGUSR1)
    before = {kind: signal.getsignal(kind) for kind in kinds}

    def restore() -> None:
        for kind, handler in before.items():
            signal.signal(kind, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal when
        now = time.monotonic()
        if not asked.is_set():
            asked.set()
            when = now
        elif now - when > _ONE_REQUEST:
            restore()
            signal.raise_signal(number)

    for kind in kinds:
        signal.signal(kind, ask)
    try:
        yield asked.is_set
    finally:
        restore()


def _is_not_finite(value: Any) -> bool:
    """Say whether a value is a NaN or infinite."""
    return isinstance(value, float) and not math.isfinite(value)
