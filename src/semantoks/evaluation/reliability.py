"""Whether features are those of a person: found again in another recording, and alike there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import ArrayLike, NDArray

from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.confounds import as_text, check_columns
from semantoks.evaluation.readout import (
    FeatureKind,
    Scans,
    SmallerAtlas,
    encode_scans,
    scans_of,
    window_length,
)
from semantoks.evaluation.splits import subjects_of
from semantoks.model.encoder import SemantoksEncoder

Centering = Literal["features", "none"]
"""Whether the mean of everybody in a recording is taken off every feature before."""
Agreement = Literal["agreement", "consistency"]
"""ICC(2,1), which counts a shift of a whole session as error, or ICC(3,1), which does not."""
Matrix = NDArray[np.float64]

_FEATURES_AT_ONCE: Final = 8192


class Repeated(NamedTuple):
    """Features of the same people in two or more recordings."""

    features: Float[NDArray[np.floating[Any]], "session subject feature"]
    subjects: Shaped[NDArray[Any], "subject"]
    sessions: tuple[str, ...]


class Identification(NamedTuple):
    """How often a recording is nearest to the other recording of the same person."""

    hits: Float[Matrix, "2 subject"]
    own: Float[Matrix, "subject"]
    others: Float[Matrix, "subject"]

    @property
    def rate(self) -> float:
        """Share of the people who are identified, both directions averaged."""
        return float(self.hits.mean())

    @property
    def chance(self) -> float:
        """Share that would be identified by guessing."""
        return 1.0 / int(self.hits.shape[1])


def repeated_recordings(
    features: Float[NDArray[np.floating[Any]], "scan feature"],
    scans: pd.DataFrame,
    sessions: tuple[str, str] | None = None,
) -> Repeated:
    """Collect the people who were recorded in both of two sessions.

    Examples
    --------
    >>> scans = pd.DataFrame({"subject": list("abbac"), "session": list("11221")})
    >>> found = repeated_recordings(np.arange(5.0)[:, None], scans)
    >>> found.subjects.tolist(), found.features[..., 0].tolist()
    (['a', 'b'], [[0.0, 1.0], [3.0, 2.0]])
    """
    check_columns(scans, ["session"])
    people, of_scan = subjects_of(scans), as_text(scans["session"])
    if len(features) != len(scans):
        raise InputError(f"features of {len(features)} scans came with a table of {len(scans)}.")
    names = _two_sessions(of_scan, sessions)
    in_both = np.intersect1d(*(people[of_scan == name] for name in names))
    if len(in_both) < 2:
        raise InputError(
            f"{len(in_both)} subject(s) have scans in both of the sessions {names[0]!r} and "
            f"{names[1]!r}; at least two are needed to confuse one with another."
        )
    collected = np.zeros((2, len(in_both), features.shape[1]), dtype=features.dtype)
    for k, name in enumerate(names):
        rows = np.flatnonzero((of_scan == name) & np.isin(people, in_both))
        place = np.searchsorted(in_both, people[rows])
        np.add.at(collected[k], place, features[rows])
        collected[k] /= np.bincount(place)[:, None]
    return Repeated(collected, in_both, names)


def identify(
    first: Float[NDArray[np.floating[Any]], "subject feature"],
    second: Float[NDArray[np.floating[Any]], "subject feature"],
    *,
    centering: Centering = "features",
) -> Identification:
    """Look every person up in another recording by the correlation of features.

    Parameters
    ----------
    first, second : ndarray of shape (subject, feature)
        Features of the same people, row for row, in two recordings.
    centering : {"features", "none"}
        Whether the mean of everybody in a recording is taken off every feature first. Without it,
        what all brains share makes everybody look alike.

    Returns
    -------
    Identification
        Hits in both directions, and correlations.

    Raises
    ------
    InputError
        If shapes differ, or there are fewer than two people or features.
    ConfigurationError
        If the centering is unknown.

    Examples
    --------
    >>> first = np.array([[1.0, 2, 3], [3, 1, 1], [0, 5, 2]])
    >>> identify(first, first + 10).rate
    1.0
    """
    if centering not in get_args(Centering):
        raise ConfigurationError(f"centering is features or none, not {centering!r}.")
    if first.shape != second.shape or first.ndim != 2 or min(first.shape) < 2:
        raise InputError(
            f"features of the same people in two recordings are needed, at least two of both; "
            f"came {first.shape} and {second.shape}."
        )
    x, y = (_unit_rows(np.asarray(z, dtype=np.float64), centering) for z in (first, second))
    similarity, n = x @ y.T, len(x)
    own = np.diag(similarity).copy()
    # rounding must not part what is equal
    near = [similarity >= similarity.max(axis=a, keepdims=True) - 1e-12 for a in (1, 0)]
    hits = np.stack(
        [np.diag(ties) / ties.sum(axis=a) for ties, a in zip(near, (1, 0), strict=True)]
    )
    others = ((similarity.sum(axis=0) + similarity.sum(axis=1)) / 2 - own) / (n - 1)
    return Identification(hits, own, others)


def intraclass_correlation(
    features: Float[NDArray[np.floating[Any]], "session subject feature"],
    kind: Agreement = "agreement",
    weights: Shaped[ArrayLike, "draw subject"] | None = None,
) -> Float[Matrix, "*draw feature"]:
    """Compute the intraclass correlation of every feature, of a single recording.

    With mean squares of a two-way analysis of variance between n subjects, between k sessions and
    of the error: (S - E) / (S + (k - 1) E + k (T - E) / n) is ICC(2,1), absolute agreement of
    random sessions; without the last term it is ICC(3,1), consistency. Shrout and Fleiss 1979.

    Examples
    --------
    >>> person = np.array([1.0, 2, 3, 4])
    >>> features = np.stack([person, person + 1])[..., None]
    >>> intraclass_correlation(features).round(3), intraclass_correlation(features, "consistency")
    (array([0.769]), array([1.]))
    """
    if kind not in get_args(Agreement):
        raise ConfigurationError(f"the kind is agreement or consistency, not {kind!r}.")
    if features.ndim != 3 or min(features.shape[:2]) < 2:
        raise InputError(
            "an intraclass correlation needs features of shape (session, subject, feature) with "
            f"two sessions and subjects at least; came {features.shape}."
        )
    drawn = np.ones(features.shape[1]) if weights is None else np.asarray(weights, np.float64)
    width = features.shape[2]
    parts = [
        _icc(features[..., start : start + _FEATURES_AT_ONCE], kind, drawn)
        for start in range(0, width, _FEATURES_AT_ONCE)
    ]
    return np.concatenate(parts, axis=-1)


def _icc(features: NDArray[np.floating[Any]], kind: Agreement, weights: Matrix) -> Matrix:
    """Compute intraclass correlations of some features, with sums over subjects as products."""
    x = features.astype(np.float64)
    x -= x.mean(axis=(0, 1))
    k, total = len(x), weights.sum(axis=-1)[..., None]
    person = x.mean(axis=0)
    squares = weights @ (x**2).sum(axis=0)
    of_sessions = np.stack([weights @ one for one in x]) / total
    grand = of_sessions.mean(axis=0)
    correction = k * total * grand**2
    between = k * (weights @ person**2) - correction
    sessions = total * (of_sessions**2).sum(axis=0) - correction
    error = np.maximum(squares - correction - between - sessions, 0.0)
    s, t = between / (total - 1), sessions / (k - 1)
    e = error / ((total - 1) * (k - 1))
    spread = s + (k - 1) * e + (k * (t - e) / total if kind == "agreement" else 0.0)
    constant = squares - correction <= 1e-12 * (x**2).sum(axis=(0, 1))
    safe = np.where(constant | (spread == 0), 1.0, spread)
    return np.asarray(np.where(constant | (spread == 0), np.nan, (s - e) / safe))


def _two_sessions(of_scan: NDArray[Any], sessions: tuple[str, str] | None) -> tuple[str, str]:
    """Return two sessions that are there."""
    found = sorted({*of_scan} - {""})
    if sessions is not None:
        absent = [name for name in sessions if name not in found]
        if absent or len({*sessions}) < 2:
            raise InputError(
                f"sessions {' and '.join(map(repr, sessions))} were asked for; the table of scans "
                f"has {', '.join(map(repr, found)) or 'none'}. Name two of these."
            )
        return sessions
    if len(found) != 2:
        raise InputError(
            f"the table of scans names {len(found)} session(s)"
            f"{': ' + ', '.join(map(repr, found[:5])) if found else ''}, and two are compared. "
            + ("Name two of them." if len(found) > 2 else "Retest needs people who came again.")
        )
    return found[0], found[1]


def _unit_rows(x: Matrix, centering: Centering) -> Matrix:
    """Return rows of length one, of which products are correlations."""
    x = x - x.mean(axis=0) if centering == "features" else x
    x = x - x.mean(axis=1, keepdims=True)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(length > 0, length, 1.0))


def half_features(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    features: FeatureKind = "mean+cls",
    windows: int = 4,
    window: int | None = None,
    smaller_atlas: SmallerAtlas = "refuse",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Read the first and the second half of every scan.

    Scans were filtered and z-scored as a whole, so that samples near the cut know of each other for
    about the longest period that passed, and the level of a ROI in one half tells that of the
    other.
    """
    check_halves(store, encoder, window=window, smaller_atlas=smaller_atlas)
    whole = scans_of(store, encoder, smaller_atlas)
    first, second = (
        encode_scans(
            encoder,
            half_of(whole, half),
            features=features,
            windows=windows,
            window=window,
            progress=progress,
        )
        for half in (0, 1)
    )
    return first, second


def check_halves(
    store: Store,
    encoder: SemantoksEncoder,
    *,
    window: int | None = None,
    smaller_atlas: SmallerAtlas = "refuse",
) -> None:
    """Refuse scans of which half does not hold a window, before anything is computed."""
    whole, wanted = scans_of(store, encoder, smaller_atlas), window_length(encoder, window)
    short = np.flatnonzero(whole.lengths // 2 < wanted)
    if not len(short):
        return
    first, fits = int(short[0]), int(whole.lengths.min()) // 2 // encoder.patch * encoder.patch
    advice = f"Take windows of at most {fits} samples (--window {fits})" if fits else "Leave them"
    raise InputError(
        f"half of {len(short)} scan(s) of {store.path} is shorter than the window of {wanted} "
        f"samples, the first is {whole.name(first)} with {whole.lengths[first]} in all. {advice}"
        + (", or prepare a store " if fits else " out: prepare a store ")
        + f"of scans with at least {2 * wanted} samples."
    )


def half_of(scans: Scans, half: int) -> Scans:
    """Return one half of every scan."""
    lengths = scans.lengths // 2
    offset = (scans.lengths - lengths) * half

    def read(
        which: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.float32]:
        return scans.read(which, starts + offset[which], length)

    def name(scan: int) -> str:
        return f"{'second' if half else 'first'} half of {scans.name(scan)}"

    return Scans(lengths, scans.valid, read, name)
