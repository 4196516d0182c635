"""What features tell beside the target, before and after harmonisation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

import semantoks
from semantoks.benchmark.baselines import confound_predictions, connectivity_features
from semantoks.benchmark.tasks import Task, align, draw_weights, kept_scans, read_task
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.confounds import as_text, confound_columns
from semantoks.evaluation.embedding import Embeddings
from semantoks.evaluation.harmonization import ComBat, ConfoundRegression
from semantoks.evaluation.linear import FoldPrediction, rotate, scaling_of
from semantoks.evaluation.metrics import CONNECTIVITY, METRICS
from semantoks.evaluation.overlap import Association, auditable, contamination, site_association
from semantoks.evaluation.probe import Preparation, cross_validated_predictions, score_predictions
from semantoks.evaluation.same_series import SameSeries, same_series
from semantoks.evaluation.splits import Split, subjects_of
from semantoks.evaluation.splitters import leave_one_site_out, subject_folds
from semantoks.files import new_folder

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
        yield Described(name, features, features, scaling_of(one.feature_names))
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


_CLEAR_P: Final = 0.01
_SUGGESTIVE_P: Final = 0.05
_WORDS: Final = {
    "site": "the site",
    "motion": "the motion",
    "t_r": "the repetition time",
    "length": "the length",
    "regression": "confounds regressed out",
    "combat": "ComBat",
}


def findings(
    table: pd.DataFrame,
    target: str | None,
    association: Association | None,
    models: Mapping[str, Mapping[str, Any]],
    twins: Sequence[SameSeries] = (),
) -> tuple[str, ...]:
    """Say what a reader of scores must know."""
    rows = table[table["metric"].isin([names[0] for names in METRICS.values()])]
    found = [*_of_twins(twins), *_of_contamination(models)]
    if target is not None:
        found += _of_confounds(rows, target, association)
        for method in rows.loc[rows["quantity"] == target, "method"].unique():
            if not str(method).endswith(" alone"):
                found += _of_target(rows, target, str(method))
    found += _of_quantities(rows, target)
    return tuple(found)


def _of_twins(twins: Sequence[SameSeries]) -> list[str]:
    """Say which people are one."""
    if not twins:
        return []
    first = " and ".join(twins[0].scans)
    return [
        f"{len(twins)} pair(s) of scans of different people are the same recording, such as "
        f"{first}: a split may learn from one and test the other (--leave-out)."
    ]


def _of_contamination(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say whom models have seen."""
    found = []
    for name, facts in models.items():
        if facts["known"] == "unknown":
            found.append(
                f"It is not known whom model {name} was trained on; it may have seen these people."
            )
        elif facts["n_seen"] and facts["known"] == "by identifier":
            found.append(
                f"Model {name} was trained on people of the same identifiers as those of "
                f"{facts['n_seen']} of {facts['n_scans']} scans, without labels. Identifiers alone "
                "are compared: if these are other people, of another cohort, this is no warning; "
                "if they are the same, --exclude-seen of probe leaves them out."
            )
        elif facts["n_seen"]:
            found.append(
                f"Model {name} was trained on the people of {facts['n_seen']} of "
                f"{facts['n_scans']} scans, without labels (--exclude-seen of probe leaves them "
                "out)."
            )
    return found


def _of_confounds(rows: pd.DataFrame, target: str, association: Association | None) -> list[str]:
    """Say whether site and confounds tell the target without any signal."""
    found = []
    alone = _one(rows, "site alone", target)
    tells = alone is not None and alone["low"] > alone["chance"]
    if association is not None and association.p < (_SUGGESTIVE_P if tells else _CLEAR_P):
        score = f"; the site alone reaches {_score(alone)}" if alone is not None else ""
        found.append(
            f"The site explains {target}: {association.measure} {association.effect:.2f} "
            f"(p = {association.p:.1g}, {association.n_subjects} subjects){score}. A score on "
            "subject splits may be that of the site."
        )
    confounds = _one(rows, "confounds alone", target)
    if confounds is not None and confounds["low"] > confounds["chance"]:
        found.append(f"Confounds alone tell {target}: {_score(confounds)}.")
    return found


def _of_target(rows: pd.DataFrame, target: str, method: str) -> list[str]:
    """Say whether a score outlives harmonisation, and sites that were not learned from."""
    before = _one(rows, method, target)
    if before is None or not before["low"] > before["chance"]:
        return []
    found = []
    confounds = _one(rows, "confounds alone", target)
    if confounds is not None and confounds["value"] >= before["value"]:
        found.append(
            f"{method} tells {target} no better ({_score(before)}) than confounds alone do "
            f"({_score(confounds)})."
        )
    for preparation in ("regression", "combat"):
        after = _one(rows, method, target, preparation)
        if after is not None and not after["low"] > after["chance"]:
            found.append(
                f"{method} tells {target} ({_score(before)}), but not after "
                f"{_WORDS[preparation]} ({_score(after)}): the score may stand on confounds."
            )
    elsewhere = _one(rows, method, target, split="site")
    if elsewhere is not None and not elsewhere["low"] > elsewhere["chance"]:
        found.append(
            f"{method} tells {target} ({_score(before)}), but not at sites that were not learned "
            f"from ({_score(elsewhere)})."
        )
    return found


def _of_quantities(rows: pd.DataFrame, target: str | None) -> list[str]:
    """Say what can be read from features beside the target, and whether it can be afterwards."""
    found = []
    others = rows[(rows["quantity"] != target) & (rows["preparation"] == "none")]
    for _, row in others.iterrows():
        if not row["low"] > row["chance"]:
            continue
        after = [
            f"{_score(later)} after {_WORDS[name]}"
            for name in ("regression", "combat")
            if (later := _one(rows, row["method"], row["quantity"], name)) is not None
        ]
        quantity = _WORDS.get(row["quantity"], row["quantity"])
        found.append(
            f"{row['method']} tells {quantity}: {_score(row)}"
            + (f"; {', '.join(after)}" if after else "")
            + "."
        )
    return found


def _one(
    rows: pd.DataFrame,
    method: str,
    quantity: str,
    preparation: str = "none",
    split: str = "subject",
) -> pd.Series[Any] | None:
    """Return the row of a score, None if it is not there."""
    found = rows[
        (rows["method"] == method)
        & (rows["quantity"] == quantity)
        & (rows["preparation"] == preparation)
        & (rows["split"] == split)
    ]
    return found.iloc[0] if len(found) else None


def _score(row: pd.Series[Any]) -> str:
    """Write a score with its interval and chance."""
    name = str(row["metric"]).replace("_", " ").replace("r2", "R²")
    return (
        f"{name} {row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}], chance "
        f"{row['chance']:.3f}"
    )


Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Audit:
    """What features tell beside the target."""

    table: pd.DataFrame
    scans: pd.DataFrame
    warnings: tuple[str, ...]
    settings: Mapping[str, Any]


def audit(
    store: Store,
    embeddings: Mapping[str, Embeddings],
    *,
    target: str | None = None,
    provenances: Mapping[str, Mapping[str, Any]] | None = None,
    n_folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    n_draws: int = 1000,
    leave_out: Sequence[str] = (),
    progress: Progress | None = None,
) -> Audit:
    """Read site, motion, repetition time and length from features, before and after harmonisation.

    Scans without a site, and of sites with fewer than twice as many subjects as folds, are left out
    where there are several sites.
    """
    taken = sorted({*embeddings} & {CONNECTIVITY, SITE_ALONE, CONFOUNDS_ALONE})
    if taken:
        raise ConfigurationError(f"{taken[0]!r} is the name of a baseline; give another name.")
    part = np.flatnonzero(kept_scans(store, leave_out))
    rows, notes = large_sites(store.scans.iloc[part], 2 * n_folds)
    kept = part[rows]
    scans = store.scans.iloc[kept].reset_index(drop=True)
    quantities = [name for name in auditable(scans) if name != target]
    if not quantities and target is None:
        raise InputError(
            "site, motion, repetition time and length do not differ between the scans, or are not "
            "known: there is nothing to audit. Name a target, or bring them with a table of scans."
        )
    bench = AuditBench(scans, n_folds, repeats, seed, n_draws, notes=notes)
    prepare = preparations(scans)
    methods = list(described_scans(store, embeddings, kept))
    wanted = [*quantities, *([target] if target else [])]
    for done, quantity in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), quantity)
        read_quantity(bench, quantity, methods, prepare)
    association = read_target(bench, target, methods) if target else None
    by_scan, models = _contamination(store, part, provenances or {})
    twins = same_series(store, list(store.scans["scan"].iloc[part].astype(str)))
    table = pd.DataFrame(bench.rows)
    settings = {
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "target": target,
        "site_and_target": association._asdict() if association else None,
        "contamination": models,
        "same_recordings": [list(pair.scans) for pair in twins],
        "embeddings": {n: dict(e.provenance) or "unknown" for n, e in embeddings.items()},
        "regressed": list(quantities),
        "leave_out": list(leave_out),
        "n_scans": len(scans),
        "n_subjects": int(scans["subject"].nunique()),
        "n_folds": n_folds,
        "repeats": repeats,
        "seed": seed,
        "n_draws": n_draws,
        "confidence": 0.95,
        "notes": bench.notes,
        "semantoks": semantoks.__version__,
    }
    return Audit(table, by_scan, findings(table, target, association, models, twins), settings)


def write_audit(found: Audit, folder: str | Path) -> Path:
    """Write an audit to a new folder, all of it or nothing."""
    folder = Path(folder)
    content = {"warnings": list(found.warnings), **found.settings}
    try:
        with new_folder(folder) as beside:
            found.table.to_csv(beside / "audit.csv", index=False)
            found.scans.to_csv(beside / "scans.csv", index=False)
            text = json.dumps(content, indent=2, ensure_ascii=False)
            (beside / "audit.json").write_text(text + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise InputError(
            f"{folder} exists already. Name another folder, or remove it first."
        ) from error
    except OSError as error:
        raise InputError(f"the audit could not be written to {folder}: {error}.") from error
    return folder


def _contamination(
    store: Store, part: NDArray[np.intp], provenances: Mapping[str, Mapping[str, Any]]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Find the scans of people that models have seen, among those that take part."""
    parts, models = list[pd.DataFrame](), dict[str, Any]()
    identity = store.scans[["scan", "subject"]].iloc[part].reset_index(drop=True)
    for name, provenance in provenances.items():
        found = contamination(provenance, store.scans, store.fingerprint)
        among, unknown = found.seen[part], found.knowledge == "unknown"
        seen = ["unknown" if unknown else str(bool(s)).lower() for s in among]
        parts.append(identity.assign(model=name, seen=seen)[["model", "scan", "subject", "seen"]])
        models[name] = {
            "known": found.knowledge,
            "n_seen": None if unknown else int(among.sum()),
            "n_scans": len(part),
        }
    columns = ["model", "scan", "subject", "seen"]
    empty = pd.DataFrame(columns=columns)
    return (pd.concat(parts, ignore_index=True) if parts else empty), models


_PREPARATIONS: Final = {"none": "as they are", "regression": "regressed", "combat": "ComBat"}


def audit_table(found: Audit) -> Table:
    """Lay an audit out for the terminal."""
    shown = Table(
        title="what the features tell",
        caption=escape(
            f"{found.settings['n_scans']} scans of {found.settings['n_subjects']} subjects; in "
            "brackets: 95 % interval.\n"
            f"Regressed out: {', '.join(found.settings['regressed']) or 'nothing'};\n"
            "a linear model cannot read these afterwards, by construction. Others may."
        ),
    )
    shown.add_column("", overflow="fold")
    shown.add_column("features")
    shown.add_column("score", justify="right", no_wrap=True)
    deciding = [names[0] for names in METRICS.values()]
    table = found.table[found.table["metric"].isin(deciding)]
    for (quantity, split), rows in table.groupby(["quantity", "split"], sort=False):
        first = rows.iloc[0]
        metric = str(first["metric"]).replace("_", " ").replace("r2", "R²")
        where = ", one site left out" if split == "site" else ""
        shown.add_row(escape(f"{quantity}{where}"), style="bold")
        shown.add_row(escape(f"{metric}, chance {first['chance']:.3f}"), style="bold")
        for method, own in rows.groupby("method", sort=False):
            label = f"  {method}"
            for _, row in own.iterrows():
                words = _PREPARATIONS[row["preparation"]]
                if str(method) in (SITE_ALONE, CONFOUNDS_ALONE):
                    words = ""  # there are no features to be prepared
                shown.add_row(escape(label), words, _score_cell(row))
                label = ""
        shown.add_section()
    return shown


def _score_cell(row: pd.Series[Any]) -> str:
    """Write a score with its interval."""
    return escape(f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")
