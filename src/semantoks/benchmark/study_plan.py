"""What a study compares: models, targets, splits and probes, as a strict configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from semantoks.errors import ConfigurationError, nearest
from semantoks.evaluation.predefined_splits import PredefinedSplits
from semantoks.evaluation.probe_settings import EPOCHS, RATES
from semantoks.evaluation.site_splitters import LeaveOneSiteOut, SiteStratifiedFolds
from semantoks.evaluation.splitters import RandomSubjectSplits, Splitter, SubjectFolds
from semantoks.training.precision import Precision

Probe = Literal["ridge", "logistic", "linear", "neighbours", "attention", "finetune"]
"""How a target is read out of a model."""
Baseline = Literal["dummy", "confounds", "temporal", "connectivity", "partial", "tangent", "mlp"]
"""What needs no pretraining; dummy and connectivity are in every study."""


class _Section(BaseModel):
    """A part of a plan; unknown keys and changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _column_alone(value: Any) -> Any:
    """Let a target be its column alone."""
    return {"column": value} if isinstance(value, str) else value


class TargetPlan(_Section):
    """A column to predict."""

    column: str = Field(description="column of the table of scans")
    kind: Literal["auto", "classification", "regression"] = Field(
        "auto", description="auto takes a number with more than 10 values for a regression"
    )


class SplitPlan(_Section):
    """How people are divided. Every part keeps the scans of a person together."""

    kind: Literal["random", "folds", "site", "site-stratified", "predefined"] = Field(
        "random", description="random parts, folds, one site left out, or lists"
    )
    name: str = Field("", description="in tables; by default the kind")
    repeats: int = Field(10, ge=1, description="how often people are divided anew")
    folds: int = Field(5, ge=2, description="for folds and site-stratified")
    validation: float = Field(0.2, ge=0, lt=1, description="share for choices")
    test: float = Field(0.2, gt=0, lt=1, description="share that is predicted; for random")
    site_column: str = Field("site", description="column that names the site")
    family_column: str | None = Field(None, description="column that keeps relatives together")
    path: Path | None = Field(None, description="lists or file, for predefined")
    absent: Literal["refuse", "drop"] = Field(
        "refuse", description="names in predefined lists whose scans or targets are not there"
    )

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.name or self.kind

    def splitter(self, seed: int) -> Splitter:
        """Make the splitter.

        Parameters
        ----------
        seed : int
            Of the divisions.

        Returns
        -------
        Splitter
            What divides a table of scans.

        Raises
        ------
        ConfigurationError
            If lists are wanted and no path is given.
        """
        common: dict[str, Any] = {"family_column": self.family_column, "seed": seed}
        if self.kind == "random":
            return RandomSubjectSplits(
                repeats=self.repeats, validation=self.validation, test=self.test, **common
            )
        if self.kind == "folds":
            return SubjectFolds(
                n_folds=self.folds, repeats=self.repeats, validation=self.validation, **common
            )
        if self.kind == "site":
            return LeaveOneSiteOut(
                site_column=self.site_column, validation=self.validation, **common
            )
        if self.kind == "site-stratified":
            return SiteStratifiedFolds(
                n_folds=self.folds,
                repeats=self.repeats,
                validation=self.validation,
                site_column=self.site_column,
                **common,
            )
        if self.path is None:
            raise ConfigurationError("splits of kind predefined need a path to their lists.")
        return PredefinedSplits(self.path, absent=self.absent, **common)


class ModelPlan(_Section):
    """A model and what is read out of it."""

    model: str = Field(description="a run, a model folder, or a repository on the hub")
    weights: Literal["trained", "fresh"] = Field(
        "trained", description="fresh takes the architecture without its training"
    )
    features: tuple[str, ...] = Field(("mean+cls",), min_length=1, description="as for embed")
    probes: tuple[Probe, ...] = Field(("ridge",), min_length=1, description="ways to read out")
    windows: int = Field(8, ge=1, description="windows a scan")
    seed: int = Field(0, ge=0, description="of fresh weights")


class ProbePlan(_Section):
    """How the linear probe learns; attention takes the weights of the classes from here."""

    epochs: int = Field(EPOCHS, ge=1, description="how often every window is seen")
    rates: tuple[float, ...] = Field(tuple(RATES), description="learning rates to choose among")
    class_weight: Literal["none", "balanced"] = Field("none", description="balanced weighs classes")


class FineTuningPlan(_Section):
    """How models are fine-tuned; the paper's protocol unless changed."""

    epochs: int = Field(50, ge=1, description="epochs; the best one on validation is kept")
    patience: int | None = Field(
        None, ge=1, description="epochs without a better one on validation that end it; None: never"
    )
    learning_rate: float = Field(1e-4, gt=0, description="peak")
    batch_size: int = Field(16, ge=2, description="scans a step")
    splits: int | None = Field(None, ge=1, description="only the first so many splits")
    precision: Precision = Field("auto", description="of matrix products")


class StudyPlan(_Section):
    """Everything that decides a study."""

    store: Path = Field(description="the cohort")
    targets: tuple[Annotated[TargetPlan, BeforeValidator(_column_alone)], ...] = Field(
        min_length=1, description="columns to predict"
    )
    splits: tuple[SplitPlan, ...] = Field((SplitPlan(),), min_length=1)
    models: dict[str, ModelPlan] = Field(default_factory=dict, description="by name")
    baselines: tuple[Baseline, ...] = Field(("dummy", "connectivity"))
    confounds: tuple[str, ...] = Field(
        (), description="columns of the baseline confounds; by default age, sex, site and motion"
    )
    leave_out: tuple[str, ...] = Field((), description="scans that take no part")
    exclude_seen: bool = Field(False, description="leave people out whom a model was trained on")
    prepare: Literal["none", "regress-confounds", "combat"] = Field(
        "none", description="what is done to features, fitted in every training part"
    )
    permutations: int = Field(
        0, ge=0, description="permutations of labels for the p of linear methods; 0 for none"
    )
    permute_within: str | None = Field(
        None, description="column, such as site, within which permuted labels stay"
    )
    probe: ProbePlan = ProbePlan()
    finetuning: FineTuningPlan = FineTuningPlan()
    seed: int = Field(0, ge=0, description="of divisions, probes and draws")
    draws: int = Field(1000, ge=10, description="for the intervals")


def read_plan(path: str | Path) -> StudyPlan:
    """Read the plan of a study from YAML; paths in it are relative to its folder.

    Parameters
    ----------
    path : str or path
        The file.

    Returns
    -------
    StudyPlan
        The plan, with absolute paths.

    Raises
    ------
    ConfigurationError
        If the file is missing, is no YAML, has unknown keys (the nearest is named) or impossible
        values.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the plan {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"the plan {path} is no YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"the plan {path} must have keys such as store and targets.")
    try:
        plan = StudyPlan.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, path)) from error
    labels = [split.label for split in plan.splits]
    if len({*labels}) < len(labels):
        raise ConfigurationError(f"{path}: two splits have the same name; give each its own.")
    if plan.permute_within is not None and not plan.permutations:
        raise ConfigurationError(
            f"{path}: permute_within says where permuted labels stay, but there are no "
            "permutations. Say how many, such as permutations: 1000."
        )
    return _resolved(plan, path.resolve().parent)


def _resolved(plan: StudyPlan, folder: Path) -> StudyPlan:
    """Make paths absolute; a model that is no folder may be a repository on the hub."""
    models = {
        name: model.model_copy(update={"model": str(folder / model.model)})
        if (folder / model.model).exists()
        else model
        for name, model in plan.models.items()
    }
    splits = tuple(
        split if split.path is None else split.model_copy(update={"path": folder / split.path})
        for split in plan.splits
    )
    return plan.model_copy(
        update={"store": folder / plan.store, "models": models, "splits": splits}
    )


def _explain(error: ValidationError, path: Path) -> str:
    """Say what is wrong with a plan, in one paragraph."""
    said = []
    for problem in error.errors():
        place = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"])
            said.append(f"unknown key {place}.{nearest(str(problem['loc'][-1]), known)}")
        else:
            said.append(f"{place}: {problem['msg']}")
    return f"the plan {path} cannot be used: {' '.join(said)}"


def _known_keys(place: tuple[int | str, ...]) -> list[str]:
    """Return the keys that may stand where an unknown one does."""
    sections: dict[str, type[_Section]] = {
        "targets": TargetPlan,
        "splits": SplitPlan,
        "models": ModelPlan,
        "probe": ProbePlan,
        "finetuning": FineTuningPlan,
    }
    whole: type[_Section] = StudyPlan
    section = whole if len(place) == 1 else sections.get(str(place[0]), whole)
    return list(section.model_fields)
