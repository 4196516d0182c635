"""What an audit found, as sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pandas as pd

from semantoks.evaluation.audit import Association
from semantoks.evaluation.metrics import METRICS
from semantoks.evaluation.same_series import SameSeries

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
