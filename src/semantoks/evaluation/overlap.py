"""Overlap with pretraining subjects, and association of targets with sites."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray
from scipy import stats

from semantoks.data.selection import Selection, select_scans, selection_fingerprint
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.confounds import as_text
from semantoks.evaluation.same_series import same_series
from semantoks.evaluation.split_files import named_splits, read_record
from semantoks.evaluation.splits import Kind, subjects_of
from semantoks.model.checkpoint import seen_subjects

QUANTITIES: Final = ("site", "motion", "t_r", "length")
"""What features should not tell: columns of the table of scans. Motion is the mean framewise
displacement in mm, t_r the repetition time as measured in s, length the samples of the series."""

Knowledge = Literal["all scans", "part of the store", "by identifier", "unknown"]
"""How it is known which scans a model was trained on. It was trained on this very store, or on
some of its people: these are certain. Or it carries hashes of identifiers, made for another store:
then a person of the same identifier may be another one, of another cohort, and a person who was
seen may have another identifier. Or it says nothing."""


class Association(NamedTuple):
    """How much the site tells of the target."""

    measure: str
    effect: float
    p: float
    n_subjects: int


class Contamination(NamedTuple):
    """Which scans are of people that a model was trained on."""

    seen: NDArray[np.bool_]
    knowledge: Knowledge


def auditable(scans: pd.DataFrame) -> tuple[str, ...]:
    """Name the quantities that differ between the scans.

    Examples
    --------
    >>> auditable(pd.DataFrame({"site": ["a", "b"], "t_r": [2.0, 2.0], "motion": [None, None]}))
    ('site',)
    """
    return tuple(
        name
        for name in QUANTITIES
        if name in scans.columns and len({*as_text(scans[name])} - {""}) > 1
    )


def site_association(
    truth: Shaped[NDArray[Any], "scan"],
    sites: Shaped[NDArray[Any], "scan"],
    subjects: Shaped[NDArray[Any], "scan"],
    *,
    kind: Kind,
) -> Association:
    """Measure how much the site tells of the target.

    Examples
    --------
    >>> truth, sites = np.repeat([0, 1], 20), np.repeat(["Oslo", "Rome"], 20)
    >>> site_association(truth, sites, np.arange(40), kind="classification").effect
    1.0
    """
    first = np.unique(subjects, return_index=True)[1]
    values, place = truth[first], np.unique(sites[first], return_inverse=True)[1]
    if place.max(initial=0) < 1:
        raise InputError("whether the site explains the target needs at least two sites.")
    if kind == "classification":
        counts = np.asarray(stats.contingency.crosstab(values, place).count)
        test = stats.chi2_contingency(counts, correction=False)
        effect = stats.contingency.association(counts, method="cramer")
        return Association("Cramér's V", float(effect), float(test.pvalue), len(first))
    groups = [values[place == k] for k in range(place.max() + 1)]
    within = sum(((g - g.mean()) ** 2).sum() for g in groups)
    total = ((values - values.mean()) ** 2).sum()
    several = [g for g in groups if len(g) > 1]
    p = float(stats.f_oneway(*several).pvalue) if len(several) > 1 else float("nan")
    return Association("η²", float(1 - within / total), p, len(first))


def contamination(
    provenance: Mapping[str, Any], scans: pd.DataFrame, fingerprint: str
) -> Contamination:
    """Find the scans of people that a model was trained on, as far as its provenance tells.

    It is certain for a model that was trained on this very store, or on all scans of some of its
    people. For any other, identifiers are compared as they are written, since a model carries
    nothing else of its people. That errs in both ways: a person who has another identifier in the
    training cohort is not found, and a person of another cohort who has the same identifier
    (sub-001, say) is taken for one who was seen. Identifiers that name their cohort avoid both.

    Examples
    --------
    >>> from semantoks.model.checkpoint import hash_subjects
    >>> provenance = {"subjects": hash_subjects(["sub-01"], salt="abc")}
    >>> contamination(provenance, pd.DataFrame({"subject": ["sub-01", "sub-02"]}), "f0").seen
    array([ True, False])
    """
    people = subjects_of(scans)
    if provenance.get("store", {}).get("fingerprint") == fingerprint:
        return Contamination(np.ones(len(people), dtype=bool), "all scans")
    if not provenance.get("subjects"):
        return Contamination(np.zeros(len(people), dtype=bool), "unknown")
    seen = np.isin(people, seen_subjects(provenance, np.unique(people).tolist()))
    trained_on = provenance.get("store", {}).get("fingerprint")
    part = seen.any() and selection_fingerprint(fingerprint, np.flatnonzero(seen)) == trained_on
    return Contamination(seen, "part of the store" if part else "by identifier")


def unseen(
    provenance: Mapping[str, Any], scans: pd.DataFrame, fingerprint: str, model: str = "the model"
) -> NDArray[np.bool_]:
    """Return the scans of people that a model was not trained on.

    Where only identifiers can be compared, people of the same identifiers count as seen; see
    `contamination`.
    """
    found = contamination(provenance, scans, fingerprint)
    if found.knowledge == "unknown":
        raise InputError(
            f"{model} does not say whom it was trained on (no hashes of subjects in its "
            "provenance), so that people it has seen cannot be left out. Pretrain it again with "
            "this version, or compare without leaving people out."
        )
    if found.seen.all():
        if found.knowledge == "by identifier":
            raise InputError(
                f"{model} was trained on people of the same identifiers as all of these: nobody is "
                "left if they are left out. Identifiers alone are compared. If these are other "
                "people, who only bear the same names (such as sub-001), do not exclude what this "
                "model has seen, or prepare the scans with identifiers that name the cohort. If "
                "they are the same, test on another cohort, or pretrain on a part of this one."
            )
        raise InputError(
            f"{model} was trained on this very store: nobody is left if people that it has seen "
            "are left out. Test on another cohort, or pretrain on a part of this one."
        )
    return ~found.seen


def people_to_train_on(
    store: Store, path: Path, *, repeat: int = 0, fold: str | None = None
) -> Selection:
    """Take everybody of a store but the people who are tested by a split.

    People of the store who are in no part of the split are taken too: nothing is tested on them.
    Not taken are other names of people who are tested, found by the series themselves: who left
    one of two names out of a study has it in the store still.
    """
    record = read_record(path)
    known = named_splits(record, path)
    found = [s for s in known if s.repeat == repeat and fold in (None, s.fold)]
    if len(found) != 1:
        there = ", ".join(f"repeat {s.repeat} fold {s.fold}" for s in known[:6])
        raise InputError(
            f"{path} holds {len(found)} splits with repeat {repeat}"
            + ("" if fold is None else f" and fold {fold}")
            + f", but one was expected; it has {len(known)}: {there}. Give --repeat and --fold."
        )
    scans = store.scans["scan"].astype(str).to_numpy()
    tested = np.isin(scans, found[0].parts["test"])
    if tested.sum() != len(found[0].parts["test"]):
        absent = sorted(set(found[0].parts["test"]) - {*scans})
        raise InputError(
            f"{len(absent)} scan(s) of {path} are not in {store.path}, the first is {absent[0]!r}. "
            "Give the splits of this store."
        )
    people = subjects_of(store.scans)
    seen = _with_other_names(people[tested].tolist(), store)
    return select_scans(store, np.flatnonzero(~np.isin(people, sorted(seen))))


def _with_other_names(people: Iterable[str], store: Store) -> set[str]:
    """Return people and all their other names: a name may be known by way of a third one."""
    seen = {*people}
    pairs = [{*pair.subjects} for pair in same_series(store)]
    while found := {name for pair in pairs if pair & seen for name in pair - seen}:
        seen |= found
    return seen
