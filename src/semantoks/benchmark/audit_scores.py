"""How well a quantity is read from features, under every preparation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray

from semantoks.benchmark.alignment import align
from semantoks.benchmark.baselines.confounds import confound_predictions
from semantoks.benchmark.baselines.connectivity import connectivity_features
from semantoks.benchmark.draws import draw_weights
from semantoks.benchmark.tasks import Task, read_task
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.audit import Association, auditable, site_association
from semantoks.evaluation.confound_columns import confound_columns
from semantoks.evaluation.confounds import as_text
from semantoks.evaluation.embedding_file import Embeddings
from semantoks.evaluation.harmonization import ComBat, ConfoundRegression
from semantoks.evaluation.metrics import CONNECTIVITY
from semantoks.evaluation.preparation import Preparation
from semantoks.evaluation.probe import (
    FoldPrediction,
    cross_validated_predictions,
    score_predictions,
)
from semantoks.evaluation.ridge import rotate
from semantoks.evaluation.splits import Split, leave_one_site_out, subject_folds, subjects_of

SITE_ALONE: Final = "site alone"
CONFOUNDS_ALONE: Final = "confounds alone"
_CHANCE: Final = {"auc": 0.5, "r2": 0.0, "pearson_r": 0.0}


class Described(NamedTuple):
    """Features of all scans of the audit."""

    name: str
    features: Shaped[NDArray[Any], "scan feature"]
    linear: Shaped[NDArray[Any], "scan feature"]
    scaling: Literal["standardize", "center"]


@dataclass
class AuditBench:
    """Where scores of the audit are made and collected."""

    scans: pd.DataFrame
    n_folds: int
    repeats: int
    seed: int
    n_draws: int
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def score(
        self,
        method: str,
        preparation: str,
        task: Task,
        splits: Sequence[Split],
        predict: Callable[[], tuple[FoldPrediction, ...]],
    ) -> None:
        """Score predictions, or note why there are none."""
        try:
            folds = predict()
        except InputError as error:
            note = f"{task.target} from {method} ({preparation}, {splits[0].name} splits): {error}"
            self.notes.append(note)
            return
        people = subjects_of(self.scans)[task.rows]
        weights = draw_weights(splits, people, self.n_draws, self.seed)
        scores = score_predictions(folds, task.truth, weights, kind=task.kind)
        for metric, score in scores.items():
            fair = 1 / len(task.classes) if metric == "balanced_accuracy" else float("nan")
            self.rows.append(
                {
                    "method": method,
                    "quantity": task.target,
                    "kind": task.kind,
                    "split": splits[0].name,
                    "preparation": preparation,
                    "metric": metric,
                    "value": score.value,
                    "low": score.low,
                    "high": score.high,
                    "chance": _CHANCE.get(metric, fair),
                    "n_scans": len(task.rows),
                    "n_subjects": len(np.unique(people)),
                    "n_classes": len(task.classes),
                }
            )


def large_sites(scans: pd.DataFrame, fewest: int) -> tuple[NDArray[np.intp], list[str]]:
    """Choose the scans of sites that are large enough for folds; all if there is one site."""
    if "site" not in auditable(scans):
        return np.arange(len(scans)), ["No sites: scans are of one site, or it is not known."]
    sites = pd.Series(as_text(scans["site"]))
    people = pd.Series(subjects_of(scans)).groupby(sites).nunique()
    large = people[(people >= fewest) & (people.index != "")].index
    if len(large) < 2:
        raise InputError(
            f"{len(large)} of {len(people)} sites have {fewest} subjects, which an audit in folds "
            "needs, at two sites at least. Use fewer folds."
        )
    kept = np.flatnonzero(sites.isin(large))
    left_out = len(scans) - len(kept)
    note = f"{left_out} scan(s) without a site or of sites with fewer than {fewest} subjects are "
    return kept, [note + "left out."] if left_out else []


def preparations(scans: pd.DataFrame) -> dict[str, Preparation | None]:
    """Choose what is done to the features before they are read."""
    columns = auditable(scans)
    prepare: dict[str, Preparation | None] = {"none": None}
    if columns:
        prepare["regression"] = ConfoundRegression(columns)
    if "site" in columns:
        prepare["combat"] = ComBat()
    return prepare


def described_scans(
    store: Store, embeddings: Mapping[str, Embeddings], kept: NDArray[np.intp]
) -> Iterator[Described]:
    """Describe the scans by every method."""
    for name, one in embeddings.items():
        features = align(store, name, one)[kept]
        yield Described(name, features, features, "standardize")
    edges = connectivity_features(store)[kept]
    yield Described(CONNECTIVITY, edges, rotate(edges), "center")


def read_quantity(
    bench: AuditBench,
    quantity: str,
    methods: Sequence[Described],
    prepare: Mapping[str, Preparation | None],
) -> None:
    """Score how well every method tells a quantity, under every preparation."""
    try:
        task = _task(bench, quantity)
        scans = bench.scans.iloc[task.rows]
        splits = subject_folds(
            scans,
            task.name(task.truth),
            kind=task.kind,
            n_folds=bench.n_folds,
            repeats=bench.repeats,
            seed=bench.seed,
        )
    except InputError as error:
        bench.notes.append(f"{quantity}: {error}")
        return
    for method in methods:
        for preparation, how in prepare.items():
            features = method.features if preparation == "combat" else method.linear
            bench.score(
                method.name,
                preparation,
                task,
                splits,
                _predictor(features, task, splits, scans, method, how),
            )


def read_target(bench: AuditBench, target: str, methods: Sequence[Described]) -> Association | None:
    """Score what site and confounds alone tell of the target, and features at unseen sites."""
    task = _task(bench, target)
    scans = bench.scans.iloc[task.rows].reset_index(drop=True)
    people, labels = subjects_of(scans), task.name(task.truth)
    splits = subject_folds(
        scans,
        labels,
        kind=task.kind,
        n_folds=bench.n_folds,
        repeats=bench.repeats,
        seed=bench.seed,
    )
    several = "site" in auditable(scans) and target != "site"
    for name, columns in ((SITE_ALONE, ["site"] if several else []), (CONFOUNDS_ALONE, None)):
        if columns == []:
            continue

        def predict(columns: list[str] | None = columns) -> tuple[FoldPrediction, ...]:
            used = confound_columns(scans, target, task.truth, columns).used
            return confound_predictions(
                scans, task.truth, splits, columns=used, kind=task.kind, subjects=people
            )

        bench.score(name, "none", task, splits, predict)
    if not several:
        return None
    try:
        left_out = leave_one_site_out(scans, labels, kind=task.kind)
    except InputError as error:
        bench.notes.append(f"{target}, one site left out: {error}")
    else:
        for method in methods:
            predictor = _predictor(method.linear, task, left_out, scans, method, None)
            bench.score(method.name, "none", task, left_out, predictor)
    return site_association(task.truth, as_text(scans["site"]), people, kind=task.kind)


def _predictor(
    features: NDArray[Any],
    task: Task,
    splits: Sequence[Split],
    scans: pd.DataFrame,
    method: Described,
    prepare: Preparation | None,
) -> Callable[[], tuple[FoldPrediction, ...]]:
    """Return a function that predicts a task, so that its errors can be noted."""

    def predict() -> tuple[FoldPrediction, ...]:
        return cross_validated_predictions(
            features[task.rows],
            task.truth,
            splits,
            kind=task.kind,
            subjects=subjects_of(scans),
            scaling=method.scaling,
            prepare=prepare,
            scans=scans,
        )

    return predict


def _task(bench: AuditBench, quantity: str) -> Task:
    """Read a quantity; classes with fewer subjects than folds are left out."""
    task = read_task(bench.scans, quantity)
    if task.kind == "regression":
        return task
    people = subjects_of(bench.scans)[task.rows]
    counts = [len(np.unique(people[task.truth == k])) for k in range(len(task.classes))]
    large = [k for k, n in enumerate(counts) if n >= bench.n_folds]
    if len(large) == len(counts):
        return task
    column = bench.scans[quantity].where(
        np.isin(np.arange(len(bench.scans)), task.rows[np.isin(task.truth, large)])
    )
    note = (
        f"{quantity}: {len(counts) - len(large)} value(s) of fewer than {bench.n_folds} subjects "
        "are left out."
    )
    if note not in bench.notes:
        bench.notes.append(note)
    return read_task(bench.scans.assign(**{quantity: column}), quantity)
