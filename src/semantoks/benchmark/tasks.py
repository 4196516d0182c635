"""What is to be predicted, and of which scans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.evaluation.embedding import Embeddings
from semantoks.evaluation.metrics import bootstrap_weights
from semantoks.evaluation.splits import Kind, Split

_NO_TARGET: Final = frozenset({"scan", "subject", "source", "offset"})
_MOST_NUMERIC_CLASSES = 10


@dataclass(frozen=True)
class Task:
    """A target and the scans of which it is known."""

    target: str
    kind: Kind
    rows: NDArray[np.intp]
    truth: Shaped[NDArray[Any], "scan"]
    classes: tuple[str, ...]
    n_missing: int

    def name(self, values: Shaped[NDArray[Any], "scan"]) -> Shaped[NDArray[Any], "scan"]:
        """Return codes as names of classes, values as they are."""
        return np.array(self.classes, dtype=str)[values] if self.classes else values


def read_task(
    scans: pd.DataFrame, target: str, kind: Literal["auto", "classification", "regression"] = "auto"
) -> Task:
    """Take a target out of the table of scans; scans without it are left out and counted.

    Examples
    --------
    >>> table = pd.DataFrame({"scan": list("abcd"), "sex": [1.0, 2.0, None, 1.0]})
    >>> task = read_task(table, "sex")
    >>> task.classes, task.truth, task.n_missing
    (('1', '2'), array([0, 1, 0]), 1)
    """
    if kind not in ("auto", "classification", "regression"):
        raise ConfigurationError(
            f"the kind of a target is auto, classification or regression, not {kind!r}."
        )
    available = [str(name) for name in scans.columns if name not in _NO_TARGET]
    if target not in available:
        raise InputError(
            f"there is no target {target!r} in the table of scans.{nearest(target, available)} "
            f"Available are {', '.join(available)}."
        )
    column = scans[target].map(lambda value: value.strip() if isinstance(value, str) else value)
    known = (column.notna() & (column.astype(str) != "")).to_numpy()
    rows = np.flatnonzero(known)
    values = column[known]
    if not len(rows):
        raise InputError(f"target {target!r} is missing in all of the {len(scans)} scans.")
    numeric = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if (values if numeric else values.astype(str)).nunique() < 2:
        raise InputError(
            f"target {target!r} has the same value, '{values.iloc[0]}', in all of the {len(rows)} "
            "scans that have one: there is nothing to predict."
        )
    if kind == "auto":
        many = numeric and values.nunique() > _MOST_NUMERIC_CLASSES
        kind = "regression" if many else "classification"
    truth, classes = _numbers(values, target) if kind == "regression" else _codes(values)
    return Task(target, kind, rows, truth, classes, len(scans) - len(rows))


def _numbers(values: pd.Series[Any], target: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Read values for a regression."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(numbers))
    if len(broken):
        raise InputError(
            f"target {target!r} is {values.iloc[broken[0]]!r} in {len(broken)} scan(s), which is "
            "not a finite number, so that it cannot be predicted by regression. Ask for "
            "classification, or correct the table."
        )
    return numbers, ()


def _codes(values: pd.Series[Any]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Give each class a code, in the order of numbers if the classes are numbers."""
    numeric = pd.api.types.is_numeric_dtype(values)
    found = values.astype(np.float64) if numeric else values.astype(str).str.strip()
    code, distinct = pd.factorize(found, sort=True)
    if pd.api.types.is_bool_dtype(values):
        names = tuple(str(bool(v)) for v in distinct)
    elif numeric:
        names = tuple(f"{v:g}" if abs(v) < 1e6 else repr(float(v)) for v in distinct)
        if len(set(names)) < len(names):  # six digits do not tell them apart
            names = tuple(repr(float(v)) for v in distinct)
    else:
        names = tuple(map(str, distinct))
    return code.astype(np.int64), names


def kept_scans(store: Store, leave_out: Sequence[str]) -> NDArray[np.bool_]:
    """Say which scans take part."""
    scans = store.scans["scan"].astype(str)
    unknown = [name for name in leave_out if name not in set(scans)]
    if unknown:
        raise InputError(
            f"{unknown[0]!r} is to be left out, but {store.path} has no such scan."
            + nearest(unknown[0], scans)
        )
    kept = ~scans.isin(list(leave_out)).to_numpy()
    if not kept.any():
        raise InputError(f"every scan of {store.path} is to be left out; nothing remains.")
    return np.asarray(kept)


def draw_weights(
    splits: Sequence[Split], subjects: Shaped[NDArray[Any], "scan"], n_draws: int, seed: int
) -> Float[NDArray[np.float64], "draw scan"]:
    """Draw subjects; if they are divided once only, draw folds and then subjects in them."""
    if n_repeats(splits) > 1:
        return bootstrap_weights(subjects, n_draws, seed)
    folds = np.full(len(subjects), -1)
    for number, split in enumerate(splits):
        folds[split.test] = number
    tested = np.flatnonzero(folds >= 0)
    weights = np.zeros((n_draws, len(subjects)))
    weights[:, tested] = bootstrap_weights(subjects[tested], n_draws, seed, folds[tested])
    return weights


def n_repeats(splits: Sequence[Split]) -> int:
    """Count how often the subjects are divided."""
    return len({split.repeat for split in splits})


def align(
    store: Store, name: str, embeddings: Embeddings
) -> Float[NDArray[np.float64], "scan feature"]:
    """Return the features of embeddings in the order of the scans of a store."""
    made_from = embeddings.provenance.get("store", {}).get("fingerprint")
    if made_from not in (None, store.fingerprint):
        raise InputError(
            f"embeddings {name!r} were made from another store (fingerprint {made_from}) than "
            f"this one ({store.fingerprint}, {store.path}). Embed this store, or name the other."
        )
    wanted = pd.Index(store.scans["scan"].astype(str))
    given = pd.Index(embeddings.frame["scan"].astype(str))
    problems = {
        "name scans more than once": given[given.duplicated()].unique(),
        "lack scans of the store": wanted.difference(given, sort=False),
        "have scans that the store does not have": given.difference(wanted, sort=False),
    }
    for problem, found in problems.items():
        if len(found):
            raise InputError(
                f"embeddings {name!r} {problem}: {len(found)}, such as {', '.join(found[:5])}. "
                "Embed this store again."
            )
    features: NDArray[np.float64] = embeddings.features[given.get_indexer(wanted)]
    broken = np.argwhere(~np.isfinite(features))
    if len(broken):
        scan, feature = broken[0]
        raise InputError(
            f"embeddings {name!r} are not finite in {len(np.unique(broken[:, 0]))} scan(s), the "
            f"first is {wanted[scan]!r} (feature {embeddings.feature_names[feature]!r} is "
            f"{features[scan, feature]}). Embed this store again, or leave these scans out."
        )
    return features
