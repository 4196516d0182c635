"""What the files of a study are called; cells, by a digest of all that each answer depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

import semantoks
from semantoks.benchmark.study_methods import Method, Question, methods_of
from semantoks.benchmark.study_plan import ModelPlan, StudyPlan
from semantoks.benchmark.study_preparation import (
    PREPARED,
    WITHOUT_FEATURES,
    columns_read,
    values_of,
)
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError
from semantoks.evaluation.description import feature_names
from semantoks.evaluation.shared_encoding import weights_digest
from semantoks.evaluation.site_splitters import SiteStratifiedFolds
from semantoks.model.checkpoint import load_model

_IN_FILES: Final = " !#$&'()+,;=@[]^{}`"
"""Signs that the names of files may have everywhere; the others of a column are written as %2F."""


class Cell(NamedTuple):
    """One target, one way of splitting, one method."""

    target: str
    split: str
    method: Method
    key: str
    divided: str = ""


def cells_of(
    plan: StudyPlan, store: Store, questions: Mapping[tuple[str, str], Question]
) -> Iterator[Cell]:
    """Name every cell by a digest of all that it depends on."""
    weights = {name: _digest_of_weights(name, model) for name, model in plan.models.items()}
    methods = methods_of(plan)
    for (target, split), question in questions.items():
        parts = [
            [part.tolist() for part in (s.train, s.validation, s.test)] for s in question.splits
        ]
        divided = _divided(plan, question)
        for method in methods:
            model = method.model
            about = {
                "store": store.fingerprint,
                "rows": question.task.rows.tolist(),
                "truth": [str(value) for value in question.task.truth],
                "kind": question.task.kind,
                "splits": parts,
                "how": method.how,
                "features": method.features,
                "model": None
                if model is None
                else model.model_dump(exclude={"model", "probes", "features"}),
                "weights": next((weights[n] for n, m in plan.models.items() if m is model), None),
                "settings": _settings(plan, method.how),
                "semantoks": semantoks.__version__,
            }
            if question.splitter.family_column is not None:
                about["families"] = question.units.tolist()
            if question.prepare is not None and method.how in PREPARED:
                about["prepare"] = repr(question.prepare)
            read = columns_read(method.how, plan, question.scans, question.prepare)
            if read:  # the fingerprint of the store is of its series, not of what is said of them
                about["table"] = values_of(question.scans, read)
            yield Cell(target, split, method, _digest(about)[:24], divided)


def splits_file(folder: Path, target: str, split: str) -> Path:
    """Name the file of the splits of a question; a column may be called what no file can be."""
    return folder / "splits" / f"{quote(target, safe=_IN_FILES)}-{split}.json"


def _divided(plan: StudyPlan, question: Question) -> str:
    """Return a digest of the columns that permuted labels, and splits anew, follow from."""
    splitter = question.splitter
    columns = [splitter.family_column] if splitter.family_column is not None else []
    if isinstance(splitter, SiteStratifiedFolds):
        columns.append(splitter.site_column)
    within = [] if plan.permute_within is None else [plan.permute_within]
    read = [values_of(question.scans, names) for names in (columns, within)]
    return _digest(read)[:8] if columns or within else ""


def _digest(content: Any) -> str:
    """Return the hash of plain values."""
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _settings(plan: StudyPlan, how: str) -> Any:
    """Return the settings that a way to predict depends on."""
    if how in ("linear", "attention"):
        return [plan.probe.model_dump(), plan.seed]
    if how in ("finetune", "mlp"):
        weighted = plan.probe.class_weight != "none"
        # Named only where it decides something, so that cells without patience keep their key.
        unset = {"patience"} if how == "mlp" or plan.finetuning.patience is None else set()
        tuned = plan.finetuning.model_dump(exclude=unset)
        return [tuned, plan.seed, *[plan.probe.class_weight] * weighted]
    return list(plan.confounds) if how == "confounds" else None


def _digest_of_weights(name: str, model: ModelPlan) -> str:
    """Return the arguments and a digest of the weights of a model; refuse features it has not."""
    encoder = load_model(model.model).encoder
    for features in model.features:
        try:
            feature_names(encoder, features)
        except ConfigurationError as error:
            raise ConfigurationError(f"model {name!r} ({model.model}): {error}") from error
    return f"{json.dumps(encoder.arguments, sort_keys=True, default=str)} {weights_digest(encoder)}"


def impossible(cell: Cell, question: Question) -> str:
    """Say why a cell cannot be computed."""
    if question.prepare is not None and cell.method.how not in PREPARED | WITHOUT_FEATURES:
        return f"features are prepared for {', '.join(sorted(PREPARED))} only"
    if cell.method.how == "logistic" and question.task.kind == "regression":
        return "logistic regression predicts classes"
    needs = cell.method.how in ("linear", "attention", "finetune", "mlp")
    if needs and not all(len(split.validation) for split in question.splits):
        return "it needs validation parts; give the splits a share for validation"
    return ""
