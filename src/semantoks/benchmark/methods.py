"""Methods of a study: models, probes and baselines by name, and the cohort they read."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from semantoks.benchmark.baselines import (
    MLP_TRAINING,
    EdgeKind,
    centred_by_site,
    component_predictions,
    confound_predictions,
    connectivity_features,
    dummy_predictions,
    mlp_predictions,
    site_predictions,
    temporal_features,
)
from semantoks.benchmark.plan import ModelPlan, StudyPlan
from semantoks.benchmark.tangent import Covariances, covariances, tangent_predictions
from semantoks.benchmark.tasks import Task
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError
from semantoks.evaluation.attention_probe import ATTENTION, attention_probe_predictions
from semantoks.evaluation.confounds import confound_columns, sites_of
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.finetuning import WindowTraining, finetune_predictions, take_scans
from semantoks.evaluation.harmonization import ComBat
from semantoks.evaluation.linear import (
    Classifier,
    FoldPrediction,
    Scaling,
    learning_from_both,
    rotate,
)
from semantoks.evaluation.linear_probe import ProbeSettings, linear_probe_predictions
from semantoks.evaluation.neighbours import neighbour_predictions
from semantoks.evaluation.probe import Preparation, cross_validated_predictions
from semantoks.evaluation.readout import store_scans
from semantoks.evaluation.significance import PermutationTest, permutation_test
from semantoks.evaluation.splits import Split, families_of, subjects_of
from semantoks.evaluation.splitters import Splitter
from semantoks.evaluation.supervised_peers import SUPERVISED, supervised_predictions
from semantoks.evaluation.windows import (
    WindowFeatures,
    WindowTokens,
    window_features,
    window_tokens,
)
from semantoks.model.checkpoint import SavedModel, load_model
from semantoks.model.components import log_connectivity_features
from semantoks.model.encoder import SemantoksEncoder, fresh_weights


class Cohort:
    """A store and what has been computed of it, each thing once."""

    def __init__(self, store: Store, plan: StudyPlan) -> None:
        self.store, self.plan = store, plan
        self._edges: dict[str, NDArray[np.float32]] = {}
        self._features: dict[tuple[ModelPlan, str], NDArray[np.float64]] = {}
        self._windows: dict[tuple[ModelPlan, str], WindowFeatures] = {}
        self._tokens: tuple[ModelPlan, WindowTokens] | None = None

    @cached_property
    def temporal(self) -> NDArray[np.float32]:
        """Temporal statistics of the ROIs, shape (scan, feature)."""
        return temporal_features(self.store)

    @cached_property
    def covariances(self) -> Covariances:
        """Covariances of the ROIs, from which the tangent space of each split is made."""
        return covariances(self.store)

    def edges(self, how: str) -> Float[NDArray[np.float32], "scan edge"]:
        """Compute connectivity, partial or not, or its logarithm."""
        if how not in self._edges:
            if how == "log-connectivity":
                self._edges[how] = log_connectivity_features(self.store)
            else:
                kind: EdgeKind = "partial" if how == "partial" else "correlation"
                self._edges[how] = connectivity_features(self.store, kind=kind)
        return self._edges[how]

    def features(
        self, model: ModelPlan, features: str
    ) -> Float[NDArray[np.float64], "scan feature"]:
        """Read features out of a model, a row a scan."""
        key = (model, features)
        if key not in self._features:
            encoder = load_weights(model)
            made = embed(self.store, encoder, features=features, windows=model.windows)
            self._features[key] = made.features
        return self._features[key]

    def windows(self, model: ModelPlan, features: str) -> WindowFeatures:
        """Read features out of a model, a row a window."""
        key = (model, features)
        if key not in self._windows:
            self._windows[key] = window_features(
                self.store, load_weights(model), features=features, windows=model.windows
            )
        return self._windows[key]

    def tokens(self, model: ModelPlan) -> WindowTokens:
        """Read all tokens of a model; those of the model asked for last are kept."""
        if self._tokens is None or self._tokens[0] != model:
            self._tokens = None  # gigabytes: not two at once
            made = window_tokens(self.store, load_weights(model), windows=model.windows)
            self._tokens = (model, made)
        return self._tokens[1]


def load_weights(model: ModelPlan) -> SemantoksEncoder:
    """Load a model, or its architecture with fresh weights."""
    saved: SavedModel = load_model(model.model)
    if model.weights == "fresh":
        return fresh_weights(saved.encoder, model.seed)
    return saved.encoder


@dataclass(frozen=True)
class Question:
    """What is asked of every method."""

    task: Task
    scans: pd.DataFrame
    splits: tuple[Split, ...]
    splitter: Splitter
    prepare: Preparation | None = None
    pools: tuple[Split, ...] = ()
    """Splits before labels were left out: what may be learned from without labels."""

    @property
    def units(self) -> NDArray[Any]:
        """Who moves, and is left out, together: families where the splits know some, or subjects.

        Shape (scan,).
        """
        return families_of(self.scans, self.splitter.family_column)

    @cached_property
    def sites(self) -> NDArray[Any] | None:
        """The site of each scan, where two are known that are not the target; shape (scan,)."""
        return sites_of(self.scans, self.task.truth)


_COMPONENTS: Final = ("components", "connectivity-components", "site-centred-components")


class LinearMethod(NamedTuple):
    """A linear model of one row of features a scan."""

    features: Shaped[NDArray[Any], "scan feature"]
    classifier: Classifier = "ridge"
    scaling: Scaling = "standardize"


@dataclass(frozen=True)
class Method:
    """A way to predict a target."""

    name: str
    kind: Literal["baseline", "probe"]
    how: str
    model: ModelPlan | None = None
    features: str = ""


def methods_of(plan: StudyPlan) -> list[Method]:
    """List the methods of a plan; connectivity and a dummy are always among them."""
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
    methods = list(dict.fromkeys(methods)) + [Method(how, "baseline", how) for how in baselines]
    names = [method.name for method in methods]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(
            f"two methods of the plan would both be called {twice!r}. Give the models other names."
        )
    return methods


def predict(method: Method, question: Question, cohort: Cohort) -> tuple[FoldPrediction, ...]:
    """Predict the test parts by a method."""
    linear, task = _linear(method, question, cohort), question.task
    if linear is not None:
        return cross_validated_predictions(
            linear.features,
            task.truth,
            question.splits,
            kind=task.kind,
            subjects=question.units,
            classifier=linear.classifier,
            scaling=linear.scaling,
            prepare=question.prepare,
            scans=question.scans,
        )
    if method.kind == "baseline":
        return _baseline(method.how, question, cohort)
    return _probe(method, question, cohort)


def permute(
    method: Method,
    question: Question,
    cohort: Cohort,
    blocks: Shaped[NDArray[Any], "scan"] | None = None,
) -> PermutationTest:
    """Compare the score of a linear method with those of labels given to other people.

    People are divided anew for every permutation, as the splitter does it.
    """
    linear, task = _linear(method, question, cohort), question.task
    if linear is None:
        raise ConfigurationError(f"labels are not permuted for {method.name}.")

    def divide(labels: NDArray[Any]) -> list[Split]:
        return question.splitter.splits(question.scans, task.name(labels), kind=task.kind)

    return permutation_test(
        linear.features,
        task.truth,
        divide,
        kind=task.kind,
        subjects=subjects_of(question.scans),
        families=question.units,
        blocks=blocks,
        n_permutations=cohort.plan.permutations,
        seed=cohort.plan.seed,
        classifier=linear.classifier,
        scaling=linear.scaling,
        prepare=question.prepare,
        scans=question.scans,
    )


def _linear(method: Method, question: Question, cohort: Cohort) -> LinearMethod | None:
    """Return what a linear method reads; None if the method is of another kind."""
    how, rows = method.how, question.task.rows
    if how == "temporal":
        return LinearMethod(cohort.temporal[rows])
    if how in ("connectivity", "partial", "log-connectivity"):
        edges = cohort.edges(how)[rows]
        # ComBat looks at features one by one, everything else at inner products only.
        whole = isinstance(question.prepare, ComBat)
        return LinearMethod(edges if whole else rotate(edges), scaling="center")
    if method.model is None or how not in ("ridge", "logistic"):
        return None
    features = cohort.features(method.model, method.features)[rows]
    scaling: Scaling = "center" if method.features == "components" else "standardize"
    return LinearMethod(features, "logistic" if how == "logistic" else "ridge", scaling)


def _baseline(how: str, question: Question, cohort: Cohort) -> tuple[FoldPrediction, ...]:
    """Predict without a model, by what is no linear model of features that are there."""
    task, plan, splits = question.task, cohort.plan, question.splits
    known: dict[str, Any] = {"kind": task.kind, "subjects": question.units}
    if how == "dummy":
        both = [learning_from_both(split) for split in splits]
        return dummy_predictions(task.truth, both, kind=task.kind)
    if how == "confounds":
        named = plan.confounds or None
        columns = confound_columns(question.scans, task.target, task.truth, named).used
        return confound_predictions(question.scans, task.truth, splits, columns=columns, **known)
    if how == "site" and question.sites is not None:
        return site_predictions(question.sites, task.truth, splits, **known)
    if how == "tangent":
        of_scans = cohort.covariances.take(task.rows)
        return tangent_predictions(of_scans, task.truth, splits, **known)
    if how in _COMPONENTS:
        plain = how == "connectivity-components"
        rows = cohort.edges("connectivity" if plain else "log-connectivity")[task.rows]
        if how == "site-centred-components" and question.sites is not None:
            rows = centred_by_site(rows, question.sites)
        pools = question.pools or splits
        return component_predictions(
            rows, task.truth, splits, pools=pools, most=plan.components, **known
        )
    for family in (family for family in SUPERVISED if family == how):
        return supervised_predictions(
            family,
            take_scans(store_scans(cohort.store), task.rows),
            task.truth,
            splits[: plan.finetuning.splits],
            epochs=plan.peers.get(family),
            seed=plan.seed,
            **known,
        )
    return mlp_predictions(
        cohort.store,
        task.truth,
        splits[: plan.finetuning.splits],
        rows=task.rows,
        settings=MLP_TRAINING._replace(class_weight=plan.probe.class_weight, seed=plan.seed),
        **known,
    )


def _probe(method: Method, question: Question, cohort: Cohort) -> tuple[FoldPrediction, ...]:
    """Predict from what a model says of windows, by neighbours, or by training it further."""
    if method.model is None:
        raise TypeError(f"method {method.name} has no model")
    task, plan, model = question.task, cohort.plan, method.model
    known: dict[str, Any] = {"kind": task.kind, "subjects": question.units}
    if method.how == "neighbours":
        features = cohort.features(model, method.features)[task.rows]
        return neighbour_predictions(features, task.truth, question.splits, **known)
    if method.how == "linear":
        windows = cohort.windows(model, method.features)
        settings = ProbeSettings(
            plan.probe.rates, plan.probe.epochs, plan.probe.class_weight, plan.seed
        )
        return linear_probe_predictions(
            windows.take(task.rows), task.truth, question.splits, settings=settings, **known
        )
    if method.how == "attention":
        # Rates of its own: it learns by another optimizer than the linear probe.
        tuned = ATTENTION._replace(class_weight=plan.probe.class_weight, seed=plan.seed)
        return attention_probe_predictions(
            cohort.tokens(model).take(task.rows),
            task.truth,
            question.splits,
            settings=tuned,
            **known,
        )
    return finetune_predictions(
        cohort.store,
        load_weights(model),
        task.truth,
        question.splits[: plan.finetuning.splits],
        rows=task.rows,
        settings=_training(plan, model),
        **known,
    )


def _training(plan: StudyPlan, model: ModelPlan) -> WindowTraining:
    """Return how networks are trained on windows, as the plan says."""
    return WindowTraining(
        epochs=plan.finetuning.epochs,
        patience=plan.finetuning.patience,
        learning_rate=plan.finetuning.learning_rate,
        batch_size=plan.finetuning.batch_size,
        windows=model.windows,
        class_weight=plan.probe.class_weight,
        precision=plan.finetuning.precision,
        seed=plan.seed,
    )
