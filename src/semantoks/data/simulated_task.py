"""A cohort that does a task in blocks, with a known answer."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.simulation import simulate_cohort
from semantoks.errors import InputError

_LEAD: Final = 10.0
"""Seconds before the first block."""
_TAIL: Final = 16.0
"""Seconds after the last block and its pause, in which its response fades."""


@dataclass(frozen=True)
class TaskCohort:
    """Scans and what was shown in them."""

    recordings: tuple[Recording, ...]
    events: Mapping[str, pd.DataFrame]


def simulate_task_cohort(
    n_subjects: int = 24,
    *,
    conditions: Sequence[str] = ("faces", "shapes"),
    blocks: int = 6,
    block: float = 20.0,
    rest: float = 10.0,
    strength: float = 0.5,
    atlas: Atlas | None = None,
    t_r: float = 2.0,
    seed: int = 0,
) -> TaskCohort:
    """Simulate scans of people who see blocks of several conditions in an order of their own.

    Every round holds each condition once. To the resting activity of `simulate_cohort` is added
    what each block evokes: its course, convolved with the canonical haemodynamic response of Glover
    (nilearn), in the networks of its condition. Condition k of n has the networks k, k + n,
    k + 2 n, ... of the atlas; they respond about equally strongly, so that neither the mean of all
    ROIs nor the time tells conditions apart.

    Examples
    --------
    >>> cohort = simulate_task_cohort(2, blocks=2)
    >>> scan = cohort.recordings[0]
    >>> scan.scan, scan.series.shape, len(cohort.events[scan.scan])
    ('sub-001_task-blocks', (40, 73), 4)
    """
    names = list(dict.fromkeys(conditions))
    if len(names) < 2 or len(names) != len(conditions) or blocks < 1:
        raise InputError(
            f"a task needs at least two different conditions and one block of each; {blocks} "
            f"block(s) of {', '.join(map(str, conditions))} came."
        )
    if not (block > 0 and rest >= 0 and math.isfinite(block + rest) and strength >= 0):
        raise InputError(
            f"blocks of {block} s, pauses of {rest} s and a strength of {strength} are not "
            "possible."
        )
    if not t_r > 0:
        raise InputError(f"the repetition time is {t_r} s; it must be positive.")
    seconds = _LEAD + len(names) * blocks * (block + rest) + _TAIL
    resting = simulate_cohort(
        n_subjects, atlas=atlas, n_samples=math.ceil(seconds / t_r), t_r=t_r, seed=seed
    )
    n_networks = len(resting[0].atlas.network_names)
    if len(names) > n_networks:
        raise InputError(f"{len(names)} conditions do not fit into {n_networks} networks.")
    # Another stream than that of the resting activity, which stays what it is without a task.
    random = np.random.default_rng(np.random.SeedSequence([seed, 1]))
    recordings, events = [], {}
    for recording in resting:
        # Each condition once in every round: a long run of one would be slower than the band-pass.
        order = np.concatenate([random.permutation(names) for _ in range(blocks)])
        onsets = _LEAD + (block + rest) * np.arange(len(order))
        table = pd.DataFrame({"onset": onsets, "duration": block, "trial_type": order})
        scan = f"{recording.scan}_task-blocks"
        evoked = strength * _evoked(recording, table, names, random)
        deviation = recording.series.std(axis=1, keepdims=True)
        series = (recording.series + deviation * evoked).astype(np.float32)
        recordings.append(dataclasses.replace(recording, scan=scan, series=series))
        events[scan] = table
    return TaskCohort(tuple(recordings), events)


def write_events(cohort: TaskCohort, folder: str | Path) -> None:
    """Write the blocks as BIDS has them: ``<scan>_events.tsv``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for scan, table in cohort.events.items():
        table.to_csv(folder / f"{scan}_events.tsv", sep="\t", index=False, na_rep="n/a")


def haemodynamic_course(
    onsets: Float[NDArray[np.floating[Any]], "block"],
    durations: Float[NDArray[np.floating[Any]], "block"],
    times: Float[NDArray[np.floating[Any]], "time"],
) -> Float[NDArray[np.float64], "time"]:
    """Compute the response to blocks, by the canonical haemodynamic response of Glover."""
    # Takes seconds, which those who only read a store need not wait.
    from nilearn.glm.first_level import compute_regressor

    if not len(onsets):
        return np.zeros(len(times))
    condition = np.stack([onsets, durations, np.ones(len(onsets))])
    response, _ = compute_regressor(condition, "glover", times)
    return np.asarray(response[:, 0], dtype=np.float64)


def _evoked(
    recording: Recording, table: pd.DataFrame, names: Sequence[str], random: np.random.Generator
) -> NDArray[np.float64]:
    """Return what the blocks evoke in every ROI, shape (roi, time)."""
    times = recording.t_r * np.arange(recording.series.shape[1])
    evoked = np.zeros(recording.series.shape)
    for place, name in enumerate(names):
        own = table[table["trial_type"] == name]
        course = haemodynamic_course(
            own["onset"].to_numpy(np.float64), own["duration"].to_numpy(np.float64), times
        )
        for rois in recording.atlas.network_indices[place :: len(names)]:
            evoked[rois] += random.uniform(0.7, 1.3) * course
    return evoked
