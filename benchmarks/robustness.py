"""How far features move when a scan is not the reference input: the numbers of beyond-reference.md.

Features of the scans of STORE are compared with those of the same scans under a change: a network
or some ROIs missing, other windows, and, on simulated brains, another repetition time. Three
cosines, each the median over scans of the one between a scan with and without the change:

- raw: of the features as they are. Any two scans may be alike here, see "another scan instead".
- mixed: after the mean of the *unchanged* scans was taken off both. What holds when some scans of
  a cohort are changed and others are not.
- alike: after each side's own mean was taken off. What holds when all scans are changed alike.

"found" is the share of scans whose most similar unchanged scan (alike) is the scan itself. With
--target, "accuracy" is the balanced accuracy on changed scans of a linear classifier that has seen
only unchanged scans of other people.

Example:
    python benchmarks/robustness.py demo/run demo/store --target diagnosis --json robustness.json
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeClassifierCV
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from semantoks.data.preparation import prepare
from semantoks.data.recording import Recording
from semantoks.data.simulation import simulate_cohort, write_cohort
from semantoks.data.store import Store
from semantoks.evaluation.readout import FeatureKind, Scans, encode_scans, scans_of
from semantoks.model.checkpoint import load_model
from semantoks.model.encoder import SemantoksEncoder

Features = NDArray[np.float32]

FINE_T_R = 0.05
"""Repetition time in s at which brains are simulated before they are sampled."""
DURATION = 440.0
"""Length of the simulated scans in s."""


@dataclass(frozen=True)
class Row:
    """What a change does."""

    change: str
    n_scans: int
    raw: float
    mixed: float
    alike: float
    found: float
    accuracy: float | None = None


def compare(change: str, reference: Features, changed: Features) -> Row:
    """Compare features of the same scans without and with a change."""
    a, b = reference.astype(np.float64), changed.astype(np.float64)
    alike_a, alike_b = _unit(a - a.mean(0)), _unit(b - b.mean(0))
    nearest = (alike_b @ alike_a.T).argmax(axis=1)
    return Row(
        change=change,
        n_scans=len(a),
        raw=_median_cosine(a, b),
        mixed=_median_cosine(a - a.mean(0), b - a.mean(0)),
        alike=_median_cosine(a - a.mean(0), b - b.mean(0)),
        found=float((nearest == np.arange(len(a))).mean()),
    )


def other_scans(reference: Features) -> Row:
    """Compare every scan with the next one: what cosines mean when nothing is shared."""
    return replace(compare("another scan instead", reference, np.roll(reference, 1, 0)), found=0.0)


def missing_networks(encoder: SemantoksEncoder, scans: Scans) -> Iterator[tuple[str, Scans]]:
    """Take each network away: its ROIs are 0 and its tokens are masked."""
    for name in encoder.atlas.network_names:
        gone = np.array([network == name for network in encoder.atlas.networks])
        valid = np.tile(~gone, (len(scans.lengths), 1))
        yield f"without {name} ({gone.sum()} ROIs)", _without(scans, valid)


def missing_rois(encoder: SemantoksEncoder, scans: Scans) -> Iterator[tuple[str, Scans]]:
    """Take random ROIs away, other ones in every scan or the same in all."""
    n_scans, n_rois = len(scans.lengths), len(encoder.atlas)
    for share in (0.05, 0.1, 0.2):
        random = np.random.default_rng(0)
        order = random.permuted(np.tile(np.arange(n_rois), (n_scans, 1)), axis=1)
        valid = order >= round(share * n_rois)
        yield f"{share:.0%} of ROIs missing, others in each", _without(scans, valid)
        yield (
            f"{share:.0%} of ROIs missing, the same",
            _without(scans, np.tile(valid[0], (n_scans, 1))),
        )


def _without(scans: Scans, valid: NDArray[np.bool_]) -> Scans:
    """Set ROIs to 0, and mask networks of which none is left."""

    def read(
        which: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.float32]:
        windows: NDArray[np.float32] = scans.read(which, starts, length) * valid[which][:, :, None]
        return windows

    return replace(scans, read=read, valid=scans.valid & valid)


def select(scans: Scans, chosen: NDArray[np.intp]) -> Scans:
    """Keep some of the scans."""
    return Scans(
        scans.lengths[chosen],
        scans.valid[chosen],
        lambda which, starts, length: scans.read(chosen[which], starts, length),
        lambda scan: scans.name(int(chosen[scan])),
    )


def accuracy(
    reference: Features, changed: Features, target: NDArray[np.str_], groups: NDArray[np.int64]
) -> float:
    """Train on unchanged scans and predict changed ones of other people."""
    predicted = np.empty_like(target)
    for train, test in StratifiedGroupKFold(5).split(reference, target, groups):
        model = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(0, 4, 5)))
        predicted[test] = model.fit(reference[train], target[train]).predict(changed[test])
    return float(balanced_accuracy_score(target, predicted))


def sample(recording: Recording, t_r: float, how: str) -> Recording:
    """Sample a finely simulated scan: instantly, or averaged over the repetition time."""
    fine = recording.series
    places = np.arange(int(DURATION / t_r)) * t_r / FINE_T_R
    if how == "averaged":
        # Half a repetition time to both sides; the integral is read off its interpolated sum.
        total = np.concatenate([np.zeros((len(fine), 1)), fine.cumsum(axis=1, dtype=np.float64)], 1)
        half = t_r / FINE_T_R / 2
        edges = np.clip(np.stack([places - half, places + half]) + 0.5, 0, fine.shape[1])
        at = [[np.interp(edge, np.arange(total.shape[1]), row) for row in total] for edge in edges]
        series = (np.array(at[1]) - np.array(at[0])) / (edges[1] - edges[0])
    else:
        series = fine[:, np.rint(places).astype(int)]
    return replace(recording, series=series.astype(np.float32), t_r=t_r)


def repetition_times(model: str, n_subjects: int, kind: FeatureKind) -> Iterator[Row]:
    """Prepare stores of the same simulated brains at three repetition times, and compare them."""
    saved = load_model(model)
    encoder = saved.encoder
    fine = simulate_cohort(
        n_subjects,
        atlas=encoder.atlas,
        n_samples=round(DURATION / FINE_T_R),
        t_r=FINE_T_R,
        seed=1234,
    )
    for how in ("averaged", "instant"):
        found = {}
        for t_r in (2.0, 0.735, 3.0):
            with tempfile.TemporaryDirectory() as folder:
                write_cohort([sample(scan, t_r, how) for scan in fine], f"{folder}/recordings")
                out = prepare(f"{folder}/recordings", f"{folder}/store", atlas=encoder.atlas).path
                scans = scans_of(Store.open(out), encoder)
                found[t_r] = encode_scans(encoder, scans, features=kind)
        yield replace(other_scans(found[2.0]), change=f"another brain at 2 s, {how} samples")
        for t_r in (0.735, 3.0):
            yield compare(f"{t_r:g} s instead of 2 s, {how} samples", found[2.0], found[t_r])


def changes(
    encoder: SemantoksEncoder, scans: Scans, kind: FeatureKind
) -> Iterator[tuple[str, Features]]:
    """Encode the scans under every change."""
    for name, changed in [*missing_networks(encoder, scans), *missing_rois(encoder, scans)]:
        yield name, encode_scans(encoder, changed, features=kind)
    for window in (3, 4, 7):
        length = window * encoder.patch
        name = f"windows of {length} instead of {encoder.window}"
        yield name, encode_scans(encoder, scans, window=length, features=kind)
    for windows in (1, 2, 4):
        name = f"{windows} window(s) instead of 8"
        yield name, encode_scans(encoder, scans, windows=windows, features=kind)


def measure(
    model: str,
    store: Store,
    target: str | None,
    kind: FeatureKind,
    n_scans: int | None,
    n_subjects: int,
) -> Iterator[Row]:
    """Measure every change."""
    encoder = load_model(model).encoder
    all_scans = scans_of(store, encoder)
    # One set of scans for all rows: those that the longest windows fit into, with a label.
    usable = all_scans.lengths >= 7 * encoder.patch
    if target is not None:
        usable &= store.scans[target].notna().to_numpy()
    chosen = np.flatnonzero(usable)
    if n_scans is not None and n_scans < len(chosen):
        chosen = np.sort(np.random.default_rng(0).choice(chosen, n_scans, replace=False))
    scans = select(all_scans, chosen)
    reference = encode_scans(encoder, scans, features=kind)

    def scored(row: Row, features: Features) -> Row:
        if target is None:
            return row
        labels = store.scans[target].astype(str).to_numpy(dtype=str)[chosen]
        groups = store.subject_codes[chosen]
        return replace(row, accuracy=accuracy(reference, features, labels, groups))

    yield scored(compare("nothing", reference, reference), reference)
    yield other_scans(reference)
    for name, features in changes(encoder, scans, kind):
        yield scored(compare(name, reference, features), features)
    if n_subjects:
        yield from repetition_times(model, n_subjects, kind)


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale rows to length 1."""
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _median_cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the median over rows of the cosine between two tables."""
    return float(np.median((_unit(a) * _unit(b)).sum(axis=1)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="model folder or run")
    parser.add_argument("store", type=Path)
    parser.add_argument("--target", help="column of the store's table with two classes or more")
    parser.add_argument("--features", default="mean+cls", help="what is read out")
    parser.add_argument(
        "--simulated", type=int, default=60, help="simulated brains for repetition times, 0 = none"
    )
    parser.add_argument("--scans", type=int, help="only so many of the store's scans, at random")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    store = Store.open(options.store)
    rows = []
    print(f"{'change':<44}{'raw':>8}{'mixed':>8}{'alike':>8}{'found':>8}{'accuracy':>10}")
    for row in measure(
        options.model, store, options.target, options.features, options.scans, options.simulated
    ):
        rows.append(asdict(row))
        score = "" if row.accuracy is None else f"{row.accuracy:.3f}"
        numbers = f"{row.raw:>8.4f}{row.mixed:>8.3f}{row.alike:>8.3f}{row.found:>8.0%}"
        print(f"{row.change:<44}{numbers}{score:>10}", flush=True)
    print(f"\n{rows[0]['n_scans']} scans of {options.store.name}, {options.features}")
    if options.json:
        settings = {"target": options.target, "features": options.features}
        content = {"rows": rows, "settings": settings, "store": store.fingerprint}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
