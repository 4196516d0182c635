"""Methods side by side on the same splits, each held against functional connectivity."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

import semantoks
from semantoks.benchmark.baselines import (
    component_predictions,
    connectivity_features,
    dummy_predictions,
    site_predictions,
)
from semantoks.benchmark.tasks import Task, align, draw_weights, kept_scans, n_repeats, read_task
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.confounds import sites_of
from semantoks.evaluation.embedding import Embeddings
from semantoks.evaluation.linear import Classifier, FoldPrediction, Scaling, rotate, scaling_of
from semantoks.evaluation.metrics import (
    CONNECTIVITY,
    DUMMY,
    LOWER_IS_BETTER,
    METRICS,
    SITE,
    interval,
)
from semantoks.evaluation.probe import Score, cross_validated_predictions, score_predictions
from semantoks.evaluation.same_series import check_people, same_series
from semantoks.evaluation.split_files import splits_record, splits_table
from semantoks.evaluation.splits import Split, families_of
from semantoks.evaluation.splitters import LeaveOneSiteOut, SubjectFolds
from semantoks.files import new_folder
from semantoks.model.components import MOST, log_connectivity_features


def score_table(
    scores: Mapping[str, Mapping[str, Score]],
    settings: Mapping[str, Any],
    reference: str | None = None,
) -> pd.DataFrame:
    """Lay scores out, one row a method and metric."""
    rows = []
    for method, metrics in scores.items():
        for name, score in metrics.items():
            other = (
                {}
                if reference is None
                else {"reference": reference}
                | {
                    f"reference_{key}": value
                    for key, value in _against(score, scores[reference][name], settings).items()
                }
            )
            rows.append(
                {
                    "method": method,
                    "target": settings["target"],
                    "kind": settings["kind"],
                    "split": settings["splits"],
                    "metric": name,
                    "value": score.value,
                    "low": score.low,
                    "high": score.high,
                    **_against(score, scores[CONNECTIVITY][name], settings),
                    **other,
                }
            )
    counts = ("n_scans", "n_subjects", "n_missing", "n_folds", "n_repeats")
    return pd.DataFrame(rows).assign(**{name: settings[name] for name in counts})


def _against(score: Score, reference: Score, settings: Mapping[str, Any]) -> dict[str, float]:
    """Return a paired difference with its interval, NaN of a score to itself."""
    if score is reference:
        return dict.fromkeys(("difference", "difference_low", "difference_high"), float("nan"))
    low, high = interval(score.draws - reference.draws, settings["confidence"])
    return {
        "difference": score.value - reference.value,
        "difference_low": low,
        "difference_high": high,
    }


def prediction_table(
    predicted: Mapping[str, Sequence[FoldPrediction]], task: Task, scans: pd.DataFrame
) -> pd.DataFrame:
    """Lay predictions out, one row a method, repeat and scan."""
    parts = []
    for method, folds in predicted.items():
        for fold in folds:
            test = fold.split.test
            part = {
                "method": method,
                "target": task.target,
                "split": fold.split.name,
                "repeat": fold.split.repeat,
                "fold": fold.split.fold,
                "scan": scans["scan"].to_numpy()[test],
                "subject": scans["subject"].to_numpy()[test],
                "truth": task.name(task.truth[test]),
                "prediction": task.name(fold.prediction),
            }
            scores = {f"score_{c}": fold.score[:, i] for i, c in enumerate(task.classes)}
            parts.append(pd.DataFrame({**part, **scores}))
    return pd.concat(parts, ignore_index=True)


_CONFIDENCE: Final = 0.95


ClosedForm = Literal["log-connectivity", "components"]
"""Descriptions without training that may be methods of a comparison."""


@dataclass(frozen=True)
class Comparison:
    """What methods reach at a target.

    Parameters
    ----------
    table : DataFrame
        One row a method and metric: method, target, kind, split, metric, value, low, high,
        difference, difference_low, difference_high (to connectivity, NaN for itself), n_scans,
        n_subjects, n_missing, n_folds, n_repeats.
    predictions : DataFrame
        One row a method, repeat and scan: method, target, split, repeat, fold, scan, subject,
        truth, prediction, and score_<class> a class.
    splits : DataFrame
        Columns split, repeat, fold, scan and part.
    settings : mapping
        All that is needed to compute this again, as plain values.
    """

    table: pd.DataFrame
    predictions: pd.DataFrame
    splits: pd.DataFrame
    settings: Mapping[str, Any]


def compare(
    store: Store,
    embeddings: Mapping[str, Embeddings],
    target: str,
    *,
    kind: Literal["auto", "classification", "regression"] = "auto",
    splits: Literal["subject", "site"] = "subject",
    site_column: str = "site",
    family_column: str | None = None,
    n_folds: int = 5,
    repeats: int = 5,
    seed: int = 0,
    classifier: Classifier = "ridge",
    n_draws: int = 1000,
    connectivity: Float[NDArray[np.floating[Any]], "scan edge"] | None = None,
    reference: str | None = None,
    leave_out: Sequence[str] = (),
    same_recordings: Literal["refuse", "leave-out"] = "refuse",
    baselines: Sequence[ClosedForm] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Predict a target from each embedding, from connectivity and from nothing, on the same splits.

    Where the table of scans knows two sites, the site alone is a method, too, and scores within
    sites stand beside the others.

    Parameters
    ----------
    store : Store
        The scans.
    embeddings : mapping of str to Embeddings
        Features of all scans of the store, by the name that the table shall show.
    target : str
        Column of the store's table of scans.
    kind : {"auto", "classification", "regression"}
        "auto" means regression for a number with more than 10 different values.
    splits : {"subject", "site"}
        Repeated folds of subjects, or one site left out at a time.
    site_column : str
        Column that names the site, for site splits.
    family_column : str, optional
        Column that names the family: relatives stay in one part, are drawn together for the
        intervals, and are left out together where a penalty is chosen.
    n_folds, repeats : int
        Folds, and how often the subjects are divided anew; for subject splits.
    seed : int
        Seed of the divisions and of the draws.
    classifier : {"ridge", "logistic"}
        Linear model for classes.
    n_draws : int
        Draws for the intervals: of subjects, or, where subjects are divided only once (one repeat
        or site splits), of folds and then of subjects in them.
    connectivity : ndarray of shape (scan, edge), optional
        What `connectivity_features` returned for the store, if it is there already.
    reference : str, optional
        One of the embeddings, which all others are held against too: columns reference and
        reference_difference, reference_difference_low, reference_difference_high.
    leave_out : sequence of str
        Names of scans that take no part.
    same_recordings : {"refuse", "leave-out"}
        What becomes of one recording under the names of two subjects: an error, or both scans are
        left out.
    baselines : sequence of {"log-connectivity", "components"}
        Closed forms that are methods, too: the logarithm of connectivity, and at most 400
        components of it that are learned without labels in every training part.
    progress : callable, optional
        Called with the number of methods that are done and the number of all.

    Returns
    -------
    Comparison
        Scores with 95 % intervals over subjects and splits, predictions, splits and settings.

    Raises
    ------
    InputError
        If the target cannot be used, embeddings do not belong to the store, no splits can be made,
        or a recording stands under the names of two people.
    ConfigurationError
        If an option has an unknown value.
    """
    _check_names(embeddings, baselines)
    if reference is not None and reference not in embeddings:
        raise ConfigurationError(
            f"there are no embeddings {reference!r} to hold others against; there are "
            f"{', '.join(embeddings)}."
        )
    if same_recordings == "leave-out":
        found = same_series(store)
        leave_out = [*leave_out, *sorted({scan for pair in found for scan in pair.scans})]
    kept = kept_scans(store, leave_out)
    task = read_task(store.scans[kept], target, kind)
    task = replace(task, rows=np.flatnonzero(kept)[task.rows])
    check_people(store, list(store.scans["scan"].iloc[task.rows].astype(str)))
    scans = store.scans.iloc[task.rows].reset_index(drop=True)
    features = {name: align(store, name, e)[task.rows] for name, e in embeddings.items()}
    made = divide(
        scans,
        task,
        splits=splits,
        site_column=site_column,
        family_column=family_column,
        n_folds=n_folds,
        repeats=repeats,
        seed=seed,
    )
    units = families_of(scans, family_column)
    edges = connectivity_features(store) if connectivity is None else connectivity
    if len(edges) != len(store):
        raise InputError(f"connectivity of {len(edges)} scans came for {len(store)} scans.")
    features[CONNECTIVITY] = rotate(edges[task.rows])
    logarithms = log_connectivity_features(store)[task.rows] if baselines else edges[:0]
    if "log-connectivity" in baselines:
        features["log-connectivity"] = rotate(logarithms)
    scaling = {name: scaling_of(one.feature_names) for name, one in embeddings.items()}
    predicted = _predict(features, scaling, task, made, units, classifier, progress)
    known: dict[str, Any] = {"kind": task.kind, "subjects": units}
    if "components" in baselines:
        predicted["components"] = component_predictions(logarithms, task.truth, made, **known)
    sites = sites_of(scans, task.truth)
    if sites is not None:
        predicted[SITE] = site_predictions(sites, task.truth, made, **known)
    predicted[DUMMY] = dummy_predictions(task.truth, made, kind=task.kind)
    weights = draw_weights(made, units, n_draws, seed)
    scores = {
        name: score_predictions(folds, task.truth, weights, kind=task.kind, sites=sites)
        for name, folds in predicted.items()
    }
    entries = logarithms.shape[1]
    widths = {"log-connectivity": entries, "components": min(entries, MOST)}
    widths[CONNECTIVITY] = edges.shape[1]
    table = splits_table(made, list(scans["scan"]))
    settings = {
        **_facts(store, task, made, table, scans),
        "leave_out": list(leave_out),
        "splits": splits,
        "site_column": site_column if splits == "site" else None,
        "family_column": family_column,
        "seed": seed,
        "classifier": classifier if task.kind == "classification" else None,
        "n_draws": n_draws,
        "confidence": _CONFIDENCE,
        "transductive": _transductive(store, embeddings),
        "methods": {
            name: _description(embeddings[name])
            if name in embeddings
            else {"n_features": widths.get(name, 0)}
            for name in predicted
        },
    }
    return Comparison(
        table=score_table(scores, settings, reference),
        predictions=prediction_table(predicted, task, scans),
        splits=table,
        settings=settings,
    )


def divide(
    scans: pd.DataFrame,
    task: Task,
    *,
    splits: Literal["subject", "site"],
    site_column: str = "site",
    family_column: str | None = None,
    n_folds: int,
    repeats: int,
    seed: int = 0,
) -> list[Split]:
    """Divide the subjects at random, or leave one site out."""
    if splits == "site":
        return _site_splits(scans, task, site_column, family_column)
    if splits != "subject":
        raise ConfigurationError(f"splits must be subject or site, not {splits!r}.")
    labels = task.name(task.truth)
    made = SubjectFolds(n_folds, repeats, family_column=family_column, seed=seed)
    return made.splits(scans, labels, kind=task.kind)


def write_comparison(comparison: Comparison, folder: str | Path) -> Path:
    """Write a comparison to a new folder, all of it or nothing.

    Parameters
    ----------
    comparison : Comparison
        What `compare` returned.
    folder : str or path
        New folder: scores.csv, scores.parquet, predictions.parquet, splits.json (with a hash),
        settings.json.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the folder exists, or it cannot be written.
    """
    folder = Path(folder)
    try:
        with new_folder(folder) as beside:
            comparison.table.to_csv(beside / "scores.csv", index=False)
            comparison.table.to_parquet(beside / "scores.parquet", index=False)
            comparison.predictions.to_parquet(beside / "predictions.parquet", index=False)
            _write_json(splits_record(comparison.splits), beside / "splits.json", None)
            _write_json(comparison.settings, beside / "settings.json")
    except FileExistsError as error:
        raise InputError(
            f"{folder} exists already. Name another folder, or remove it first."
        ) from error
    except OSError as error:
        raise InputError(f"the comparison could not be written to {folder}: {error}.") from error
    return folder


def _check_names(embeddings: Mapping[str, Embeddings], baselines: Sequence[str]) -> None:
    """Refuse the names of the baselines, and baselines that there are not."""
    unknown = [name for name in baselines if name not in get_args(ClosedForm)]
    if unknown:
        raise ConfigurationError(
            f"there is no baseline {unknown[0]!r}; there are {', '.join(get_args(ClosedForm))}."
        )
    taken = [name for name in embeddings if name in (CONNECTIVITY, SITE, DUMMY, *baselines)]
    if taken:
        raise ConfigurationError(
            f"embeddings cannot be called {taken[0]!r}: this is the name of a baseline that is in "
            "every table. Give them another name."
        )


def _site_splits(
    scans: pd.DataFrame, task: Task, site_column: str, family_column: str | None
) -> list[Split]:
    """Leave one site out, unless the site is what is to be predicted."""
    if task.target == site_column:
        raise InputError(
            f"the target {task.target!r} is the site itself: a site that is left out cannot be "
            "recognised. Use subject splits for this target."
        )
    labels = task.name(task.truth)
    splitter = LeaveOneSiteOut(site_column=site_column, family_column=family_column)
    return splitter.splits(scans, labels, kind=task.kind)


def _predict(
    features: Mapping[str, NDArray[np.float64]],
    scaling: Mapping[str, Scaling],
    task: Task,
    splits: Sequence[Split],
    subjects: NDArray[Any],
    classifier: Classifier,
    progress: Callable[[int, int], None] | None,
) -> dict[str, tuple[FoldPrediction, ...]]:
    """Predict the target by every method on the same splits."""
    predicted = {}
    for name, values in features.items():
        predicted[name] = cross_validated_predictions(
            values,
            task.truth,
            splits,
            kind=task.kind,
            subjects=subjects,
            classifier=classifier,
            scaling=scaling.get(name, "center"),
        )
        if progress is not None:
            progress(len(predicted), len(features))
    return predicted


def _facts(
    store: Store,
    task: Task,
    splits: Sequence[Split],
    table: pd.DataFrame,
    scans: pd.DataFrame,
) -> dict[str, Any]:
    """Collect what a comparison was computed on, as plain values."""
    counts = np.unique(task.truth, return_counts=True)[1] if task.classes else ()
    return {
        "target": task.target,
        "kind": task.kind,
        "classes": dict(zip(task.classes, map(int, counts), strict=True)),
        "n_scans": len(scans),
        "n_subjects": int(scans["subject"].nunique()),
        "n_missing": task.n_missing,
        "n_folds": len({split.fold for split in splits}),
        "n_repeats": n_repeats(splits),
        "resampling": "subjects" if n_repeats(splits) > 1 else "folds, then subjects",
        "splits_sha256": splits_record(table)["sha256"],
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "atlas": {"name": store.atlas.name, "fingerprint": store.atlas.fingerprint},
        "semantoks": semantoks.__version__,
    }


def _transductive(store: Store, embeddings: Mapping[str, Embeddings]) -> list[str]:
    """Name the embeddings whose encoder was pretrained on the very scans that are tested."""
    return [
        name
        for name, embedding in embeddings.items()
        if embedding.provenance.get("trained_on") == store.fingerprint
    ]


def _description(embeddings: Embeddings) -> dict[str, Any]:
    """Say what an embedding is."""
    return {
        "n_features": len(embeddings.feature_names),
        "provenance": dict(embeddings.provenance) or "unknown",
    }


def _write_json(content: Mapping[str, Any], path: Path, indent: int | None = 2) -> None:
    """Write plain values."""
    path.write_text(json.dumps(content, indent=indent) + "\n", encoding="utf-8")


def comparison_table(comparison: Comparison) -> Table:
    """Lay a comparison out for the terminal."""
    settings = comparison.settings
    how = "one site left out" if settings["splits"] == "site" else "folds of subjects"
    shown = Table(
        title=escape(f"{settings['target']} ({settings['kind']}, {how})"),
        caption=escape(_caption(settings)),
    )
    shown.add_column("", overflow="fold")
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("minus connectivity", justify="right", no_wrap=True)
    for name in comparison.table["metric"].unique():
        better = " (lower is better)" if name in LOWER_IS_BETTER else ""
        shown.add_row(name.replace("_", " ") + better, style="bold")
        rows = comparison.table[comparison.table["metric"] == name]
        numbers = rows[["value", "low", "high"]].to_numpy(dtype=np.float64)
        differences = rows[["difference", "difference_low", "difference_high"]].to_numpy(np.float64)
        for method, number, difference in zip(rows["method"], numbers, differences, strict=True):
            method = escape(f"  {method}")
            shown.add_row(method, _with_interval(number), _difference(difference))
        shown.add_section()
    return shown


def scores_tables(scores: pd.DataFrame) -> list[Table]:
    """Lay the scores of a study out for the terminal, the deciding metric of each target."""
    tables = []
    for (target, split), part in scores.groupby(["target", "split"], sort=False):
        metric = METRICS[part["kind"].iloc[0]][0]
        rows = part[part["metric"] == metric]
        shown = Table(
            title=escape(f"{target}, split by {split}: {metric.replace('_', ' ')}"),
            caption=_tested(rows),
        )
        shown.add_column("", overflow="fold")
        for heading in ("value", "minus connectivity", "p (Holm)"):
            shown.add_column(heading, justify="right", no_wrap=True)
        for _, row in rows.iterrows():
            numbers = row[["value", "low", "high"]].to_numpy(dtype=np.float64)
            names = ["difference", "difference_low", "difference_high"]
            differences = row[names].to_numpy(dtype=np.float64)
            p = float(row["p_corrected"])
            shown.add_row(
                escape(str(row["method"])),
                _with_interval(numbers),
                _difference(differences),
                "" if np.isnan(p) else f"{p:.3f}",
            )
        tables.append(shown)
    return tables


def _tested(rows: pd.DataFrame) -> str:
    """Say how many scans have the target, how many of them were tested, and how many have none."""
    n_scans, n_tested, n_missing = (
        int(rows[name].max()) for name in ("n_scans", "n_tested", "n_missing")
    )
    tested = "all" if n_tested == n_scans else str(n_tested)
    missing = f"; {n_missing} more lack the target" if n_missing else ""
    return f"{n_scans} scans of {rows['n_subjects'].max()} subjects, {tested} tested{missing}."


def _caption(settings: Mapping[str, Any]) -> str:
    """Say what was tested, and how the intervals are to be read."""
    missing = f", {settings['n_missing']} without the target" if settings["n_missing"] else ""
    lines = [
        f"{settings['n_scans']} scans of {settings['n_subjects']} subjects{missing}.",
        "In brackets: 95 % interval over subjects and splits. *: zero is outside.",
    ]
    if settings["n_repeats"] == 1:
        folds = "sites" if settings["splits"] == "site" else "folds"
        lines.append(f"One division only: the interval is over {folds}, then subjects in them.")
    if settings["transductive"]:
        names = ", ".join(settings["transductive"])
        lines.append(f"Pretraining saw these scans, without labels: {names}.")
    return "\n".join(lines)


def _with_interval(number: NDArray[np.float64], form: str = "{:.3f}") -> str:
    """Write a value with its interval, or that there is none."""
    if np.isnan(number[0]):
        return "not defined"
    value, low, high = (form.format(x) for x in number)
    return escape(f"{value} [{low}, {high}]")


def _difference(number: NDArray[np.float64]) -> str:
    """Write a difference with its interval, marked if zero is outside; nothing if there is none."""
    value, low, high = number
    if np.isnan(value):
        return ""
    return _with_interval(number, "{:+.3f}") + (" *" if low > 0 or high < 0 else "  ")
