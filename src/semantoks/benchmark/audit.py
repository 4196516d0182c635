"""What features tell beside the target, before and after harmonisation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import semantoks
from semantoks.benchmark.audit_findings import findings
from semantoks.benchmark.audit_scores import (
    CONFOUNDS_ALONE,
    SITE_ALONE,
    AuditBench,
    described_scans,
    large_sites,
    preparations,
    read_quantity,
    read_target,
)
from semantoks.benchmark.tasks import kept_scans
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.audit import auditable, contamination
from semantoks.evaluation.embedding_file import Embeddings
from semantoks.evaluation.metrics import CONNECTIVITY
from semantoks.evaluation.same_series import same_series
from semantoks.files import new_folder

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
