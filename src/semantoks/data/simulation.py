"""A cohort with planted network dynamics and a known answer, for the demo and the tests."""

from __future__ import annotations

import csv
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
from scipy import signal

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.errors import InputError

Array = NDArray[np.float64]

SIMULATED_NETWORKS: Final = {"Vis": 8, "SomMot": 8, "DorsAttn": 8, "Cont": 8, "Default": 8}
"""Networks of the default atlas of a simulated cohort, and their numbers of ROIs."""

_STEP: Final = 2.0
"""Seconds for which memory of the ROIs' noise and frequency of movements are given below."""

_CORNERS: Final = (0.07, 0.08, 0.06, 0.05, 0.055)
"""Corner frequencies in Hz of the networks' signals, used in turn."""


@dataclass(frozen=True)
class _Person:
    """What stays the same in all scans of a subject."""

    name: str
    site: int
    patient: bool
    age: float
    left_handed: bool
    corners: Array
    """Corner frequency of the signal of every network, in Hz, shape (network,)."""
    strengths: Array
    """Amplitude of the signal of every network beside a noise of 1, shape (network,)."""
    couplings: Array
    """What every network takes over from the others, shape (network, network)."""
    loadings: Array
    """What every ROI takes over from its network, shape (roi,)."""
    style: str = ""
    """On which side of the planted way of coupling networks the person is, if there is one."""


def simulate_cohort(
    n_subjects: int = 120,
    *,
    atlas: Atlas | None = None,
    n_samples: int = 220,
    t_r: float = 2.0,
    sessions: int = 1,
    sites: int = 3,
    style: float = 0.0,
    seed: int = 0,
) -> list[Recording]:
    """Simulate scans of patients and controls with a known answer.

    Every network has a fluctuating signal that its ROIs share, and takes over some of the other
    networks' signals; each ROI adds noise of its own. Planted are:

    - ``diagnosis``: in patients the last network (Default, in the default atlas) fluctuates more
      slowly and more strongly, and takes over less of the network before it;
    - ``age``, weakly: the signal of the second network grows weaker and the first two networks
      couple more;
    - the site: colour and strength of the ROIs' noise and the gain of the scanner;
    - motion: spikes and drifts in all ROIs, more of them the larger the mean displacement, which
      depends on nothing else;
    - ``style``, if it has a strength: one way in which all networks couple, along which people
      differ; half of them are on one side of it ("joined"), half on the other ("parted").

    All of it is a process in seconds, of which `t_r` only says where it is sampled: a cohort at a
    very short repetition time, thinned, is the same brains at several longer ones.

    ``handedness`` means nothing: no method can decode it. Handedness and sites are dealt evenly to
    patients and controls, lest chance ties them to the diagnosis.

    Parameters
    ----------
    n_subjects : int
        Number of people; half of them are patients.
    atlas : Atlas, optional
        ROIs and networks, at least two; 5 networks of 8 ROIs by default.
    n_samples : int
        Samples of a scan.
    t_r : float
        Repetition time in seconds.
    sessions : int
        Scans a person.
    sites : int
        Number of sites.
    style : float
        How much people differ along the planted way of coupling: a standard deviation, beside .1 of
        every coupling on its own. The same cohort as without, but for this.
    seed : int
        Same number, same cohort.

    Returns
    -------
    list of Recording
        Scans by subject and session, in arbitrary scanner units, with the phenotypes diagnosis
        ("patient", "control"), age (years) and handedness ("left", "right"), and style, if it has a
        strength.

    Raises
    ------
    InputError
        If a number is too small, or the atlas has one network only.

    Examples
    --------
    >>> recordings = simulate_cohort(n_subjects=4, sessions=2)
    >>> len(recordings), recordings[0].series.shape, recordings[1].scan
    (8, (40, 220), 'sub-001_ses-2')
    >>> sorted(recordings[0].phenotypes)
    ['age', 'diagnosis', 'handedness']
    """
    atlas = simulated_atlas() if atlas is None else atlas
    for name, value in (("n_subjects", n_subjects), ("sessions", sessions), ("sites", sites)):
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1.")
    if n_samples < 2 or not t_r > 0:
        raise InputError(f"cannot simulate {n_samples} samples at a repetition time of {t_r} s.")
    if len(atlas.network_names) < 2:
        raise InputError(
            f"atlas {atlas.name!r} has one network only; a simulated cohort needs at least two."
        )
    random = np.random.default_rng(seed)
    population = random.uniform(0.7, 1.3, len(atlas))
    recordings = []
    persons = _draw_persons(n_subjects, sites, atlas, population, random)
    for number, person in enumerate(_with_style(persons, style, seed) if style else persons):
        for session in range(sessions):
            motion = float(random.lognormal(np.log(0.15), 0.5))
            series = _simulate_scan(person, atlas, n_samples, t_r, motion, random)
            visit = f"ses-{session + 1}" if sessions > 1 else ""
            recordings.append(
                Recording(
                    series=series.astype(np.float32),
                    t_r=t_r,
                    atlas=atlas,
                    scan=f"{person.name}_{visit}" if visit else person.name,
                    subject=person.name,
                    session=visit,
                    site=f"site-{person.site + 1}",
                    motion=motion,
                    phenotypes=_phenotypes(person),
                    source=f"simulation {seed}, subject {number + 1}",
                )
            )
    return recordings


def simulated_atlas() -> Atlas:
    """Return the default atlas of a simulated cohort.

    Examples
    --------
    >>> simulated_atlas().network_names
    ('Vis', 'SomMot', 'DorsAttn', 'Cont', 'Default')
    """
    return Atlas.from_networks(SIMULATED_NETWORKS, name="simulated40")


def write_cohort(
    recordings: list[Recording], folder: str | Path, *, atlas_file: str | Path | None = None
) -> None:
    """Write recordings as users have them: one array a scan and a table of participants.

    Parameters
    ----------
    recordings : list of Recording
        The scans.
    folder : str or path
        Folder for the arrays ``<scan>.npy`` of shape (roi, time) and for ``participants.tsv``; made
        if need be.
    atlas_file : str or path, optional
        Where to write the table of the atlas (.tsv), outside of `folder`; not written by default.

    Raises
    ------
    InputError
        If there is nothing to write, or the atlas would lie among the arrays.
    """
    if not recordings:
        raise InputError(f"there are no recordings to write to {folder}.")
    if not all(recording.scan and recording.subject for recording in recordings):
        raise InputError(
            "a recording without a name cannot be written; give each its scan and its subject."
        )
    folder = Path(folder)
    if atlas_file is not None and folder.resolve() in Path(atlas_file).resolve().parents:
        raise InputError(
            f"the atlas {atlas_file} would lie among the arrays in {folder} and be taken for one. "
            "Write it to another folder."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for recording in recordings:
        np.save(folder / f"{recording.scan}.npy", recording.series)
    rows = [_participant(recording) for recording in recordings]
    with (folder / "participants.tsv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    if atlas_file is not None:
        recordings[0].atlas.to_table().to_csv(atlas_file, sep="\t", index=False)


def _participant(recording: Recording) -> dict[str, Any]:
    """Return the row of a scan in the table of participants."""
    return {
        "scan_id": recording.scan,
        "participant_id": recording.subject,
        "session": recording.session,
        "site": recording.site,
        "t_r": recording.t_r,
        "mean_fd": f"{recording.motion:.4f}",
        **recording.phenotypes,
    }


def _phenotypes(person: _Person) -> dict[str, Any]:
    """Return what is known of a person."""
    known = {
        "diagnosis": "patient" if person.patient else "control",
        "age": round(person.age, 1),
        "handedness": "left" if person.left_handed else "right",
    }
    return known | ({"style": person.style} if person.style else {})


def _draw_persons(
    n: int, sites: int, atlas: Atlas, population: Array, random: np.random.Generator
) -> list[_Person]:
    """Draw people; every person's brain varies around what the planted effects make of it."""
    patients = _spread(np.zeros(n), 2, random) == 1
    # Drawn, not dealt: what is dealt evenly within diagnosis is unbalanced the other way in the
    # people left out, so that features which know the diagnosis would fall below chance.
    left_handed = random.random(n) < 0.5
    site = _spread(patients, sites, random)
    persons = []
    for number in range(n):
        age = float(random.uniform(18, 70))
        corners, strengths, couplings = _draw_brain(
            bool(patients[number]), (age - 44) / 15, len(atlas.network_names), random
        )
        persons.append(
            _Person(
                name=f"sub-{number + 1:03d}",
                site=int(site[number]),
                patient=bool(patients[number]),
                age=age,
                left_handed=bool(left_handed[number]),
                corners=corners,
                strengths=strengths,
                couplings=couplings,
                loadings=population * random.uniform(0.8, 1.2, len(atlas)),
            )
        )
    return persons


def _with_style(persons: Sequence[_Person], strength: float, seed: int) -> list[_Person]:
    """Let people differ along one way of coupling networks, from random numbers of its own."""
    random = np.random.default_rng([seed, 1])
    way = random.choice([-1.0, 1.0], persons[0].couplings.shape)
    np.fill_diagonal(way, 0.0)
    sides = random.standard_normal(len(persons))
    half = np.median(sides)
    return [
        dataclasses.replace(
            person,
            couplings=person.couplings + strength * side * way,
            style="joined" if side > half else "parted",
        )
        for person, side in zip(persons, sides, strict=True)
    ]


def _spread(groups: NDArray[Any], n_levels: int, random: np.random.Generator) -> NDArray[np.intp]:
    """Deal levels at random, as evenly as can be within every group."""
    levels = np.empty(len(groups), dtype=np.intp)
    dealt = 0
    for group in np.unique(groups):
        members = random.permutation(np.flatnonzero(groups == group))
        levels[members] = (np.arange(len(members)) + dealt) % n_levels
        dealt += len(members)
    return levels


def _draw_brain(
    patient: bool, age: float, n_networks: int, random: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Draw corner frequencies, strengths and couplings of the networks; age in deviations."""
    corners = np.resize(_CORNERS, n_networks) * np.exp(0.15 * random.standard_normal(n_networks))
    strengths = 0.9 * np.exp(0.15 * random.standard_normal(n_networks))
    couplings = 0.25 + 0.1 * random.standard_normal((n_networks, n_networks))
    np.fill_diagonal(couplings, 1.0)
    sign = 0.5 if patient else -0.5
    corners[-1] *= np.exp(-1.1 * sign)
    strengths[-1] *= np.exp(0.6 * sign)
    couplings[-1, -2] -= 0.15 * sign
    strengths[1] *= np.exp(-0.15 * age)
    couplings[0, 1] += 0.12 * age
    return corners, strengths, couplings


def _simulate_scan(
    person: _Person,
    atlas: Atlas,
    n_samples: int,
    t_r: float,
    motion: float,
    random: np.random.Generator,
) -> Array:
    """Simulate one scan of a person, shape (roi, time), in scanner units."""
    networks = _coloured_noise(person.corners, n_samples, t_r, random)
    networks = person.couplings @ (person.strengths[:, None] * networks)
    series = np.empty((len(atlas), n_samples))
    for network, rois in zip(networks, atlas.network_indices, strict=True):
        series[rois] = person.loadings[rois, None] * network
    series += _roi_noise(person.site, series.shape, t_r, random)
    series += _movement(motion, n_samples, t_r, random) * random.uniform(0.5, 1.5, (len(atlas), 1))
    gain = 10.0 * (1 + 0.5 * person.site)
    return 1000.0 + gain * series


def _coloured_noise(
    corners: Array, n_samples: int, t_r: float, random: np.random.Generator
) -> Array:
    """Draw one signal of unit variance a corner frequency: flat below it, then falling."""
    # Twice the length, so that the ends are not each other's continuation.
    white = np.fft.rfft(random.standard_normal((len(corners), 2 * n_samples)), axis=1)
    frequencies = np.fft.rfftfreq(2 * n_samples, t_r)
    amplitude = 1 / np.sqrt(1 + (frequencies / corners[:, None]) ** 4)
    signals = np.fft.irfft(white * amplitude, axis=1)[:, :n_samples]
    return np.asarray(signals / signals.std(axis=1, keepdims=True))


def _roi_noise(site: int, shape: tuple[int, int], t_r: float, random: np.random.Generator) -> Array:
    """Draw the noise of every ROI; each site has a colour and a strength of its own."""
    # An exponential memory: whatever the repetition time, these are samples of one process.
    memory = (0.1 + 0.3 * (site % 3)) ** (t_r / _STEP)
    settling = round(50 * _STEP / t_r)
    white = random.standard_normal((shape[0], shape[1] + settling))
    noise = signal.lfilter([np.sqrt(1 - memory**2)], [1.0, -memory], white, axis=1)[:, settling:]
    return np.asarray((1 + 0.05 * (site % 5)) * noise)


def _movement(motion: float, n_samples: int, t_r: float, random: np.random.Generator) -> Array:
    """Draw what head movement adds to all ROIs: spikes and a slow drift, shape (1, time)."""
    spikes = random.random(n_samples) < 0.2 * motion * t_r / _STEP
    # The signal recovers from a movement over several samples.
    recovery = 0.7 ** (t_r / _STEP)
    jumps = signal.lfilter([1.0], [1.0, -recovery], spikes * random.normal(0, 4, n_samples))
    drift = np.linspace(-1, 1, n_samples) * random.normal(0, 4 * motion)
    wander = np.cumsum(random.standard_normal(n_samples)) / np.sqrt(n_samples)
    return np.asarray((jumps + drift + 2 * motion * wander)[None, :])


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
