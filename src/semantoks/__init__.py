"""Brain-Semantoks: from parcellated BOLD recordings to honest scores.

The flow, one sentence a stage; the reading order is the import order::

    recording   (roi, time)                    any atlas, any repetition time, with who and where
    store       a cohort on disk               one memory-mapped series + one table
    views       (batch, view, roi, time)       windows, augmentation, masks, drawn in batches
    tokenizer   (batch, network, patch, dim)   one token a network and patch
    encoder     Encoding(summary, tokens)      (batch, dim) and (batch, network, patch, dim)
    objective   LossTerms                      compression, expansion, token, summary
    embedding   one row of features a scan     + who it is
    evaluation  scores with intervals          on splits that cannot leak
    benchmark   methods on the same splits     paired against connectivity
    report      pictures a person looks at

The everyday names can be taken from here; they are imported when they are first used, so that
``import semantoks`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from semantoks.benchmark.baselines import connectivity_features
    from semantoks.benchmark.comparison import Comparison, compare, write_comparison
    from semantoks.benchmark.explanation import Explanation, explain
    from semantoks.benchmark.plan import read_plan
    from semantoks.benchmark.study import run_study
    from semantoks.data.atlas import Atlas
    from semantoks.data.labels import place_rois
    from semantoks.data.preparation import PreparationReport, prepare
    from semantoks.data.recording import Recording
    from semantoks.data.selection import select_subjects
    from semantoks.data.signal import Preprocessing, preprocess
    from semantoks.data.simulation import simulate_cohort, write_cohort
    from semantoks.data.store import Store
    from semantoks.data.store_writer import StoreWriter
    from semantoks.data.tables import read_scan_table
    from semantoks.errors import ConfigurationError, InputError
    from semantoks.evaluation.attention_probe import AttentionProbe
    from semantoks.evaluation.embedding import Embeddings, embed, read_embeddings, write_embeddings
    from semantoks.evaluation.features import SemantoksFeatures
    from semantoks.evaluation.finetuning import FineTuning
    from semantoks.evaluation.harmonization import ComBat, ConfoundRegression
    from semantoks.evaluation.linear import ClosedFormProbe
    from semantoks.evaluation.linear_probe import LinearProbe
    from semantoks.evaluation.neighbours import NeighbourProbe
    from semantoks.evaluation.reliability import identify
    from semantoks.evaluation.split_files import PredefinedSplits, read_splits, write_splits
    from semantoks.evaluation.splitters import (
        LeaveOneSiteOut,
        RandomSubjectSplits,
        SiteStratifiedFolds,
        SubjectFolds,
        check_splits,
    )
    from semantoks.evaluation.supervised_peers import SupervisedPeer
    from semantoks.evaluation.windows import window_features, window_tokens
    from semantoks.interpretation.report import write_report
    from semantoks.model.checkpoint import load_encoder, save_encoder
    from semantoks.model.encoder import Encoding, SemantoksEncoder
    from semantoks.peers.families import import_released, load_released
    from semantoks.training.config import Configuration, configure, load_recipe, paper, tiny
    from semantoks.training.pretraining import Run, pretrain

__version__ = "0.1.0"

_HOME: Final = {
    "semantoks.benchmark.baselines": ("connectivity_features",),
    "semantoks.benchmark.comparison": ("Comparison", "compare", "write_comparison"),
    "semantoks.benchmark.plan": ("read_plan",),
    "semantoks.benchmark.study": ("run_study",),
    "semantoks.data.atlas": ("Atlas",),
    "semantoks.data.labels": ("place_rois",),
    "semantoks.data.preparation": ("PreparationReport", "prepare"),
    "semantoks.data.recording": ("Recording",),
    "semantoks.data.selection": ("select_subjects",),
    "semantoks.data.signal": ("Preprocessing", "preprocess"),
    "semantoks.data.simulation": ("simulate_cohort", "write_cohort"),
    "semantoks.data.store": ("Store",),
    "semantoks.data.store_writer": ("StoreWriter",),
    "semantoks.data.tables": ("read_scan_table",),
    "semantoks.errors": ("ConfigurationError", "InputError"),
    "semantoks.evaluation.attention_probe": ("AttentionProbe",),
    "semantoks.evaluation.embedding": (
        "Embeddings",
        "embed",
        "read_embeddings",
        "write_embeddings",
    ),
    "semantoks.evaluation.features": ("SemantoksFeatures",),
    "semantoks.evaluation.finetuning": ("FineTuning",),
    "semantoks.evaluation.harmonization": ("ComBat", "ConfoundRegression"),
    "semantoks.evaluation.linear": ("ClosedFormProbe",),
    "semantoks.evaluation.linear_probe": ("LinearProbe",),
    "semantoks.evaluation.neighbours": ("NeighbourProbe",),
    "semantoks.evaluation.reliability": ("identify",),
    "semantoks.evaluation.split_files": ("PredefinedSplits", "read_splits", "write_splits"),
    "semantoks.evaluation.splitters": (
        "LeaveOneSiteOut",
        "RandomSubjectSplits",
        "SiteStratifiedFolds",
        "SubjectFolds",
        "check_splits",
    ),
    "semantoks.benchmark.explanation": ("Explanation", "explain"),
    "semantoks.evaluation.supervised_peers": ("SupervisedPeer",),
    "semantoks.evaluation.windows": ("window_features", "window_tokens"),
    "semantoks.interpretation.report": ("write_report",),
    "semantoks.model.encoder": ("Encoding", "SemantoksEncoder"),
    "semantoks.model.checkpoint": ("load_encoder", "save_encoder"),
    "semantoks.peers.families": ("import_released", "load_released"),
    "semantoks.training.config": ("Configuration", "configure", "load_recipe", "paper", "tiny"),
    "semantoks.training.pretraining": ("Run", "pretrain"),
}
_MODULES: Final = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    *_MODULES,
    "__version__",
]


def __getattr__(name: str) -> Any:
    """Import an everyday name when it is first used."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the everyday names."""
    return sorted(__all__)
