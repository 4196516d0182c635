"""Whom the models of a study have seen, and who takes part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.benchmark.study_plan import StudyPlan
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.audit import contamination
from semantoks.evaluation.splits import subjects_of
from semantoks.model.checkpoint import load_model

Seen = Mapping[str, frozenset[str] | None]
"""Model -> people of the store that it was trained on; None where it does not say."""


def people_seen(plan: StudyPlan, store: Store) -> Seen:
    """Find the people that each model was trained on."""
    subjects = subjects_of(store.scans)
    seen: dict[str, frozenset[str] | None] = {}
    for name, model in plan.models.items():
        if model.weights == "fresh":
            seen[name] = frozenset()
            continue
        found = contamination(load_model(model.model).provenance, store.scans, store.fingerprint)
        known = found.knowledge != "unknown"
        seen[name] = frozenset(subjects[found.seen].tolist()) if known else None
    return seen


def unseen_scans(plan: StudyPlan, seen: Seen, store: Store) -> NDArray[np.bool_]:
    """Say which scans are of people that no model has seen; all unless the plan excludes them."""
    if not plan.exclude_seen:
        return np.ones(len(store), dtype=bool)
    everybody = set[str]()
    for name, people in seen.items():
        if people is None:
            raise InputError(
                f"model {name!r} ({plan.models[name].model}) does not say whom it was trained on "
                "(no hashes of subjects in its provenance), so that people it has seen cannot be "
                "left out. Pretrain it again with this version, or say exclude_seen: false."
            )
        everybody |= people
    kept = ~np.isin(subjects_of(store.scans), sorted(everybody))
    if not kept.any():
        raise InputError(
            f"every subject of {store.path}, or somebody else of the same identifier, was in the "
            "pretraining of a model of this study, so that exclude_seen leaves nobody. Probe "
            "another cohort, or, if they are known to be others, say exclude_seen: false."
        )
    return kept


def with_seen(scores: pd.DataFrame, seen: Seen, taking_part: NDArray[Any]) -> pd.DataFrame:
    """Say of how many of the people that take part the model of a method has seen scans."""
    present = {*taking_part.tolist()}

    def count(method: str) -> float:
        names = [name for name in seen if method.startswith((f"{name}, ", f"{name} "))]
        people = seen[max(names, key=len)] if names else frozenset[str]()
        return float("nan") if people is None else len(people & present)

    return scores.assign(n_seen=scores["method"].map(count))
