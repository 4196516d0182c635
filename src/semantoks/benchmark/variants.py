"""Models that differ in one thing: each a run folder, pretrained and embedded once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from semantoks.benchmark.comparison import divide
from semantoks.benchmark.tasks import read_task
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.embedding_file import Embeddings, read_embeddings, write_embeddings
from semantoks.evaluation.readout import FeatureKind
from semantoks.evaluation.same_series import check_people
from semantoks.model.checkpoint import load_encoder
from semantoks.training.config import Configuration, to_yaml
from semantoks.training.plan import choose_device
from semantoks.training.pretraining import pretrain

Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A model to be pretrained."""

    name: str
    configuration: Configuration
    store: Store


class Interrupted(KeyboardInterrupt):
    """A variant was stopped; it goes on when the same command is given again."""


def check_questions(
    store: Store,
    probed: Store,
    targets: Sequence[str],
    *,
    splits: Literal["subject", "site"] = "subject",
    n_folds: int,
    repeats: int,
) -> None:
    """Refuse what could not be probed, before hours are spent on pretraining."""
    for target in targets:
        task = read_task(probed.scans, target)
        scans = probed.scans.iloc[task.rows].reset_index(drop=True)
        divide(scans, task, splits=splits, n_folds=n_folds, repeats=repeats)
    check_people(store)


def describe_by(
    variant: Variant, folder: Path, cohort: Store, *, features: FeatureKind, windows: int, say: Say
) -> Embeddings:
    """Pretrain a variant and describe a cohort by it, or take up what is there."""
    run = folder / variant.name
    _refuse_others(run, variant)
    if not (run / "model").exists():
        say(f"pretraining {variant.name}")
        ended = pretrain(variant.store, run, variant.configuration, resume=run.exists(), notify=say)
        if ended.status != "finished":
            raise Interrupted(f"stopped in {variant.name} after step {ended.step}")
    # The name says all that the features depend on beside the model, so that a file is reused
    # only for the same question.
    kind = features.replace("+", "-")
    path = run / f"features-{kind}-{windows}-{cohort.fingerprint}.parquet"
    if not path.exists():
        say(f"embedding {variant.name}")
        encoder = load_encoder(run / "model").to(choose_device(variant.configuration.device))
        write_embeddings(embed(cohort, encoder, features=features, windows=windows), path)
    return read_embeddings(path)


def write_request(folder: Path, request: Mapping[str, Any]) -> None:
    """Write down what a folder of variants is for, and refuse to mix it with something else."""
    path = folder / "request.json"
    text = json.dumps(dict(request), indent=2, sort_keys=True, default=str) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
            changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            raise InputError(
                f"{folder} was made with another {', '.join(changed)}. Give the same to go on with "
                "it, or choose another --out."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} exists and holds something else. Choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _refuse_others(run: Path, variant: Variant) -> None:
    """Refuse a run folder of the same name that is another model."""
    if not run.exists():
        return
    written = run / "config.yaml"
    if written.is_file() and written.read_text(encoding="utf-8") != to_yaml(variant.configuration):
        raise InputError(
            f"{run} holds a run with another recipe. Remove it, or choose another --out."
        )
