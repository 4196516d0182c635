"""Networks that are trained anew in every split, and what they predict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from semantoks.errors import InputError
from semantoks.evaluation.linear import FoldPrediction
from semantoks.evaluation.readout import Scans
from semantoks.evaluation.splits import Kind, Split
from semantoks.evaluation.target_coding import TargetCoding, check_choices
from semantoks.evaluation.window_model import WindowModel, WindowTraining, check_training
from semantoks.evaluation.window_training import (
    LabelledScans,
    seeded,
    train_on_windows,
    window_outputs,
)
from semantoks.training.plan import choose_device


def trained_predictions(
    build: Callable[[int], WindowModel],
    scans: Scans,
    truth: Shaped[NDArray[Any], "scan"],
    splits: Sequence[Split],
    *,
    kind: Kind,
    subjects: Shaped[NDArray[Any], "scan"],
    settings: WindowTraining,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[FoldPrediction, ...]:
    """Train a network in every split and predict its test part."""
    check_training(settings)
    truth = np.asarray(truth)
    if len(truth) != len(scans.lengths):
        raise InputError(
            f"{len(truth)} true values came with {len(scans.lengths)} scans; say which rows of the "
            "store they are of (rows)."
        )
    choices = check_choices(splits, truth, subjects, kind=kind)
    where, folds = choose_device(device), []
    for number, (split, choice) in enumerate(zip(splits, choices, strict=True)):
        coding = TargetCoding.of(truth[choice.train], kind)
        report = _report(progress, number, len(splits))
        with seeded(settings.seed, where):
            model = build(coding.n_outputs).to(where)
            train, validation = (
                LabelledScans(scans, part, truth[part])
                for part in (choice.train, choice.validation)
            )
            history = train_on_windows(model, train, validation, coding, settings, progress=report)
        outputs = window_outputs(model, scans, split.test, settings)
        n_classes = int(np.nanmax(truth)) + 1 if kind == "classification" else 0
        folds.append(
            FoldPrediction(
                split,
                coding.predict(outputs),
                coding.scores(outputs, n_classes),
                chosen={"epoch": float(history.best + 1)},
            )
        )
    return tuple(folds)


def _report(
    progress: Callable[[int, int], None] | None, number: int, n_splits: int
) -> Callable[[int, int], None] | None:
    """Count epochs over all splits."""
    if progress is None:
        return None

    def report(done: int, of: int) -> None:
        progress(number * of + done, n_splits * of)

    return report
