"""The methods of a study: each predicts the test parts of splits, all behind one face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from semantoks.benchmark.baselines.confounds import confound_predictions
from semantoks.benchmark.baselines.connectivity import connectivity_features
from semantoks.benchmark.baselines.dummy import dummy_predictions
from semantoks.benchmark.baselines.mlp import MLP_TRAINING, mlp_predictions
from semantoks.benchmark.baselines.tangent import covariances, tangent_predictions
from semantoks.benchmark.baselines.temporal_statistics import temporal_features
from semantoks.benchmark.study_plan import ModelPlan, StudyPlan
from semantoks.benchmark.tasks import Task
from semantoks.data.store import Store
from semantoks.evaluation.attention_probe import ATTENTION, attention_probe_predictions
from semantoks.evaluation.confound_columns import confound_columns
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.finetuning import finetune_predictions
from semantoks.evaluation.fresh import fresh_weights
from semantoks.evaluation.linear_probe import linear_probe_predictions
from semantoks.evaluation.neighbours import neighbour_predictions
from semantoks.evaluation.probe import FoldPrediction, cross_validated_predictions
from semantoks.evaluation.probe_settings import ProbeSettings
from semantoks.evaluation.ridge import rotate
from semantoks.evaluation.splits import Split, subjects_of
from semantoks.evaluation.window_features import window_features, window_tokens
from semantoks.evaluation.window_model import WindowTraining
from semantoks.model.checkpoint import SavedModel, load_model
from semantoks.model.encoder import SemantoksEncoder

CLOSED: frozenset[str] = frozenset({"ridge", "logistic", "neighbours"})
"""Probes that choose inside of what they learn from, and so learn from validation parts too."""


class Question(NamedTuple):
    """What is asked of every method.

    Parameters
    ----------
    task : Task
        The target of the scans that have one.
    scans : DataFrame
        Their rows of the table of scans; what splits count.
    splits : tuple of Split
        With validation parts where the plan has some.
    """

    task: Task
    scans: pd.DataFrame
    splits: tuple[Split, ...]


@dataclass(frozen=True)
class Method:
    """A way to predict a target.

    Parameters
    ----------
    name : str
        In tables.
    kind : {"baseline", "probe"}
        Whether it needs a model.
    how : str
        A baseline, or a probe.
    model : ModelPlan or None
        What it reads.
    features : str
        What is read out of the model; empty for baselines and probes that read the whole encoder.
    """

    name: str
    kind: Literal["baseline", "probe"]
    how: str
    model: ModelPlan | None = None
    features: str = ""


def methods_of(plan: StudyPlan) -> list[Method]:
    """List the methods of a plan; connectivity and a dummy are always among them.

    Parameters
    ----------
    plan : StudyPlan
        The plan.

    Returns
    -------
    list of Method
        Models first, in the order of the plan.
    """
    methods = []
    for name, model in plan.models.items():
        for how in model.probes:
            if how in ("attention", "finetune"):  # these read tokens or the whole encoder
                methods.append(Method(f"{name}, {how}", "probe", how, model))
                continue
            for features in model.features:
                said = f" {features}" if len(model.features) > 1 else ""
                methods.append(Method(f"{name}{said}, {how}", "probe", how, model, features))
    baselines = dict.fromkeys((*plan.baselines, "connectivity", "dummy"))
    return methods + [Method(how, "baseline", how) for how in baselines]


class Cohort:
    """A store and what has been computed of it, each thing once.

    Parameters
    ----------
    store : Store
        The scans.
    plan : StudyPlan
        The plan.
    """

    def __init__(self, store: Store, plan: StudyPlan) -> None:
        self.store, self.plan = store, plan
        self._edges: dict[str, NDArray[np.float32]] = {}
        self._features: dict[tuple[str, str, int, str, int], NDArray[np.float64]] = {}

    @cached_property
    def temporal(self) -> NDArray[np.float32]:
        """Temporal statistics of the ROIs, shape (scan, feature)."""
        return temporal_features(self.store)

    def edges(self, kind: Literal["correlation", "partial"]) -> NDArray[np.float32]:
        """Compute connectivity.

        Parameters
        ----------
        kind : {"correlation", "partial"}
            Which.

        Returns
        -------
        ndarray of shape (scan, edge)
            Fisher z.
        """
        if kind not in self._edges:
            self._edges[kind] = connectivity_features(self.store, kind=kind)
        return self._edges[kind]

    def features(self, model: ModelPlan, features: str) -> NDArray[np.float64]:
        """Read features out of a model, a row a scan.

        Parameters
        ----------
        model : ModelPlan
            The model.
        features : str
            What is read out.

        Returns
        -------
        ndarray of shape (scan, feature)
            Averaged over windows.
        """
        key = (model.model, model.weights, model.seed, features, model.windows)
        if key not in self._features:
            encoder = load_weights(model)
            made = embed(self.store, encoder, features=features, windows=model.windows)
            self._features[key] = made.features
        return self._features[key]


def load_weights(model: ModelPlan) -> SemantoksEncoder:
    """Load a model, or its architecture with fresh weights.

    Parameters
    ----------
    model : ModelPlan
        What the plan says.

    Returns
    -------
    SemantoksEncoder
        The model.
    """
    saved: SavedModel = load_model(model.model)
    if model.weights == "fresh":
        return fresh_weights(saved.encoder, model.seed)
    return saved.encoder


def learning_from_both(splits: Sequence[Split]) -> list[Split]:
    """Join training and validation parts, for methods that choose inside of what they learn from.

    Parameters
    ----------
    splits : sequence of Split
        Splits with or without validation parts.

    Returns
    -------
    list of Split
        The same test parts.
    """
    return [
        Split(
            split.name,
            split.repeat,
            split.fold,
            np.sort(np.concatenate([split.train, split.validation])),
            split.test,
        )
        for split in splits
    ]


def predict(method: Method, question: Question, cohort: Cohort) -> tuple[FoldPrediction, ...]:
    """Predict the test parts by a method.

    Parameters
    ----------
    method : Method
        How.
    question : Question
        What.
    cohort : Cohort
        Of whom.

    Returns
    -------
    tuple of FoldPrediction
        One a split, in the same order.
    """
    if method.kind == "baseline":
        return _baseline(method.how, question, cohort)
    return _probe(method, question, cohort)


def _baseline(how: str, question: Question, cohort: Cohort) -> tuple[FoldPrediction, ...]:
    """Predict without a model."""
    task, subjects = question.task, subjects_of(question.scans)
    splits = learning_from_both(question.splits)
    rows = task.rows
    if how == "dummy":
        return dummy_predictions(task.truth, splits, kind=task.kind)
    if how == "confounds":
        chosen = confound_columns(
            question.scans, task.target, task.truth, cohort.plan.confounds or None
        )
        return confound_predictions(
            question.scans,
            task.truth,
            splits,
            columns=chosen.used,
            kind=task.kind,
            subjects=subjects,
        )
    if how == "tangent":
        of_scans = covariances(cohort.store).take(rows)
        return tangent_predictions(of_scans, task.truth, splits, kind=task.kind, subjects=subjects)
    if how == "mlp":
        return mlp_predictions(
            cohort.store,
            task.truth,
            question.splits[: cohort.plan.finetuning.splits],
            kind=task.kind,
            subjects=subjects,
            rows=rows,
            settings=MLP_TRAINING._replace(
                class_weight=cohort.plan.probe.class_weight, seed=cohort.plan.seed
            ),
        )
    scaling: Literal["center", "standardize"] = "center"
    if how == "temporal":
        features, scaling = cohort.temporal, "standardize"
    else:
        features = cohort.edges("partial" if how == "partial" else "correlation")
    return cross_validated_predictions(
        rotate(features[rows]) if scaling == "center" else features[rows],
        task.truth,
        splits,
        kind=task.kind,
        subjects=subjects,
        scaling=scaling,
    )


def _probe(method: Method, question: Question, cohort: Cohort) -> tuple[FoldPrediction, ...]:
    """Predict from what a model says."""
    if method.model is None:
        raise TypeError(f"method {method.name} has no model")
    task, subjects, plan = question.task, subjects_of(question.scans), cohort.plan
    known: dict[str, Any] = {"kind": task.kind, "subjects": subjects}
    both = learning_from_both(question.splits)
    settings = ProbeSettings(
        plan.probe.rates, plan.probe.epochs, plan.probe.class_weight, plan.seed
    )
    if method.how in ("ridge", "logistic"):
        features = cohort.features(method.model, method.features)[task.rows]
        return cross_validated_predictions(
            features,
            task.truth,
            both,
            classifier="logistic" if method.how == "logistic" else "ridge",
            **known,
        )
    if method.how == "neighbours":
        features = cohort.features(method.model, method.features)[task.rows]
        return neighbour_predictions(features, task.truth, both, **known)
    encoder = load_weights(method.model)
    if method.how == "linear":
        windows = window_features(
            cohort.store, encoder, features=method.features, windows=method.model.windows
        )
        return linear_probe_predictions(
            windows.take(task.rows), task.truth, question.splits, settings=settings, **known
        )
    if method.how == "attention":
        tokens = window_tokens(cohort.store, encoder, windows=method.model.windows)
        # Rates of its own: it learns by another optimizer than the linear probe.
        tuned = ATTENTION._replace(class_weight=plan.probe.class_weight, seed=plan.seed)
        return attention_probe_predictions(
            tokens.take(task.rows), task.truth, question.splits, settings=tuned, **known
        )

    return finetune_predictions(
        cohort.store,
        encoder,
        task.truth,
        question.splits[: plan.finetuning.splits],
        rows=task.rows,
        settings=_training(plan),
        **known,
    )


def _training(plan: StudyPlan) -> WindowTraining:
    """Return how networks are trained on windows, as the plan says."""
    return WindowTraining(
        epochs=plan.finetuning.epochs,
        learning_rate=plan.finetuning.learning_rate,
        batch_size=plan.finetuning.batch_size,
        class_weight=plan.probe.class_weight,
        precision=plan.finetuning.precision,
        seed=plan.seed,
    )
