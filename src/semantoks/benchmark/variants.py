"""Pretraining several variants of a recipe and probing all: ablation and scaling."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray
from scipy import stats

from semantoks.benchmark.baselines import connectivity_features
from semantoks.benchmark.comparison import Comparison, compare, divide
from semantoks.benchmark.tasks import kept_scans, read_task
from semantoks.data.selection import Selection, select_scans
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.evaluation.embedding import Embeddings, embed, read_embeddings, write_embeddings
from semantoks.evaluation.metrics import METRICS
from semantoks.evaluation.readout import FeatureKind
from semantoks.evaluation.same_series import check_people
from semantoks.files import replacing
from semantoks.model.checkpoint import load_encoder
from semantoks.training.config import Configuration, configure, to_yaml
from semantoks.training.plan import choose_device
from semantoks.training.pretraining import pretrain

Say = Callable[[str], None]


@dataclass(frozen=True)
class Variant:
    """A model to be pretrained."""

    name: str
    configuration: Configuration
    store: Store


class Interrupted(KeyboardInterrupt):
    """A variant was stopped; it goes on when the same command is given again."""


def check_questions(
    store: Store,
    probed: Store,
    targets: Sequence[str],
    *,
    splits: Literal["subject", "site"] = "subject",
    n_folds: int,
    repeats: int,
) -> None:
    """Refuse what could not be probed, before hours are spent on pretraining."""
    for target in targets:
        task = read_task(probed.scans, target)
        scans = probed.scans.iloc[task.rows].reset_index(drop=True)
        divide(scans, task, splits=splits, n_folds=n_folds, repeats=repeats)
    check_people(store)


def describe_by(
    variant: Variant, folder: Path, cohort: Store, *, features: FeatureKind, windows: int, say: Say
) -> Embeddings:
    """Pretrain a variant and describe a cohort by it, or take up what is there."""
    run = folder / variant.name
    _refuse_others(run, variant)
    if not (run / "model").exists():
        say(f"pretraining {variant.name}")
        ended = pretrain(variant.store, run, variant.configuration, resume=run.exists(), notify=say)
        if ended.status != "finished":
            raise Interrupted(f"stopped in {variant.name} after step {ended.step}")
    # The name says all that the features depend on beside the model, so that a file is reused
    # only for the same question.
    kind = features.replace("+", "-")
    path = run / f"features-{kind}-{windows}-{cohort.fingerprint}.parquet"
    if not path.exists():
        say(f"embedding {variant.name}")
        encoder = load_encoder(run / "model").to(choose_device(variant.configuration.device))
        write_embeddings(embed(cohort, encoder, features=features, windows=windows), path)
    return read_embeddings(path)


def write_request(folder: Path, request: Mapping[str, Any]) -> None:
    """Write down what a folder of variants is for, and refuse to mix it with something else."""
    path = folder / "request.json"
    text = json.dumps(dict(request), indent=2, sort_keys=True, default=str) + "\n"
    if path.is_file():
        if path.read_text(encoding="utf-8") != text:
            old, new = json.loads(path.read_text(encoding="utf-8")), json.loads(text)
            changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
            raise InputError(
                f"{folder} was made with another {', '.join(changed)}. Give the same to go on with "
                "it, or choose another --out."
            )
        return
    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} exists and holds something else. Choose another --out.")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _refuse_others(run: Path, variant: Variant) -> None:
    """Refuse a run folder of the same name that is another model."""
    if not run.exists():
        return
    written = run / "config.yaml"
    if written.is_file() and written.read_text(encoding="utf-8") != to_yaml(variant.configuration):
        raise InputError(
            f"{run} holds a run with another recipe. Remove it, or choose another --out."
        )


FULL: Final = "full"
ABLATIONS: Final[Mapping[str, Mapping[str, Any]]] = {
    FULL: {},
    "untrained": {"optimization.epochs": 0},
    "no-summary-term": {"objective.summary_weight": 0},
    "summary-term-throughout": {"objective.summary_schedule": "constant"},
    "no-cls-term": {"objective.cls_weight": 0},
    "no-token-term": {"objective.token_weight": 0},
    "random-masks": {"masks.kind": "random"},
    "network-masks": {"masks.kind": "network"},
    "temporal-masks": {"masks.kind": "temporal"},
    "linear-tokenizer": {"model.tokenization": "linear"},
    "one-network": {"model.spatial": "minimal"},
    "max-pooling": {"model.pooling": "max"},
    "attention-pooling": {"model.pooling": "attention"},
    "dino": {"objective.kind": "dino"},
    "ibot": {"objective.kind": "ibot"},
    "dinov2": {"objective.kind": "dinov2"},
}
"""Name -> what is changed in the recipe."""
PAPER: Final = (
    FULL,
    "untrained",
    "no-summary-term",
    "summary-term-throughout",
    "no-cls-term",
    "random-masks",
    "linear-tokenizer",
    "one-network",
    "max-pooling",
)
"""What is compared unless others are named: the ablations of the paper, and no training."""


@dataclass(frozen=True)
class Ablation:
    """What models without a part reach."""

    folder: Path
    table: pd.DataFrame
    comparisons: tuple[Comparison, ...]


def ablate(
    store: Store,
    out: Path,
    configuration: Configuration,
    targets: Sequence[str],
    *,
    names: Sequence[str] = PAPER,
    seeds: Sequence[int] = (0,),
    features: FeatureKind = "mean+cls",
    windows: int = 8,
    splits: Literal["subject", "site"] = "subject",
    n_folds: int = 5,
    repeats: int = 5,
    n_draws: int = 1000,
    leave_out: Sequence[str] = (),
    say: Say = lambda _: None,
) -> Ablation:
    """Pretrain the method and the method without a part, and probe all on the same splits.

    Every cell is a run folder. An interrupted call goes on when it is made again.
    """
    names = tuple(dict.fromkeys((FULL, *names)))
    if leave_out:
        store = select_scans(store, np.flatnonzero(kept_scans(store, leave_out)))
    _check_names(names, targets, seeds)
    check_questions(store, store, targets, splits=splits, n_folds=n_folds, repeats=repeats)
    request = {
        "store": store.fingerprint,
        "recipe": configuration.model_dump(mode="json"),
        "seeds": list(seeds),
    }
    write_request(out, request)
    described: dict[str, Embeddings] = {}
    for seed in seeds:
        for name in names:
            key = name if seed == seeds[0] else f"{name}-seed{seed}"
            recipe = configure(configuration, {**ABLATIONS[name], "seed": seed})
            described[key] = describe_by(
                Variant(key, recipe, store),
                out / "runs",
                store,
                features=features,
                windows=windows,
                say=say,
            )
    edges = connectivity_features(store)
    comparisons = []
    for target in targets:
        say(f"probing {target}")
        comparisons.append(
            compare(
                store,
                described,
                target,
                splits=splits,
                n_folds=n_folds,
                repeats=repeats,
                n_draws=n_draws,
                connectivity=edges,
                reference=FULL,
            )
        )
    table = pd.concat([comparison.table for comparison in comparisons], ignore_index=True)
    with replacing(out / "scores.csv") as beside:
        table.to_csv(beside, index=False)
    return Ablation(out, table, tuple(comparisons))


def _check_names(names: Sequence[str], targets: Sequence[str], seeds: Sequence[int]) -> None:
    """Refuse unknown ablations, and nothing to do."""
    for name in names:
        if name not in ABLATIONS:
            raise ConfigurationError(
                f"there is no ablation {name!r}; there are {', '.join(ABLATIONS)}."
                + nearest(name, ABLATIONS)
            )
    if not targets or not seeds:
        raise ConfigurationError("an ablation needs at least one target and one seed.")


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
