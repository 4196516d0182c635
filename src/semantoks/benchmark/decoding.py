"""Which block a window of a task recording belongs to, read from features beside connectivity."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd
from jaxtyping import Shaped
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

import semantoks
from semantoks.benchmark.baselines import dummy_predictions, fisher_z
from semantoks.benchmark.comparison import prediction_table, score_table
from semantoks.benchmark.tasks import Task, draw_weights, read_task
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding import (
    PREPARE_AGAIN,
    PreprocessingCheck,
    check_preprocessing,
    embedding_provenance,
)
from semantoks.evaluation.events import BlockWindows
from semantoks.evaluation.linear import Classifier, FoldPrediction, rotate
from semantoks.evaluation.metrics import CONNECTIVITY, DUMMY
from semantoks.evaluation.probe import cross_validated_predictions, score_predictions
from semantoks.evaluation.readout import FeatureKind, Scans, encode_scans, scans_of, window_length
from semantoks.evaluation.same_series import check_people
from semantoks.evaluation.split_files import splits_record, splits_table
from semantoks.evaluation.splits import Split
from semantoks.evaluation.splitters import SubjectFolds
from semantoks.files import new_folder
from semantoks.model.encoder import SemantoksEncoder

Unseen = Literal["subjects", "blocks"]
"""What the tested windows have that was not learned from; unseen blocks are of unseen subjects."""
ENCODER: Final = "encoder"
"""The features that are tested."""
ROI_MEANS: Final = "roi means"
"""The mean of every ROI over the window: what a task evokes, without any model."""
_TARGET: Final = "trial_type"
_CONFIDENCE: Final = 0.95


@dataclass(frozen=True)
class Decoding:
    """How well blocks are told apart."""

    table: pd.DataFrame
    predictions: pd.DataFrame
    windows: pd.DataFrame
    splits: Mapping[str, Any]
    settings: Mapping[str, Any]


def decode_blocks(
    store: Store,
    encoder: SemantoksEncoder,
    windows: BlockWindows,
    *,
    features: FeatureKind = "mean+cls",
    unseen: Unseen = "subjects",
    family_column: str | None = None,
    n_folds: int = 5,
    repeats: int = 5,
    seed: int = 0,
    classifier: Classifier = "ridge",
    n_draws: int = 1000,
    preprocessing: PreprocessingCheck = "check",
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    origin: Mapping[str, Any] | None = None,
) -> Decoding:
    """Tell the blocks of subjects apart from what was learned on the blocks of others.

    Where all subjects see the blocks in one order, a block is also a stimulus and a time: with
    unseen="blocks", what is tested was not learned from in any subject. Every window is described
    by the encoder, by the connectivity of its samples, and by the mean of every ROI; linear models
    are fitted on the same folds.
    """
    _check(store, encoder, windows, preprocessing)
    frame = _frame(store, windows, family_column)
    check_people(store, sorted(set(frame["scan"])))
    task = read_task(frame, _TARGET, "classification")
    splits = SubjectFolds(n_folds, repeats, seed=seed, family_column=family_column).splits(
        frame, task.name(task.truth), kind="classification"
    )
    if unseen == "blocks":
        splits = _without_tested_blocks(splits, windows, n_folds)
    described: dict[str, NDArray[np.floating[Any]]] = {
        ENCODER: _encode(store, encoder, windows, features, batch_size, progress),
        **_plain_features(store, windows),
    }
    subjects = frame["subject"].to_numpy(dtype=str)
    predicted = _predict(described, task, splits, subjects, classifier)
    weights = draw_weights(splits, subjects, n_draws, seed)
    scores = {
        name: score_predictions(folds, task.truth, weights, kind="classification")
        for name, folds in predicted.items()
    }
    record = splits_record(splits_table(splits, _window_names(frame)))
    model = embedding_provenance(
        store,
        encoder,
        windows=1,
        features=features,
        window=windows.length,
        preprocessing=preprocessing,
    )
    settings = {
        **_facts(store, windows, task, frame),
        "unseen": unseen,
        "family_column": family_column,
        "shared_order": shared_order(windows, frame["subject"].to_numpy(dtype=str)),
        "n_folds": n_folds,
        "n_repeats": repeats,
        "seed": seed,
        "classifier": classifier,
        "n_draws": n_draws,
        "splits_sha256": record["sha256"],
        "model": model,
        **(origin or {}),
    }
    table = score_table(scores, settings).rename(columns={"n_scans": "n_windows"})
    return Decoding(table, _predictions(predicted, task, frame), frame, record, settings)


def write_decoding(decoding: Decoding, folder: str | Path) -> Path:
    """Write what was decoded to a new folder, all of it or nothing."""
    folder = Path(folder)
    try:
        with new_folder(folder) as beside:
            decoding.table.to_csv(beside / "scores.csv", index=False)
            decoding.predictions.to_parquet(beside / "predictions.parquet", index=False)
            decoding.windows.to_csv(beside / "windows.csv", index=False)
            for name, content in (("splits", decoding.splits), ("settings", decoding.settings)):
                text = json.dumps(content, indent=None if name == "splits" else 2)
                (beside / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise InputError(
            f"{folder} exists already. Name another folder, or remove it first."
        ) from error
    except OSError as error:
        raise InputError(f"what was decoded could not be written to {folder}: {error}.") from error
    return folder


def _check(
    store: Store,
    encoder: SemantoksEncoder,
    windows: BlockWindows,
    preprocessing: PreprocessingCheck,
) -> None:
    """Refuse windows without whole patches, and series that the model does not know."""
    window_length(encoder, windows.length)
    if preprocessing == "check":
        check_preprocessing(
            f"store {store.path}",
            store.preprocessing,
            encoder.preprocessing,
            f"{PREPARE_AGAIN} To read them as they are: preprocessing='ignore', or "
            "--ignore-preprocessing.",
        )


def _predict(
    described: Mapping[str, NDArray[np.floating[Any]]],
    task: Task,
    splits: Sequence[Split],
    subjects: NDArray[Any],
    classifier: Classifier,
) -> dict[str, tuple[FoldPrediction, ...]]:
    """Predict the blocks of people from the blocks of others, by every description."""
    predicted = {
        name: cross_validated_predictions(
            values,
            task.truth,
            splits,
            kind="classification",
            subjects=subjects,
            classifier=classifier,
            scaling="center" if name == CONNECTIVITY else "standardize",
        )
        for name, values in described.items()
    }
    return {**predicted, DUMMY: dummy_predictions(task.truth, splits, kind="classification")}


def _encode(
    store: Store,
    encoder: SemantoksEncoder,
    windows: BlockWindows,
    features: FeatureKind,
    batch_size: int,
    progress: Callable[[int, int], None] | None,
) -> NDArray[np.float32]:
    """Read the encoder out, each window on its own."""
    scans = scans_of(store, encoder)

    def read(
        window: NDArray[np.int64], start: NDArray[np.int64], length: int
    ) -> NDArray[np.float32]:
        return scans.read(windows.scan[window], windows.start[window] + start, length)

    # A window is given as a scan of its own length, of which there is one window.
    each = Scans(
        lengths=np.full(len(windows), windows.length, dtype=np.int64),
        valid=scans.valid[windows.scan],
        read=read,
        name=lambda window: scans.name(int(windows.scan[window])),
    )
    return encode_scans(
        encoder,
        each,
        features=features,
        windows=1,
        window=windows.length,
        batch_size=batch_size,
        progress=progress,
    )


def _plain_features(store: Store, windows: BlockWindows) -> dict[str, NDArray[np.float64]]:
    """Return the mean of every ROI, and the connectivity, of the same samples."""
    rois = len(store.atlas)
    lower = np.tril_indices(rois, -1)
    means = np.empty((len(windows), rois))
    edges = np.empty((len(windows), len(lower[0])), dtype=np.float32)
    for number, (scan, start) in enumerate(zip(windows.scan, windows.start, strict=True)):
        series = store.windows(np.array([scan]), np.array([start]), windows.length)[0]
        means[number] = series.mean(axis=1)
        edges[number] = fisher_z(series, store.valid[scan])[lower]
    return {ROI_MEANS: means, CONNECTIVITY: rotate(edges)}


def shared_order(windows: BlockWindows, subjects: Shaped[NDArray[Any], "window"]) -> float:
    """Compute the share of windows whose condition all subjects have at that time of the scan."""
    table = pd.DataFrame({"time": windows.onset, "label": windows.label, "subject": subjects})
    times = table.groupby("time")
    alone = (times["label"].transform("nunique") == 1) & (times["subject"].transform("nunique") > 1)
    return float(alone.mean())


def _without_tested_blocks(
    splits: Sequence[Split], windows: BlockWindows, n_folds: int
) -> list[Split]:
    """Divide every test part by blocks, and learn from the other blocks of the other subjects."""
    times = pd.DataFrame({"time": windows.onset, "label": windows.label})
    label = times.groupby("time")["label"].agg(lambda labels: labels.mode().iloc[0])
    number = label.groupby(label).cumcount()  # of its condition, in the order of time
    fewest = int(label.value_counts().min())
    if fewest < 2 or label.nunique() < 2:
        raise InputError(
            "every condition needs blocks at two times or more to be tested on blocks that were "
            f"not learned from; there are {dict(label.value_counts())}. Decode unseen subjects "
            "(unseen='subjects', --unseen subjects), and say that the blocks were seen."
        )
    block = number.reindex(windows.onset).to_numpy() % min(n_folds, fewest)
    return [
        replace(
            split,
            name=f"{split.name} and blocks",
            fold=f"{split.fold} blocks {fold}",
            train=split.train[block[split.train] != fold],
            test=split.test[block[split.test] == fold],
        )
        for split in splits
        for fold in range(min(n_folds, fewest))
        if (block[split.test] == fold).any()
    ]


def _frame(store: Store, windows: BlockWindows, family_column: str | None) -> pd.DataFrame:
    """Identify the scan and subject of every window."""
    columns = ["scan", "subject", *([family_column] if family_column else [])]
    absent = [name for name in columns if name not in store.scans]
    if absent:
        raise InputError(f"the table of scans of {store.path} has no column {absent[0]!r}.")
    identity = store.scans[columns].iloc[windows.scan].reset_index(drop=True)
    return identity.assign(
        onset=windows.onset, start=windows.start, **{_TARGET: windows.label.astype(object)}
    )


def _window_names(frame: pd.DataFrame) -> Sequence[str]:
    """Name the windows; the onset tells two apart that begin at the same sample."""
    names = frame["scan"].astype(str) + "@" + frame["start"].astype(str)
    repeated = names.duplicated(keep=False)
    return list(names.where(~repeated, names + "/" + frame["onset"].astype(str)))


def _predictions(
    predicted: Mapping[str, Sequence[FoldPrediction]], task: Task, frame: pd.DataFrame
) -> pd.DataFrame:
    """Lay predictions out, with the row of the window."""
    rows = [fold.split.test for folds in predicted.values() for fold in folds]
    return prediction_table(predicted, task, frame).assign(window=np.concatenate(rows))


def _facts(store: Store, windows: BlockWindows, task: Task, frame: pd.DataFrame) -> dict[str, Any]:
    """Collect what was decoded, as plain values."""
    counts = np.unique(task.truth, return_counts=True)[1]
    return {
        "target": _TARGET,
        "kind": "classification",
        "splits": "subject",
        "confidence": _CONFIDENCE,
        "classes": dict(zip(task.classes, map(int, counts), strict=True)),
        "n_scans": len(frame),
        "n_subjects": int(frame["subject"].nunique()),
        "n_missing": int(sum(windows.left_out.values())),
        "left_out": dict(windows.left_out),
        "window": windows.length,
        "window_seconds": windows.length * store.t_r,
        "delay": windows.delay,
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "atlas": {"name": store.atlas.name, "fingerprint": store.atlas.fingerprint},
        "semantoks": semantoks.__version__,
    }


def decoding_table(decoding: Decoding) -> Table:
    """Lay out how well blocks were told apart."""
    settings = decoding.settings
    classes = ", ".join(f"{name} {count}" for name, count in settings["classes"].items())
    left_out = "; ".join(f"{count} {why}" for why, count in settings["left_out"].items())
    shown = Table(
        title=escape(f"{classes} (windows of {settings['window_seconds']:g} s)"),
        caption=escape(
            f"{settings['n_scans']} windows of {settings['n_subjects']} subjects, "
            f"{settings['delay']:g} s after onset."
            + (f" Events left out: {left_out}." if left_out else "")
            + "\nIn brackets: 95 % interval over subjects and splits. *: zero is outside."
        ),
    )
    shown.add_column("", overflow="fold")
    shown.add_column("value", justify="right", no_wrap=True)
    shown.add_column("minus connectivity", justify="right", no_wrap=True)
    for metric, rows in decoding.table.groupby("metric", sort=False):
        shown.add_row(str(metric).replace("_", " "), style="bold")
        numbers = rows[["value", "low", "high"]].to_numpy(np.float64)
        differences = rows[["difference", "difference_low", "difference_high"]].to_numpy(np.float64)
        for method, number, difference in zip(rows["method"], numbers, differences, strict=True):
            against = _interval(difference, "{:+.3f}")
            clear = difference[1] > 0 or difference[2] < 0
            shown.add_row(
                f"  {method}", _interval(number, "{:.3f}"), against + (" *" if clear else "  ")
            )
        shown.add_section()
    return shown


def _interval(numbers: NDArray[np.float64], form: str) -> str:
    """Write a value with its interval; nothing if there is none."""
    if np.isnan(numbers[0]):
        return ""
    value, low, high = (form.format(number) for number in numbers)
    return escape(f"{value} [{low}, {high}]")
