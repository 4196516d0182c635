"""Which networks a score comes from: what is lost where one is hidden, and how edges go with it.

Everything is measured on people who were not learned from, in the folds of `probe`. Hiding a
network takes its ROIs for missing: an encoder masks its tokens, components take it to be as it is
on average, connectivity loses its edges.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table
from scipy.stats import spearmanr

import semantoks
from semantoks.benchmark.baselines import connectivity_features
from semantoks.benchmark.gradients import (
    FEWEST_PEOPLE,
    LARGEST_GAP,
    check_gradients,
    choose_people,
    gradient_tables,
    integrated_gradients,
    score_weights,
)
from semantoks.benchmark.tasks import Task, draw_weights, kept_scans, read_task
from semantoks.data.atlas import Atlas
from semantoks.data.images import paint_rois
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.confounds import confound_columns, find_confounds
from semantoks.evaluation.embedding import PREPARE_AGAIN, check_preprocessing
from semantoks.evaluation.finetuning import take_scans
from semantoks.evaluation.harmonization import ConfoundRegression
from semantoks.evaluation.linear import (
    FittedLinear,
    FoldPrediction,
    Scaling,
    fit_linear,
    scaling_of,
)
from semantoks.evaluation.metrics import bootstrap_weights, interval
from semantoks.evaluation.probe import Score, score_predictions
from semantoks.evaluation.readout import (
    FeatureKind,
    Scans,
    default_features,
    encode_scans,
    feature_names,
    scans_of,
)
from semantoks.evaluation.same_series import check_people
from semantoks.evaluation.significance import permute_labels
from semantoks.evaluation.splits import Kind, Split, families_of, subjects_of
from semantoks.evaluation.splitters import SubjectFolds
from semantoks.files import new_folder
from semantoks.model.encoder import SemantoksEncoder, fresh_weights

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRIC: Final[Mapping[Kind, str]] = {"classification": "auc", "regression": "r2"}
"""What is lost where a network is hidden."""
CHANCE: Final[Mapping[Kind, float]] = {"classification": 0.5, "regression": 0.0}
_EDGES: Final = 500
"""Edges that are listed, the strongest."""
_PATTERN_DRAWS: Final = 1000
_STABLE: Final = 0.3
"""Correlation of the maps of folds from which a map counts as stable."""
_SURE: Final = 0.05
_FEWEST: Final = 20
"""Permutations of which the largest drop can have a p below that."""
_MOVED: Final = 0.5
"""Correlation with the map of motion from which a map is one of motion."""

_COLUMNS: Final = (
    "network", "n_roi", "drop", "low", "high", "p", "refit_drop", "alone", "fold_sd", "random_drop",
)  # fmt: skip

Describe = Callable[[Bool[NDArray[np.bool_], "roi"]], Float[NDArray[np.float64], "scan feature"]]
"""What describes all scans when only some ROIs are there."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Explanation:
    """Where a score comes from, and how far to believe it.

    Parameters
    ----------
    networks : DataFrame
        One row a network, the strongest first: network, n_roi, drop of the score where it is hidden
        and the probe stays, low and high (95 % over subjects), p (permuted labels, largest drop of
        all networks), refit_drop, alone (score with all others hidden), fold_sd.
    pairs, rois, edges : DataFrame
        How the mean edge of two networks, of a ROI, and single edges go with the held-out score
        (Haufe's pattern as a correlation): value, low, high, p; empty for more than two classes.
    checks : DataFrame
        check, value, passed (True, False, or None where nothing can fail) and what it says.
    settings : mapping
        The score, and what was computed on.
    gradients, roi_gradients : DataFrame
        What networks and ROIs add to the score (integrated gradients, signed): the difference of
        the two classes or the covariance with the standardised value, against silence (value, low,
        high) and against other people with random phases (against_others); empty if not asked for.
    """

    networks: pd.DataFrame
    pairs: pd.DataFrame
    rois: pd.DataFrame
    edges: pd.DataFrame
    checks: pd.DataFrame
    settings: Mapping[str, Any]
    gradients: pd.DataFrame = field(default_factory=pd.DataFrame)
    roi_gradients: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def believable(self) -> bool:
        """Whether no check failed."""
        return not (self.checks["passed"] == False).any()  # noqa: E712 - None is no failure

    def to_nifti(self, atlas_image: str | Path, atlas: Atlas) -> Any:
        """Paint the pattern of ROIs into the volume of their atlas.

        Parameters
        ----------
        atlas_image : str or Path
            Label volume of the atlas.
        atlas : Atlas
            The atlas of the scans.

        Returns
        -------
        nibabel.Nifti1Image
            Its values are correlations with the held-out score; 0 outside of ROIs.

        Raises
        ------
        InputError
            If there is no pattern, or the volume is of another atlas.
        """
        self._check_pattern()
        return paint_rois(Path(atlas_image), atlas, self.rois["value"].to_numpy())

    def plot_networks(self) -> Figure:
        """Draw what the score loses where a network is hidden; grey if a check failed.

        Returns
        -------
        matplotlib.figure.Figure
            Drops with intervals, and each network alone.
        """
        from semantoks.interpretation.figures.explanations import draw_importance

        return draw_importance(self.networks, self.settings, self.believable)

    def plot_pairs(self) -> Figure:
        """Draw how the mean edge of two networks goes with the score; grey if a check failed.

        Returns
        -------
        matplotlib.figure.Figure
            A matrix of networks.

        Raises
        ------
        InputError
            If there is no pattern: of more than two classes.
        """
        from semantoks.interpretation.figures.explanations import draw_pairs

        self._check_pattern()
        return draw_pairs(self.pairs, self.believable)

    def plot_brain(self) -> Figure:
        """Draw the pattern of ROIs in a glass brain; grey if a check failed.

        Returns
        -------
        matplotlib.figure.Figure
            ROIs where the atlas says that they lie.

        Raises
        ------
        InputError
            If there is no pattern, or the atlas has no coordinates.
        """
        from semantoks.interpretation.figures.explanations import draw_brain

        self._check_pattern()
        figure = draw_brain(self.rois, self.believable)
        if figure is None:
            raise InputError(
                f"atlas {self.settings['atlas']['name']!r} does not say where its ROIs lie; give "
                "its table the columns x, y and z (mm) to see them in a brain."
            )
        return figure

    def _check_pattern(self) -> None:
        """Refuse to show a pattern that there is not."""
        if not len(self.rois):
            raise InputError(
                "there is no pattern of ROIs to paint: patterns are of two classes, or of values."
            )

    def _repr_html_(self) -> str:
        """Show networks and checks in a notebook."""
        return str(self.networks.to_html(index=False) + self.checks.to_html(index=False))


def explain(
    store: Store,
    model: SemantoksEncoder | Literal["connectivity"],
    target: str,
    *,
    kind: Literal["auto", "classification", "regression"] = "auto",
    features: FeatureKind | None = None,
    windows: int = 8,
    n_folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    n_draws: int = 1000,
    permutations: int = 100,
    deletions: int = 2,
    gradients: int = 0,
    random_sets: int = 0,
    untrained: bool = True,
    family_column: str | None = None,
    confounds: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    batch_size: int = 64,
    say: Say = lambda _: None,
) -> Explanation:
    """Say which networks the score of a linear probe comes from.

    Parameters
    ----------
    store : Store
        The scans.
    model : SemantoksEncoder or "connectivity"
        What describes them.
    target : str
        Column of the table of scans.
    kind : {"auto", "classification", "regression"}
        "auto" means regression for a number with more than 10 different values.
    features : str, optional
        What is read out, as for `embed`; the model's default if None.
    windows : int
        Windows a scan.
    n_folds, repeats : int
        Folds of subjects, and how often subjects are divided anew.
    seed : int
        Seed of the divisions, draws and permutations.
    n_draws : int
        Draws for the intervals.
    permutations : int
        Permutations of labels, for the p of drops.
    deletions : int
        Random orders in which networks are deleted, beside the map's; 0 leaves this check out.
    gradients : int
        People for whose scans gradients are integrated; 0 leaves them out. For encoders, features
        that pass through tokens, and two classes or values.
    random_sets : int
        Random sets of as many ROIs that are hidden beside each network, since larger ones have
        more to lose; their mean drop is random_drop. 0 leaves them out.
    untrained : bool
        Whether the same architecture with fresh weights is explained beside it; not for
        connectivity and components, which nothing was trained for.
    family_column : str, optional
        Column that keeps relatives together.
    confounds : sequence of str
        Columns whose linear effect is taken out of features, learned in every training part, and
        out of edges before patterns are taken.
    leave_out : sequence of str
        Names of scans that take no part.
    batch_size : int
        Windows that are encoded at once.
    say : callable
        Told what is done, and how long it will take.

    Returns
    -------
    Explanation
        Tables, checks and settings.

    Raises
    ------
    InputError
        If the score is not above chance: there is nothing to explain; or as `compare`.
    ConfigurationError
        If an option is impossible.

    References
    ----------
    Haufe et al.: On the interpretation of weight vectors of linear models in multivariate
    neuroimaging. NeuroImage 2014.
    """
    kept = kept_scans(store, leave_out)
    task = read_task(store.scans[kept], target, kind)
    task = replace(task, rows=np.flatnonzero(kept)[task.rows])
    check_people(store, list(store.scans["scan"].iloc[task.rows].astype(str)))
    scans = store.scans.iloc[task.rows].reset_index(drop=True)
    splits = SubjectFolds(n_folds, repeats, seed=seed, family_column=family_column).splits(
        scans, task.name(task.truth), kind=task.kind
    )
    units = families_of(scans, family_column)
    edges = connectivity_features(store)[task.rows]
    networks = store.atlas.network_names
    places = store.atlas.network_indices
    describe, scaling, chosen = _reader(store, model, task, edges, features, windows, batch_size)
    _check_asked(model, chosen, task, gradients)
    if confounds:
        confounds = confound_columns(scans, target, task.truth, confounds).used
        edges = ConfoundRegression(confounds).fit_transform(edges, scans=scans).astype(np.float32)
    weights = draw_weights(splits, units, n_draws, seed)
    asked = _Asked(task, tuple(splits), units, scaling, weights, scans, tuple(confounds))

    everything, began = np.ones(len(store.atlas), dtype=bool), time.perf_counter()
    full = describe(everything)
    once = time.perf_counter() - began
    fresh = isinstance(model, SemantoksEncoder) and chosen != "components" and untrained
    times = (
        (2 + random_sets) * len(networks)
        + (len(networks) + 1) * fresh
        + deletions_of(deletions, networks)
    )
    say(
        f"{times} more descriptions of {len(task.rows)} scans, about {times * once:.0f} s, and "
        f"{permutations} permutations of labels."
    )
    fitted = asked.fit(full)
    whole = asked.score(asked.read(fitted, full))
    _check_above_chance(task, whole)
    hidden, alone = _hide_each(store.atlas, describe, say)
    table, by_fold = _masking(asked, fitted, full, hidden, alone, whole)
    table["network"], table["n_roi"] = list(networks), [len(rois) for rois in places]
    if random_sets:
        table["random_drop"] = _random_drops(
            asked, fitted, describe, store.atlas, whole.value, random_sets, seed, say
        )
    null = _null_of_drops(asked, full, hidden, permutations, seed)
    table["p"] = [_rank(drop, null) for drop in table["drop"]]
    order = table["drop"].to_numpy().argsort()[::-1]
    checks = [
        _Check("score above chance", whole.value, True, f"{whole.low:.3f} to {whole.high:.3f}"),
        _stability(by_fold),
        _labels(table, len(null)),
    ]
    if deletions:
        checks.append(
            _deletion(asked, fitted, describe, [places[i] for i in order], deletions, seed, say)
        )
    if fresh and isinstance(model, SemantoksEncoder):
        say("the same with fresh weights")
        other, _, _ = _reader(
            store, fresh_weights(model, seed), task, edges, chosen, windows, batch_size
        )
        checks.append(_untrained(asked, other, table, places))
    pairs, rois, strongest, moved = _patterns(asked, fitted, full, store, edges, scans, seed)
    added, added_rois, complete = _gradients(
        asked, fitted, model, store, chosen, gradients, seed, say
    )
    checks += [*moved, *complete]
    settings = {
        **_facts(asked, whole, store),
        "null_drop_95": float(np.quantile(null, 0.95)) if len(null) else None,
        "features": chosen,
        "model": "connectivity" if isinstance(model, str) else model.arguments,
        "n_folds": n_folds,
        "n_repeats": repeats,
        "seed": seed,
        "permutations": permutations,
    }
    shown = [name for name in _COLUMNS if name in table]
    return Explanation(
        table.iloc[order][shown].reset_index(drop=True),
        pairs,
        rois,
        strongest,
        pd.DataFrame(checks),
        settings,
        added,
        added_rois,
    )


def _check_above_chance(task: Task, whole: Score) -> None:
    """Refuse to explain noise."""
    if not whole.low > CHANCE[task.kind]:
        raise InputError(
            f"{task.target} is not told above chance: {METRIC[task.kind]} {whole.value:.3f} "
            f"[{whole.low:.3f}, {whole.high:.3f}]. There is nothing to explain; a map would be one "
            "of noise. Take another target, more scans, or other features."
        )


def _hide_each(
    atlas: Atlas, describe: Describe, say: Say
) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
    """Describe scans without each network, and by each alone."""
    hidden, alone = [], []
    for name, place in zip(atlas.network_names, atlas.network_indices, strict=True):
        only = np.zeros(len(atlas), dtype=bool)
        only[place] = True
        say(f"hiding {name}")
        hidden.append(describe(~only))
        alone.append(describe(only))
    return hidden, alone


def _check_asked(
    model: SemantoksEncoder | str, features: FeatureKind, task: Task, gradients: int
) -> None:
    """Refuse gradients where there are none."""
    if not gradients:
        return
    if gradients < FEWEST_PEOPLE:
        raise ConfigurationError(
            f"gradients is {gradients}; those of fewer than {FEWEST_PEOPLE} people say nothing of "
            "a group. Ask for more, or for 0 to leave them out."
        )
    if isinstance(model, str):
        raise InputError("gradients are of an encoder; connectivity has the patterns of its edges.")
    check_gradients(features)
    if len(task.classes) > 2:
        raise InputError(
            f"gradients are of two classes, or of values; {task.target} has {len(task.classes)} "
            "classes. Leave gradients out."
        )


def _gradients(
    asked: _Asked,
    fitted: Sequence[_Probe],
    model: SemantoksEncoder | str,
    store: Store,
    features: FeatureKind,
    count: int,
    seed: int,
    say: Say,
) -> tuple[pd.DataFrame, pd.DataFrame, list[_Check]]:
    """Integrate gradients of scans that their fold's probe did not learn from."""
    if not count or isinstance(model, str):
        return pd.DataFrame(), pd.DataFrame(), []
    task, subjects = asked.task, subjects_of(asked.scans)
    rows = choose_people(subjects, task.truth, len(task.classes), count, seed)
    fold = np.zeros(len(subjects), dtype=np.intp)
    for number, split in enumerate(asked.splits):
        if split.repeat == 0:
            fold[split.test] = number
    along = [score_weights(probe) for probe, _ in fitted]
    say(f"integrating gradients of {len(rows)} people")
    began = time.perf_counter()

    def progress(done: int, of: int) -> None:
        if done == 5 < of:
            left = (time.perf_counter() - began) / done * (of - done)
            say(f"about {left:.0f} s more")

    found = integrated_gradients(
        model,
        take_scans(scans_of(store, model), task.rows),
        rows,
        np.array([along[fold[row]] for row in rows]),
        subjects,
        features=features,
        seed=seed,
        progress=progress,
    )
    tables = gradient_tables(
        found, task.truth[rows], len(task.classes), asked.units[rows], store.atlas, seed
    )
    said = "share of the score that integrated gradients miss"
    complete = _Check("gradients are complete", found.gap, found.gap <= LARGEST_GAP, said)
    return *tables, [complete]


def _facts(asked: _Asked, whole: Score, store: Store) -> dict[str, Any]:
    """Say what was asked, of whom, and how well it is told."""
    task = asked.task
    return {
        "target": task.target,
        "kind": task.kind,
        "metric": METRIC[task.kind],
        "score": [whole.value, whole.low, whole.high],
        "chance": CHANCE[task.kind],
        "classes": list(task.classes),
        "confounds": list(asked.confounds),
        "n_scans": len(task.rows),
        "n_subjects": len(np.unique(subjects_of(asked.scans))),
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "atlas": {"name": store.atlas.name, "fingerprint": store.atlas.fingerprint},
        "semantoks": semantoks.__version__,
    }


def deletions_of(deletions: int, networks: Sequence[str]) -> int:
    """Count the descriptions that deleting networks one after another takes.

    Examples
    --------
    >>> deletions_of(2, ["Vis", "Cont", "Default"])
    6
    """
    return (deletions + 1) * (len(networks) - 1) if deletions else 0


class _Check(NamedTuple):
    check: str
    value: float
    passed: bool | None
    said: str


class _Probe(NamedTuple):
    fitted: FittedLinear
    prepare: ConfoundRegression | None


@dataclass(frozen=True)
class _Asked:
    """A target, folds, and who moves together."""

    task: Task
    splits: tuple[Split, ...]
    units: NDArray[Any]
    scaling: Scaling
    weights: NDArray[np.float64]
    scans: pd.DataFrame
    confounds: tuple[str, ...] = ()

    def fit(self, features: NDArray[np.float64], truth: NDArray[Any] | None = None) -> list[_Probe]:
        """Fit the probe in every fold, after what confounds do was taken out."""
        truth = self.task.truth if truth is None else truth
        probes = []
        for split in self.splits:
            learned, prepare = features[split.train], None
            if self.confounds:
                prepare = ConfoundRegression(self.confounds)
                learned = prepare.fit_transform(learned, scans=self.scans.iloc[split.train])
            fitted = fit_linear(
                learned,
                truth[split.train],
                self.units[split.train],
                n_classes=len(self.task.classes),
                scaling=self.scaling,
                where=str(split),
            )
            probes.append(_Probe(fitted, prepare))
        return probes

    def read(self, fitted: Sequence[_Probe], features: NDArray[np.float64]) -> list[FoldPrediction]:
        """Predict the tested part of every fold."""
        folds = []
        for split, (probe, prepare) in zip(self.splits, fitted, strict=True):
            tested = features[split.test]
            if prepare is not None:
                tested = prepare.transform(tested, scans=self.scans.iloc[split.test])
            folds.append(probe.predict(split, tested))
        return folds

    def score(self, folds: Sequence[FoldPrediction], truth: NDArray[Any] | None = None) -> Score:
        """Score, with draws; draws of ones alone for other labels."""
        weights = self.weights if truth is None else np.ones((1, len(truth)))
        truth = self.task.truth if truth is None else truth
        scores = score_predictions(folds, truth, weights, kind=self.task.kind)
        return scores[METRIC[self.task.kind]]


def _reader(
    store: Store,
    model: SemantoksEncoder | Literal["connectivity"],
    task: Task,
    edges: NDArray[np.float32],
    features: FeatureKind | None,
    windows: int,
    batch_size: int,
) -> tuple[Describe, Scaling, str]:
    """Make what describes scans when some ROIs are missing."""
    if isinstance(model, str):
        if model != "connectivity":
            raise InputError(f"a model is an encoder or 'connectivity', not {model!r}.")
        row, column = np.tril_indices(len(store.atlas), -1)
        return (lambda there: edges * (there[row] & there[column])), "center", "connectivity"
    check_preprocessing(
        f"store {store.path}", store.preprocessing, model.preprocessing, PREPARE_AGAIN
    )
    chosen = features or default_features(model)
    scaling = scaling_of(feature_names(model, chosen))
    whole = take_scans(scans_of(store, model), task.rows)

    def describe(there: NDArray[np.bool_]) -> NDArray[np.float64]:
        part = _only(whole, there)
        made = encode_scans(model, part, features=chosen, windows=windows, batch_size=batch_size)
        return made.astype(np.float64)

    return describe, scaling, chosen


def _only(scans: Scans, there: NDArray[np.bool_]) -> Scans:
    """Take some ROIs of scans; the others are missing."""
    return replace(
        scans,
        valid=scans.valid & there,
        read=lambda *which: scans.read(*which) * there[:, None],
    )


def _masking(
    asked: _Asked,
    fitted: Sequence[_Probe],
    full: NDArray[np.float64],
    hidden: Sequence[NDArray[np.float64]],
    alone: Sequence[NDArray[np.float64]],
    whole: Score,
) -> tuple[pd.DataFrame, Float[NDArray[np.float64], "network fold"]]:
    """Say what is lost where a network is hidden, and what it knows alone."""
    own = _by_fold(asked, asked.read(fitted, full))
    rows, by_fold = [], []
    for without, only in zip(hidden, alone, strict=True):
        folds = asked.read(fitted, without)
        left = asked.score(folds)
        low, high = interval(whole.draws - left.draws)
        each = own - _by_fold(asked, folds)
        by_fold.append(each)
        rows.append(
            {
                "drop": whole.value - left.value,
                "low": low,
                "high": high,
                "refit_drop": whole.value - _refitted(asked, without),
                "alone": _refitted(asked, only),
                "fold_sd": float(np.nanstd(each)),
            }
        )
    return pd.DataFrame(rows), np.array(by_fold)


def _random_drops(
    asked: _Asked,
    fitted: Sequence[_Probe],
    describe: Describe,
    atlas: Atlas,
    whole: float,
    sets: int,
    seed: int,
    say: Say,
) -> list[float]:
    """Average what is lost where as many ROIs as a network has are hidden at random."""
    random, means = np.random.default_rng(seed), []
    for name, rois in zip(atlas.network_names, atlas.network_indices, strict=True):
        say(f"hiding as many ROIs as {name} has at random")
        lost = []
        for _ in range(sets):
            there = np.ones(len(atlas), dtype=bool)
            there[random.choice(len(atlas), len(rois), replace=False)] = False
            lost.append(whole - asked.score(asked.read(fitted, describe(there))).value)
        means.append(float(np.mean(lost)))
    return means


def _refitted(asked: _Asked, features: NDArray[np.float64]) -> float:
    """Score a probe that learns from these features; chance where they say nothing."""
    if not np.ptp(features, axis=0).any():
        return CHANCE[asked.task.kind]
    return asked.score(asked.read(asked.fit(features), features)).value


def _by_fold(asked: _Asked, folds: Sequence[FoldPrediction]) -> Float[NDArray[np.float64], "fold"]:
    """Score every fold on its own."""
    return np.array([asked.score([fold], asked.task.truth).value for fold in folds])


def _null_of_drops(
    asked: _Asked,
    full: NDArray[np.float64],
    hidden: Sequence[NDArray[np.float64]],
    permutations: int,
    seed: int,
) -> Float[NDArray[np.float64], "permutation"]:
    """Return the largest drop of all networks for labels given to others."""
    random, found = np.random.default_rng(seed), []
    for _ in range(permutations):
        truth = permute_labels(asked.task.truth, asked.units, random)
        fitted = asked.fit(full, truth)
        own = asked.score(asked.read(fitted, full), truth).value
        left = [asked.score(asked.read(fitted, one), truth).value for one in hidden]
        found.append(own - min(left))
    return np.array(found)


def _rank(value: float, null: Float[NDArray[np.float64], "draw"]) -> float:
    """Compute p of a value among those of chance; NaN where none was drawn."""
    return (1 + int((null >= value).sum())) / (1 + len(null)) if len(null) else float("nan")


def _labels(table: pd.DataFrame, permutations: int) -> _Check:
    """Say whether the largest drop could be one of permuted labels."""
    p, said = float(table["p"].min()), "p of the largest drop, among those of permuted labels"
    if permutations < _FEWEST:
        said = f"fewer than {_FEWEST} permutations of labels cannot tell"
        return _Check("labels given to others", p, None, said)
    return _Check("labels given to others", p, p < _SURE, said)


def _stability(by_fold: Float[NDArray[np.float64], "network fold"]) -> _Check:
    """Correlate the maps of folds with one another."""
    known = by_fold[:, np.isfinite(by_fold).all(axis=0)]
    if known.shape[0] < 3 or known.shape[1] < 2:
        return _Check("folds agree", float("nan"), None, "too few networks or folds to say")
    with np.errstate(invalid="ignore", divide="ignore"):  # a fold in which nothing drops
        correlations = np.atleast_2d(np.corrcoef(known.T))
    pairs = np.nan_to_num(correlations[np.triu_indices(known.shape[1], 1)])
    value = float(pairs.mean())
    return _Check(
        "folds agree", value, value >= _STABLE, "mean correlation of the maps of two folds"
    )


def _deletion(
    asked: _Asked,
    fitted: Sequence[_Probe],
    describe: Describe,
    ordered: Sequence[NDArray[np.intp]],
    deletions: int,
    seed: int,
    say: Say,
) -> _Check:
    """Hide networks one after another, in the order of the map and in random orders."""
    random = np.random.default_rng(seed)
    orders = [list(ordered), *(
        [ordered[i] for i in random.permutation(len(ordered))] for _ in range(deletions)
    )]  # fmt: skip
    means = []
    for number, order in enumerate(orders):
        say("deleting networks " + (f"in random order {number}" if number else "as the map says"))
        left = [asked.read(fitted, describe(there)) for there in _ever_fewer(order)]
        means.append(float(np.mean([asked.score(folds).value for folds in left])))
    at_random = float(np.mean(means[1:]))
    return _Check(
        "deleting in its order",
        at_random - means[0],
        means[0] < min(means[1:]),
        f"mean score {means[0]:.3f} while networks are hidden one after another, in random orders "
        f"{at_random:.3f}",
    )


def _ever_fewer(order: Sequence[NDArray[np.intp]]) -> Iterator[NDArray[np.bool_]]:
    """Hide one network after another, until one is left."""
    there = np.ones(sum(map(len, order)), dtype=bool)
    for rois in order[:-1]:
        there[rois] = False
        yield there.copy()


def _untrained(
    asked: _Asked, describe: Describe, table: pd.DataFrame, places: Sequence[NDArray[np.intp]]
) -> _Check:
    """Compare with the map of fresh weights."""
    everything = np.ones(sum(map(len, places)), dtype=bool)
    full = describe(everything)
    fitted = asked.fit(full)
    whole = asked.score(asked.read(fitted, full))
    drops = []
    for rois in places:
        there = everything.copy()
        there[rois] = False
        drops.append(whole.value - asked.score(asked.read(fitted, describe(there))).value)
    rank = float(spearmanr(drops, table["drop"]).statistic) if len(drops) > 2 else float("nan")
    return _Check(
        "fresh weights",
        rank,
        None,
        f"rank correlation with the map of fresh weights, whose score is {whole.value:.3f} "
        f"[{whole.low:.3f}, {whole.high:.3f}]",
    )


def _patterns(
    asked: _Asked,
    fitted: Sequence[_Probe],
    full: NDArray[np.float64],
    store: Store,
    edges: NDArray[np.float32],
    scans: pd.DataFrame,
    seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[_Check]]:
    """Correlate connectivity with the held-out score, within folds and over people."""
    empty = pd.DataFrame()
    if len(asked.task.classes) > 2:
        return empty, empty, empty, []
    first = [fold for fold in asked.read(fitted, full) if fold.split.repeat == 0]
    score = np.full(len(asked.units), np.nan)
    where = np.zeros(len(asked.units), dtype=np.intp)
    for number, fold in enumerate(first):
        said = fold.score[:, 1] - fold.score[:, 0] if asked.task.classes else fold.prediction
        score[fold.split.test], where[fold.split.test] = said, number
    people, code = np.unique(subjects_of(scans), return_inverse=True)
    per = _average(code, len(people))
    x, s = per @ edges.astype(np.float64), per @ score
    fold_of = (per @ where).round().astype(np.intp)
    x, s = _centred(x, fold_of), _centred(s[:, None], fold_of)[:, 0]
    atlas = store.atlas
    row, column = np.tril_indices(len(atlas), -1)
    pattern = _correlate(x, s)
    pairs, of_pairs = _network_pairs(atlas.network_indices, row, column)
    names = atlas.network_names
    unit = np.empty(len(people), dtype=object)
    unit[code] = asked.units
    weights = bootstrap_weights(unit.astype(str), _PATTERN_DRAWS, seed)
    paired = _pattern_table(x @ of_pairs, s, fold_of, weights, seed)
    paired.insert(0, "network_b", [names[b] for _, b in pairs])
    paired.insert(0, "network_a", [names[a] for a, _ in pairs])
    of_rois = np.zeros((len(row), len(atlas)))
    of_rois[np.arange(len(row)), row] = of_rois[np.arange(len(row)), column] = 1 / (len(atlas) - 1)
    rois = _pattern_table(x @ of_rois, s, fold_of, weights, seed)
    known = pd.DataFrame(atlas.coordinates, columns=list("xyz"))
    rois = pd.concat(
        [pd.DataFrame({"label": atlas.labels, "network": atlas.networks}), known, rois], axis=1
    )
    strongest = np.abs(np.nan_to_num(pattern)).argsort()[::-1][:_EDGES]
    listed = pd.DataFrame(
        {
            "label_a": [atlas.labels[i] for i in row[strongest]],
            "label_b": [atlas.labels[i] for i in column[strongest]],
            "network_a": [atlas.networks[i] for i in row[strongest]],
            "network_b": [atlas.networks[i] for i in column[strongest]],
            "value": pattern[strongest],
        }
    )
    by_strength = paired.reindex(paired["value"].abs().sort_values(ascending=False).index)
    moved = _motion(scans, per, x, fold_of, pattern)
    return by_strength.reset_index(drop=True), rois, listed, moved


def _motion(
    scans: pd.DataFrame,
    per: NDArray[np.float64],
    x: NDArray[np.float64],
    folds: NDArray[np.intp],
    pattern: NDArray[np.float64],
) -> list[_Check]:
    """Compare the map of edges with that of motion."""
    column = find_confounds(scans).get("motion")
    if column is None:
        return [_Check("not motion", float("nan"), None, "the table of scans has no motion")]
    motion = pd.to_numeric(scans[column], errors="coerce").to_numpy(dtype=np.float64)
    told = np.isfinite(motion)
    share = per @ told  # a scan whose motion is not known must not hide that of all others
    motion = np.divide(
        per @ np.where(told, motion, 0), share, out=np.full(len(share), np.nan), where=share > 0
    )
    known = np.isfinite(motion)
    if known.sum() < 3 or np.ptp(motion[known]) == 0:
        return [_Check("not motion", float("nan"), None, "motion is not known")]
    theirs = _correlate(x[known], _centred(motion[known, None], folds[known])[:, 0])
    both = np.isfinite(theirs) & np.isfinite(pattern)
    r = float(np.corrcoef(theirs[both], pattern[both])[0, 1])
    said = "correlation, over edges, with the map of motion"
    return [_Check("not motion", r, abs(r) < _MOVED, said)]


def _average(code: NDArray[np.intp], people: int) -> Float[NDArray[np.float64], "person scan"]:
    """Average over the scans of a person."""
    member = (code == np.arange(people)[:, None]).astype(np.float64)
    return np.asarray(member / member.sum(axis=1, keepdims=True))


def _centred(
    x: Float[NDArray[np.float64], "person column"], folds: NDArray[np.intp]
) -> Float[NDArray[np.float64], "person column"]:
    """Take the mean of every fold off."""
    centred = x.copy()
    for fold in np.unique(folds):
        centred[folds == fold] -= x[folds == fold].mean(axis=0)
    return centred


def _correlate(
    x: Float[NDArray[np.float64], "person column"], s: Float[NDArray[np.float64], "person"]
) -> Float[NDArray[np.float64], "column"]:
    """Correlate centred columns with a centred score; 0 where one does not vary."""
    size = np.sqrt((x**2).sum(axis=0) * (s**2).sum())
    return np.asarray(np.divide(s @ x, size, out=np.zeros(x.shape[1]), where=size > 0))


def _network_pairs(
    places: Sequence[NDArray[np.intp]], row: NDArray[np.intp], column: NDArray[np.intp]
) -> tuple[list[tuple[int, int]], Float[NDArray[np.float64], "edge pair"]]:
    """Average edges within and between networks; pairs without an edge are left out."""
    owner = np.empty(sum(map(len, places)), dtype=np.intp)
    for number, rois in enumerate(places):
        owner[rois] = number
    low, high = np.minimum(owner[row], owner[column]), np.maximum(owner[row], owner[column])
    pairs = sorted({*zip(low.tolist(), high.tolist(), strict=True)})
    averages = np.zeros((len(row), len(pairs)))
    for k, (a, b) in enumerate(pairs):
        inside = (low == a) & (high == b)
        averages[inside, k] = 1 / inside.sum()
    return pairs, averages


def _pattern_table(
    x: Float[NDArray[np.float64], "person column"],
    s: Float[NDArray[np.float64], "person"],
    folds: NDArray[np.intp],
    weights: Float[NDArray[np.float64], "draw person"],
    seed: int,
) -> pd.DataFrame:
    """Correlate with intervals over people, and p among the largest of scores given to others."""
    value = _correlate(x, s)
    size = np.sqrt((weights @ x**2) * (weights @ s**2)[:, None])
    draws = np.divide(weights @ (x * s[:, None]), size, out=np.zeros(size.shape), where=size > 0)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    random = np.random.default_rng(seed)
    others = np.empty((len(s), len(weights)))
    for k in range(others.shape[1]):
        for fold in np.unique(folds):
            rows = np.flatnonzero(folds == fold)
            others[rows, k] = s[random.permutation(rows)]
    largest = np.abs(np.stack([_correlate(x, others[:, k]) for k in range(others.shape[1])])).max(
        axis=1
    )
    p = [_rank(abs(one), largest) for one in value]
    stable = np.mean(
        [np.sign(_correlate(x[folds == f], s[folds == f])) == np.sign(value) for f in set(folds)],
        axis=0,
    )
    return pd.DataFrame({"value": value, "low": low, "high": high, "stability": stable, "p": p})


def explanation_table(found: Explanation) -> Table:
    """Lay networks out for the terminal."""
    settings = found.settings
    value, low, high = settings["score"]
    metric = str(settings["metric"])
    shown = Table(
        title=escape(f"{settings['target']}: {metric} {value:.3f} [{low:.3f}, {high:.3f}]"),
        caption="drop: where the network is hidden; again: and the probe learns again.",
    )
    shown.add_column("", overflow="fold")
    for heading in ("ROIs", "drop", "p", "again", "alone"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for row in found.networks.itertuples(index=False):
        shown.add_row(
            escape(str(row.network)),
            str(row.n_roi),
            escape(f"{row.drop:+.3f} [{row.low:+.3f}, {row.high:+.3f}]"),
            f"{row.p:.3f}",
            f"{row.refit_drop:+.3f}",
            f"{row.alone:.3f}",
        )
    return shown


def write_explanation(found: Explanation, folder: str | Path) -> Path:
    """Write an explanation to a new folder, all of it or nothing.

    Parameters
    ----------
    found : Explanation
        What `explain` returned.
    folder : str or path
        New folder: importance_networks.tsv, importance_rois.tsv, pairs.tsv, edges.tsv, checks.tsv,
        explain.json, and gradients_networks.tsv and gradients_rois.tsv if these were asked for.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    InputError
        If the folder exists, or it cannot be written.
    """
    folder = Path(folder)
    tables = {
        "importance_networks": found.networks,
        "importance_rois": found.rois,
        "pairs": found.pairs,
        "edges": found.edges,
        "checks": found.checks,
        "gradients_networks": found.gradients,
        "gradients_rois": found.roi_gradients,
    }
    try:
        with new_folder(folder) as beside:
            for name, table in tables.items():
                if len(table.columns):
                    table.to_csv(beside / f"{name}.tsv", sep="\t", index=False, float_format="%.6g")
            content = {**found.settings, "checks": found.checks.to_dict(orient="records")}
            text = json.dumps(content, indent=2, default=str)
            (beside / "explain.json").write_text(text + "\n", encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{folder} exists; choose another --out or remove it.") from error
    except OSError as error:
        raise InputError(f"the explanation could not be written to {folder}: {error}.") from error
    return folder
