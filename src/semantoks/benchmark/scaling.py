"""How scores grow with the number of recordings that were pretrained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from semantoks.benchmark.baselines.connectivity import connectivity_features
from semantoks.benchmark.comparison import Comparison, compare
from semantoks.benchmark.tasks import kept_scans
from semantoks.benchmark.variants import (
    Say,
    Variant,
    check_questions,
    describe_by,
    write_request,
)
from semantoks.data.selection import Selection, select_scans
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding_file import Embeddings
from semantoks.evaluation.metrics import METRICS
from semantoks.evaluation.readout import FeatureKind
from semantoks.files import replacing
from semantoks.training.config import Configuration, configure

UNTRAINED: Final = "untrained"


class PowerLaw(NamedTuple):
    """A score as a power law in the logarithm of the number of subjects.

    score = scale * log(subjects) ** exponent
    """

    exponent: float
    low: float
    high: float
    scale: float
    n_points: int


@dataclass(frozen=True)
class Scaling:
    """What models reach that were pretrained on more and more people."""

    folder: Path
    table: pd.DataFrame
    laws: pd.DataFrame
    comparisons: tuple[Comparison, ...]


def scale(
    store: Store,
    out: Path,
    configuration: Configuration,
    targets: Sequence[str],
    *,
    shares: Sequence[float] = (0.125, 0.25, 0.5, 1.0),
    seeds: Sequence[int] = (0,),
    held_out: float = 0.5,
    budget: Literal["steps", "epochs"] = "steps",
    features: FeatureKind = "mean+cls",
    windows: int = 8,
    n_folds: int = 5,
    repeats: int = 5,
    n_draws: int = 1000,
    leave_out: Sequence[str] = (),
    say: Say = lambda _: None,
) -> Scaling:
    """Pretrain on nested parts of a cohort, and probe people that none of them has seen.

    Every cell is a run folder. An interrupted call goes on when it is made again.
    """
    _check(shares, seeds, targets, held_out)
    if leave_out:
        store = select_scans(store, np.flatnonzero(kept_scans(store, leave_out)))
    probed, others = _hold_out(store, held_out)
    check_questions(store, probed, targets, n_folds=n_folds, repeats=repeats)
    request = {
        "store": store.fingerprint,
        "recipe": configuration.model_dump(mode="json"),
        "held_out": held_out,
        "budget": budget,
    }
    write_request(out, request)
    described: dict[str, Embeddings] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for seed in seeds:
        for share in (0.0, *sorted(shares)):
            variant, size = _variant(store, others, configuration, share, seed, budget)
            sizes[variant.name] = (size, seed)
            described[variant.name] = describe_by(
                variant, out / "runs", probed, features=features, windows=windows, say=say
            )
    edges = connectivity_features(probed)
    comparisons = []
    for target in targets:
        say(f"probing {target}")
        comparisons.append(
            compare(
                probed,
                described,
                target,
                n_folds=n_folds,
                repeats=repeats,
                n_draws=n_draws,
                connectivity=edges,
            )
        )
    table = pd.concat([comparison.table for comparison in comparisons], ignore_index=True)
    table["n_pretraining"] = table["method"].map({k: v[0] for k, v in sizes.items()})
    table["seed"] = table["method"].map({k: v[1] for k, v in sizes.items()})
    laws = power_laws(table)
    for name, content in {"scores.csv": table, "laws.csv": laws}.items():
        with replacing(out / name) as beside:
            content.to_csv(beside, index=False)
    return Scaling(out, table, laws, tuple(comparisons))


def power_laws(table: pd.DataFrame) -> pd.DataFrame:
    """Fit a power law to the leading metric of every target."""
    rows = []
    for target, part in table.groupby("target", sort=False):
        metric = METRICS[part["kind"].iloc[0]][0]
        points = part[(part["metric"] == metric) & (part["n_pretraining"] > 1)]
        law = fit_power_law(
            points["n_pretraining"].to_numpy(dtype=np.float64),
            points["value"].to_numpy(dtype=np.float64),
        )
        rows.append({"target": target, "metric": metric, **law._asdict()})
    return pd.DataFrame(rows)


def fit_power_law(
    sizes: Float[NDArray[np.float64], "run"], scores: Float[NDArray[np.float64], "run"]
) -> PowerLaw:
    """Fit score = scale * log(size) ** exponent, a straight line between logarithms.

    Examples
    --------
    >>> sizes = np.array([10.0, 100, 1000, 10000])
    >>> round(fit_power_law(sizes, 0.4 * np.log(sizes) ** 0.25).exponent, 3)
    0.25
    """
    nothing = float("nan")
    if len(np.unique(sizes)) < 3 or not bool((scores > 0).all()):
        return PowerLaw(nothing, nothing, nothing, nothing, len(sizes))
    line = stats.linregress(np.log(np.log(sizes)), np.log(scores))
    reach = float(line.stderr * stats.t.ppf(0.975, len(sizes) - 2))
    exponent = float(line.slope)
    factor = float(np.exp(line.intercept))
    return PowerLaw(exponent, exponent - reach, exponent + reach, factor, len(sizes))


def _hold_out(store: Store, share: float) -> tuple[Selection, NDArray[np.int64]]:
    """Divide the people into those that are probed and those that may be pretrained on."""
    people = store.n_subjects
    kept = round(share * people)
    if not 1 <= kept < people - 1:
        raise InputError(
            f"{people} subjects cannot be divided into those probed (a share of {share}) and those "
            "pretrained on."
        )
    order = np.random.default_rng(0).permutation(people)
    probed = np.isin(store.subject_codes, order[:kept])
    return select_scans(store, np.flatnonzero(probed)), order[kept:]


def _variant(
    store: Store,
    people: NDArray[np.int64],
    configuration: Configuration,
    share: float,
    seed: int,
    budget: str,
) -> tuple[Variant, int]:
    """Make the model that is pretrained on a share of the people; a share of 0 is untrained."""
    order = np.random.default_rng([seed, 1]).permutation(people)
    size = max(2, round(share * len(people))) if share else 0
    rows = np.flatnonzero(np.isin(store.subject_codes, order[: size or len(order)]))
    part = select_scans(store, rows)
    optimization = configuration.optimization
    changes: dict[str, int] = {"seed": seed}
    if not share:
        changes["optimization.epochs"] = 0
    elif budget == "steps":
        # Warm-up is counted in epochs, too: it must be as many steps for all parts.
        factor = len(people) / size
        changes["optimization.epochs"] = round(optimization.epochs * factor)
        changes["optimization.warmup_epochs"] = round(optimization.warmup_epochs * factor)
    recipe = configure(configuration, changes)
    name = f"{size}-subjects" if share else UNTRAINED
    return Variant(name if seed == 0 else f"{name}-seed{seed}", recipe, part), size


def _check(
    shares: Sequence[float], seeds: Sequence[int], targets: Sequence[str], held_out: float
) -> None:
    """Refuse impossible shares, and nothing to do."""
    wrong = [share for share in (*shares, held_out) if not 0 < share <= 1]
    if wrong or held_out == 1:
        raise ConfigurationError(
            f"shares of people lie between 0 and 1; {wrong[0] if wrong else held_out:g} does not."
        )
    if not (shares and seeds and targets):
        raise ConfigurationError("scaling needs at least one share, one seed and one target.")
