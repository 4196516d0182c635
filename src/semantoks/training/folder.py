"""Run folders: checkpoints, logs, events, and stopping on a signal."""

from __future__ import annotations

import contextlib
import csv
import datetime
import hashlib
import importlib.util
import json
import math
import platform
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import torch

from semantoks import __version__
from semantoks.errors import ConfigurationError, InputError
from semantoks.files import replacing
from semantoks.model.checkpoint import hash_subjects, save_encoder
from semantoks.model.components import fit_read_out
from semantoks.training.config import to_yaml
from semantoks.training.learner import Learner
from semantoks.training.monitoring import Health, Warned, examine, warn

if TYPE_CHECKING:
    from semantoks.data.store import Store


class Progress(NamedTuple):
    """One logged step."""

    step: int
    steps: int
    epoch: int
    learning_rate: float
    weight_decay: float
    momentum: float
    summary_weight: float
    masked: bool
    total: float
    compression: float
    expansion: float
    token: float
    summary: float
    gradient_norm: float
    seconds: float


def check_tensorboard() -> None:
    """Refuse to promise TensorBoard where it is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ConfigurationError(
            "logging.tensorboard needs an extra: pip install 'semantoks[tensorboard]'."
        )


@contextlib.contextmanager
def tensorboard(folder: Path, *, after: int = 0) -> Iterator[Callable[[Progress], None]]:
    """Open an event file for TensorBoard."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(folder), purge_step=after + 1) as writer:

        def write(row: Progress) -> None:
            for name, value in row._asdict().items():
                if not math.isnan(value):
                    writer.add_scalar(name, value, row.step)

        yield write


def ignore(row: Progress) -> None:
    """Listen to nothing."""


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
        for line in self._lines.read_text(encoding="utf-8", errors="replace").splitlines():
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
    return checksum.read_bytes() == _checksum(checkpoint).encode("ascii")


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
    except (OSError, ValueError, RecursionError) as error:
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


_LOOKS: Final = 4
"""Looks at the health that are remembered: as many as a warning and its first time depend on."""


class Record:
    """The folder of a run, as its first process writes it."""

    def __init__(
        self, folder: Path, store: Store, learner: Learner, *, after: int | None = None
    ) -> None:
        self.folder, self.store, self.learner = folder, store, learner
        self.started, self.seconds_before = _now(), 0.0
        if after is not None and (folder / "run.json").is_file():
            described = read_json(folder / "run.json")
            self.started = described.get("started", self.started)
            self.seconds_before = described.get("seconds", 0.0)
        folder.mkdir(parents=True, exist_ok=after is not None)
        with replacing(folder / "config.yaml") as path:
            path.write_text(to_yaml(learner.configuration), encoding="utf-8")
        for left in (*folder.glob(".*.partial"), *folder.glob("checkpoints/.*.partial")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()  # a kill tore it
        if after is not None:
            drop_later_checkpoints(folder, after)
        columns = [name for name in Progress._fields if name != "steps"]
        self._metrics = Log(folder, "metrics", columns, after=after)
        self._health = Log(folder, "health", ["step", "epoch", *Health._fields], after=after)
        self._warnings = Log(folder, "warnings", ["step", "epoch", *Warned._fields], after=after)
        self._looks = self._earlier_looks()
        self._views, self._mask = learner.batches.health_views()

    @contextlib.contextmanager
    def steps(self, *, after: int) -> Iterator[Callable[[Progress], None]]:
        """Open what steps are written to."""
        wanted = self.learner.configuration.logging.tensorboard
        folder = self.folder / "tensorboard"
        with tensorboard(folder, after=after) if wanted else contextlib.nullcontext(ignore) as show:

            def write(row: Progress) -> None:
                self._metrics.write({name: _rounded(v) for name, v in row._asdict().items()})
                show(row)

            yield write

    def look(self, step: int, notify: Callable[[str], None]) -> None:
        """Examine the model on the same windows as ever, write it down, and warn."""
        plan = self.learner.plan
        found = examine(self.learner.model, self._views, self._mask)
        place = {"step": step, "epoch": step // max(plan.steps_an_epoch, 1)}
        rounded = Health(*map(_rounded, found))  # as a resumed run reads it
        self._health.write(place | rounded._asdict())
        done = step / max(plan.steps, 1)
        known = {x.kind for x in warn(self._looks, done)}
        self._looks = [*self._looks, rounded][-_LOOKS:]
        for warned in warn(self._looks, done):
            if warned.kind not in known:  # said once, not at every look
                self._warnings.write(place | warned._asdict())
                notify(f"Warning, step {step}: {warned.message}")

    def describe(self, status: str, step: int, seconds: float) -> None:
        """Write run.json."""
        content = {
            "status": status,
            "step": step,
            "started": self.started,
            "finished": None if status == "running" else _now(),
            "seconds": round(self.seconds_before + seconds, 1),
        }
        write_json(self.folder / "run.json", content | self._provenance())

    def save_model(self) -> None:
        """Write the teacher's encoder, with components of the cohort if they are wanted."""
        encoder = self.learner.model.teacher.encoder
        if most := self.learner.configuration.model.components:
            encoder.components = fit_read_out(self.store, most)
        save_encoder(
            encoder,
            self.folder / "model",
            preprocessing=self.store.preprocessing.to_dict(),
            provenance=self._travelling_provenance(),
        )

    def _earlier_looks(self) -> list[Health]:
        """Read the last looks at the health before a resume."""
        rows = [[row.get(name) for name in Health._fields] for row in self._health.rows()]
        return [Health(*(math.nan if v is None else v for v in row)) for row in rows][-_LOOKS:]

    def _travelling_provenance(self) -> dict[str, Any]:
        """Say what the run is made of to those who have neither its folder nor its store."""
        provenance = self._provenance()
        del provenance["store"]["path"]
        subjects = self.store.scans["subject"].unique()
        return provenance | {
            "recipe": self.learner.configuration.model_dump(mode="json"),
            "subjects": hash_subjects(subjects, salt=self.store.fingerprint),
        }

    def _provenance(self) -> dict[str, Any]:
        """Say what the run is made of."""
        learner, plan = self.learner, self.learner.plan
        return {
            "store": {
                "path": str(self.store.path.resolve()),
                "fingerprint": self.store.fingerprint,
                "n_scans": len(self.store),
                "n_subjects": plan.subjects,
            },
            "seed": learner.configuration.seed,
            "steps": plan.steps,
            "epochs": learner.configuration.optimization.epochs,
            "batch_size": plan.batch_size,
            "device": str(learner.device),
            "processes": learner.ranks.size,
            "precision": learner.precision,
            "residence": learner.batches.residence,
            "parameters": sum(p.numel() for p in learner.model.student.parameters()),
            "versions": versions(),
        }


def _now() -> str:
    """Return the time in the form of ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _rounded(value: Any) -> Any:
    """Keep the digits that mean something."""
    return float(f"{value:.6g}") if isinstance(value, float) else value
