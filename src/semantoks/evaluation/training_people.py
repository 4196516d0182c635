"""Whom a model may be pretrained on so that it has never seen the people that test it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from semantoks.data.selection import Selection, select_scans
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.same_series import same_series
from semantoks.evaluation.split_table import named_splits, read_record
from semantoks.evaluation.splits import subjects_of


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
