"""Reliability of several descriptions of the same scans, connectivity among them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

import semantoks
from semantoks.benchmark.baselines import connectivity_features, connectivity_halves
from semantoks.benchmark.tasks import align
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import Embeddings
from semantoks.evaluation.metrics import CONNECTIVITY, bootstrap_weights, interval
from semantoks.evaluation.readout import FeatureKind
from semantoks.evaluation.reliability import (
    Repeated,
    check_halves,
    half_features,
    identify,
    intraclass_correlation,
    repeated_recordings,
)
from semantoks.evaluation.splits import subjects_of
from semantoks.files import new_folder
from semantoks.model.encoder import SemantoksEncoder

HALVES: Final = "halves of a scan"
"""What is compared where it is not two sessions."""
_ICC_DRAWS: Final = 200
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Reliability:
    """How reliable descriptions of scans are."""

    table: pd.DataFrame
    features: pd.DataFrame
    settings: Mapping[str, Any]


class _Measured(NamedTuple):
    """A measure of one method, in all draws."""

    value: float
    draws: NDArray[np.float64]
    chance: float = float("nan")


class _Recordings(NamedTuple):
    """Two recordings of the same people (or scans), described by one method."""

    method: str
    between: str
    pairs: Repeated
    names: list[str]


def measure_reliability(
    store: Store,
    embeddings: Mapping[str, Embeddings],
    *,
    models: Mapping[str, SemantoksEncoder] | None = None,
    sessions: tuple[str, str] | None = None,
    features: FeatureKind = "mean+cls",
    window: int | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> Reliability:
    """Measure how well people are found again, between sessions and between halves of a scan."""
    taken = {*embeddings, *(models or {})}
    if CONNECTIVITY in taken:
        raise ConfigurationError(f"{CONNECTIVITY!r} is the baseline; give the others other names.")
    for encoder in (models or {}).values():
        check_halves(store, encoder, window=window)
    described = {name: align(store, name, e) for name, e in embeddings.items()}
    names = {name: e.feature_names for name, e in embeddings.items()}
    notes = _without_retest(store, sessions)
    sources = _count(embeddings, models or {}, retest=not notes)
    rows, per_feature = list[dict[str, Any]](), list[pd.DataFrame]()
    reference: dict[tuple[str, str], _Measured] = {}
    all_recordings = _recordings(
        store, described, names, models or {}, sessions, features, window, retest=not notes
    )
    for done, recordings in enumerate(all_recordings):
        if progress is not None:
            progress(done, sources, f"{recordings.method}, {recordings.between}")
        measured, table = _measure(recordings, n_draws, seed)
        for measure, found in measured.items():
            key = (recordings.between, measure)
            reference.setdefault(key, found)  # connectivity comes first
            rows.append(_row(recordings, measure, found, reference[key]))
        per_feature.append(table)
    settings = {
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "sessions": list(sessions) if sessions else None,
        "models": {name: {"features": features, "window": window} for name in models or {}},
        "embeddings": {n: dict(e.provenance) or "unknown" for n, e in embeddings.items()},
        "n_draws": n_draws,
        "icc_draws": min(n_draws, _ICC_DRAWS),
        "seed": seed,
        "confidence": 0.95,
        "notes": notes,
        "semantoks": semantoks.__version__,
    }
    return Reliability(pd.DataFrame(rows), pd.concat(per_feature, ignore_index=True), settings)


def write_reliability(reliability: Reliability, folder: str | Path) -> Path:
    """Write reliabilities to a new folder, all of it or nothing."""
    folder = Path(folder)
    try:
        with new_folder(folder) as beside:
            reliability.table.to_csv(beside / "reliability.csv", index=False)
            reliability.features.to_parquet(beside / "features.parquet", index=False)
            text = json.dumps(dict(reliability.settings), indent=2)
            (beside / "settings.json").write_text(text + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise InputError(
            f"{folder} exists already. Name another folder, or remove it first."
        ) from error
    except OSError as error:
        raise InputError(f"reliabilities could not be written to {folder}: {error}.") from error
    return folder


def _without_retest(store: Store, sessions: tuple[str, str] | None) -> list[str]:
    """Say why there is no retest, unless one was asked for by name; nothing if there is one."""
    try:
        repeated_recordings(np.zeros((len(store), 1)), store.scans, sessions)
    except InputError as error:
        if sessions is not None:
            raise
        return [f"No retest: {error}"]
    return []


def _count(embeddings: Mapping[str, Embeddings], models: Mapping[str, Any], *, retest: bool) -> int:
    """Count what is to be measured."""
    return (1 + len(embeddings) if retest else 0) + 1 + len(models)


def _recordings(
    store: Store,
    described: Mapping[str, NDArray[np.float64]],
    names: Mapping[str, list[str]],
    models: Mapping[str, SemantoksEncoder],
    sessions: tuple[str, str] | None,
    features: FeatureKind,
    window: int | None,
    *,
    retest: bool,
) -> Iterator[_Recordings]:
    """Yield what is to be measured, connectivity first."""
    labels = np.array(store.atlas.labels, dtype=object)
    lower = np.tril_indices(len(labels), -1)
    edges = [f"{a} - {b}" for a, b in zip(labels[lower[0]], labels[lower[1]], strict=True)]
    if retest:
        pairs = repeated_recordings(connectivity_features(store), store.scans, sessions)
        between = f"sessions {pairs.sessions[0]}, {pairs.sessions[1]}"
        yield _Recordings(CONNECTIVITY, between, pairs, edges)
        for name, values in described.items():
            own = repeated_recordings(values, store.scans, sessions)
            yield _Recordings(name, between, own, names[name])
    people = subjects_of(store.scans)
    halves = np.stack(connectivity_halves(store))
    yield _Recordings(CONNECTIVITY, HALVES, Repeated(halves, people, ("first", "second")), edges)
    for name, encoder in models.items():
        halves = np.stack(half_features(store, encoder, features=features, window=window))
        own_names = [f"{features}_{i:04d}" for i in range(halves.shape[2])]
        yield _Recordings(name, HALVES, Repeated(halves, people, ("first", "second")), own_names)


def _measure(
    recordings: _Recordings, n_draws: int, seed: int
) -> tuple[dict[str, _Measured], pd.DataFrame]:
    """Compute all measures of one method, with the draws that all methods share."""
    pairs = recordings.pairs
    weights = bootstrap_weights(pairs.subjects, n_draws, seed)
    measured = {}
    for name, centering in (("identification", "features"), ("identification_raw", "none")):
        found = identify(*pairs.features, centering=centering)  # type: ignore[arg-type]
        measured[name] = _averaged(found.hits.mean(axis=0), weights, found.chance)
        if centering == "features":
            measured["own_correlation"] = _averaged(found.own, weights)
            measured["correlation_with_others"] = _averaged(found.others, weights)
    of_features = {
        f"icc_{kind}": intraclass_correlation(pairs.features, kind)
        for kind in ("agreement", "consistency")
    }
    for kind in ("agreement", "consistency"):
        draws = intraclass_correlation(pairs.features, kind, weights[:_ICC_DRAWS])
        measured[f"median_icc_{kind}"] = _Measured(
            _median(of_features[f"icc_{kind}"]), np.array([_median(row) for row in draws])
        )
    table = pd.DataFrame({"feature": recordings.names, **of_features})
    table.insert(0, "between", recordings.between)
    table.insert(0, "method", recordings.method)
    return measured, table


def _averaged(
    values: NDArray[np.float64], weights: NDArray[np.float64], chance: float = float("nan")
) -> _Measured:
    """Average over people, once and in every draw."""
    return _Measured(float(values.mean()), weights @ values / weights.sum(axis=1), chance)


def _median(values: NDArray[np.float64]) -> float:
    """Return the median of what is defined."""
    defined = values[np.isfinite(values)]
    return float(np.median(defined)) if len(defined) else float("nan")


def _row(
    recordings: _Recordings, measure: str, found: _Measured, reference: _Measured
) -> dict[str, Any]:
    """Lay a measure out, with its difference to connectivity."""
    same = recordings.method == CONNECTIVITY
    low, high = interval(found.draws)
    paired = (float("nan"),) * 2 if same else interval(found.draws - reference.draws)
    return {
        "method": recordings.method,
        "between": recordings.between,
        "measure": measure,
        "value": found.value,
        "low": low,
        "high": high,
        "chance": found.chance,
        "difference": float("nan") if same else found.value - reference.value,
        "difference_low": paired[0],
        "difference_high": paired[1],
        "n_subjects": len(np.unique(recordings.pairs.subjects)),
        "n_recordings": len(recordings.pairs.subjects),
        "n_features": recordings.pairs.features.shape[2],
    }


_WORDS: Final = {
    "identification": "identified",
    "identification_raw": "identified, mean not taken off",
    "median_icc_agreement": "ICC(2,1), median feature",
    "median_icc_consistency": "ICC(3,1), median feature",
}


def reliability_table(reliability: Reliability) -> Table:
    """Lay reliabilities out for the terminal."""
    shown = Table(title="reliability", caption=escape(_caption(reliability)))
    shown.add_column("", overflow="fold")
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("minus connectivity", justify="right", no_wrap=True)
    for between, of_pair in reliability.table.groupby("between", sort=False):
        first = of_pair.iloc[0]
        shown.add_row(escape(f"{between} ({first['n_recordings']} compared)"), style="bold")
        for measure in _WORDS:
            rows = of_pair[of_pair["measure"] == measure]
            chance = rows["chance"].iloc[0]
            known = f" (chance {chance:.3f})" if np.isfinite(chance) else ""
            shown.add_row(escape(f" {_WORDS[measure]}{known}"))
            for _, row in rows.iterrows():
                shown.add_row(escape(f"   {row['method']}"), _value(row), _difference(row))
        shown.add_section()
    return shown


def _caption(reliability: Reliability) -> str:
    """Say how the intervals are to be read, and what is not there."""
    lines = ["In brackets: 95 % interval over subjects. *: zero is outside."]
    return "\n".join([*lines, *reliability.settings["notes"]])


def _value(row: pd.Series) -> str:
    """Write a value with its interval."""
    if np.isnan(row["value"]):
        return "not defined"
    return escape(f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]")


def _difference(row: pd.Series) -> str:
    """Write a difference with its interval, marked if zero is outside."""
    if np.isnan(row["difference"]):
        return ""
    low, high = row["difference_low"], row["difference_high"]
    mark = " *" if low > 0 or high < 0 else "  "
    return escape(f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]") + mark
