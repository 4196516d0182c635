"""What each part of the method is worth: the method without it, on the same splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import pandas as pd

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
from semantoks.data.selection import select_scans
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, nearest
from semantoks.evaluation.embedding_file import Embeddings
from semantoks.evaluation.readout import FeatureKind
from semantoks.files import replacing
from semantoks.training.config import Configuration, configure

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
