"""What a run writes down beside its checkpoints: logs, health, what it is made of, the model."""

from __future__ import annotations

import contextlib
import datetime
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from semantoks.files import replacing
from semantoks.model.checkpoint import save_encoder
from semantoks.model.provenance import hash_subjects
from semantoks.training.config import to_yaml
from semantoks.training.events import Progress, ignore, tensorboard
from semantoks.training.learner import Learner
from semantoks.training.monitoring import Health, Warned, examine, warn
from semantoks.training.run import Log, drop_later_checkpoints, read_json, versions, write_json

if TYPE_CHECKING:
    from semantoks.data.store import Store

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
        """Write the teacher's encoder."""
        save_encoder(
            self.learner.model.teacher.encoder,
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
