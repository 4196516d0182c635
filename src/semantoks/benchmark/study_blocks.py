"""What keeps permuted labels, or classes, within a site."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.benchmark.study_methods import Question
from semantoks.benchmark.study_plan import StudyPlan
from semantoks.errors import InputError
from semantoks.evaluation.permuted_labels import permute_labels
from semantoks.evaluation.site_splitters import LeaveOneSiteOut
from semantoks.evaluation.split_parts import text_of
from semantoks.evaluation.splits import subjects_of


def blocks_of(plan: StudyPlan, scans: pd.DataFrame) -> NDArray[np.str_] | None:
    """Return within what permuted labels stay."""
    if plan.permute_within is None:
        return None
    blocks = text_of(scans, plan.permute_within)
    nameless = np.flatnonzero(blocks == "")
    if len(nameless):
        raise InputError(
            f"permute_within: {len(nameless)} scan(s) have no {plan.permute_within!r}, the first "
            f"is {scans['scan'].iloc[nameless[0]]!r}, so that it is not known where their labels "
            "may move. Fill the column in, or leave these scans out."
        )
    return blocks


def check_blocks(plan: StudyPlan, question: Question) -> None:
    """Refuse labels that cannot move as the plan says, before anything is computed."""
    blocks = blocks_of(plan, question.scans)
    if blocks is not None:
        random, subjects = np.random.default_rng(0), subjects_of(question.scans)
        permute_labels(question.task.truth, subjects, random, blocks, question.units)


def classes_of_one_site(question: Question, split: str) -> Iterator[str]:
    """Name the classes that exist only at the left-out site."""
    task = question.task
    if not isinstance(question.splitter, LeaveOneSiteOut) or task.kind != "classification":
        return
    for made in question.splits:
        learned = np.concatenate([made.train, made.validation])
        for code in np.setdiff1d(task.truth[made.test], task.truth[learned]):
            n = int(np.sum(task.truth == code))
            yield (
                f"{task.target}, {split}: class {task.classes[code]!r} exists only at site "
                f"{made.fold!r} ({n} scan(s)). Where this site is left out nothing can learn it, "
                "so that its recall of 0 counts in the balanced accuracy of every method"
            )
