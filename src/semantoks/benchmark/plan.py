"""What a study compares: models, targets, splits and probes, as a strict configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from semantoks.errors import ConfigurationError, nearest
from semantoks.evaluation.linear_probe import EPOCHS, RATES
from semantoks.evaluation.readout import WINDOW_PARTS, feature_parts
from semantoks.evaluation.split_files import PredefinedSplits
from semantoks.evaluation.splitters import (
    LeaveOneSiteOut,
    RandomSubjectSplits,
    SiteStratifiedFolds,
    Splitter,
    SubjectFolds,
)
from semantoks.evaluation.supervised_peers import SupervisedFamily
from semantoks.files import parse_yaml
from semantoks.model.components import MOST
from semantoks.training.precision import Precision

Probe = Literal["ridge", "logistic", "linear", "neighbours", "attention", "finetune"]
"""How a target is read out of a model."""
Baseline = Literal[
    "dummy", "site", "confounds", "temporal", "connectivity", "partial", "tangent",
    "log-connectivity", "components", "connectivity-components", "site-centred-components", "mlp",
    "bnt", "bolt",
]  # fmt: skip
"""What needs no pretraining; dummy and connectivity are in every study."""


class _Section(BaseModel):
    """A part of a plan; unknown keys and changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def _said(self) -> set[str]:
        """Name the keys that say something else than what holds anyway, as a written plan's do."""
        fields = type(self).model_fields
        return {key for key in fields if getattr(self, key) != fields[key].default}


def _column_alone(value: Any) -> Any:
    """Let a target be its column alone."""
    return {"column": value} if isinstance(value, str) else value


SplitKind = Literal["random", "folds", "site", "site-stratified", "predefined"]
_READ_BY: Final[Mapping[str, tuple[SplitKind, ...]]] = {
    "repeats": ("random", "folds", "site-stratified"),
    "folds": ("folds", "site-stratified"),
    "validation": ("random", "folds", "site", "site-stratified"),
    "test": ("random",),
    "site_column": ("site", "site-stratified"),
    "path": ("predefined",),
    "absent": ("predefined",),
}
"""Kinds of splits that read a key; all others are read by every kind."""
_WHOLE: Final = frozenset({"attention", "finetune"})
"""Probes that read tokens or the whole encoder, and so no features."""


class TargetPlan(_Section):
    """A column to predict."""

    column: str = Field(description="column of the table of scans")
    kind: Literal["auto", "classification", "regression"] = Field(
        "auto", description="auto takes a number with more than 10 values for a regression"
    )


class SplitPlan(_Section):
    """How people are divided. Every part keeps the scans of a person together."""

    kind: SplitKind = Field(
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

    @field_validator("name")
    @classmethod
    def _names_a_file(cls, name: str) -> str:
        """Refuse names that files cannot have: splits are written down under theirs."""
        if name and not re.fullmatch(r"\w[\w .+-]*", name):
            raise ValueError(
                f"{name!r} is no name for splits, which are written to a file of that name. Begin "
                "with a letter or a digit, and go on with these, spaces, and the signs . + - _."
            )
        return name

    @model_validator(mode="after")
    def _every_key_is_read(self) -> Self:
        """Refuse keys that this kind does not read."""
        for key in sorted(self._said() & _READ_BY.keys()):
            if self.kind not in _READ_BY[key]:
                raise ValueError(
                    f"nothing reads {key} in splits of kind {self.kind}; it belongs to "
                    f"{_listed(_READ_BY[key])}. Take it out, or take another kind."
                )
        return self

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.name or self.kind

    def splitter(self, seed: int) -> Splitter:
        """Make the splitter."""
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

    @field_validator("features")
    @classmethod
    def _there_are_such(cls, features: tuple[str, ...]) -> tuple[str, ...]:
        """Refuse read-outs that there are not."""
        for one in features:
            feature_parts(one)
        return features

    @model_validator(mode="after")
    def _every_key_is_read(self) -> Self:
        """Refuse keys that nothing reads, and read-outs that a probe cannot read."""
        given = self._said()
        if "features" in given and _WHOLE.issuperset(self.probes):
            raise ValueError(
                f"nothing reads features where the probes are {_listed(self.probes)}: these read "
                "tokens or the whole encoder. Take it out, or add a probe such as ridge."
            )
        if "seed" in given and self.weights == "trained":
            raise ValueError(
                "nothing reads seed where weights are trained; it belongs to weights: fresh. Take "
                "it out; the seed of divisions and probes is that of the plan."
            )
        if "linear" in self.probes:
            for one in self.features:
                whole = [part for part in feature_parts(one) if part not in WINDOW_PARTS]
                if whole:
                    raise ValueError(
                        f"the probe linear learns from single windows, but {whole[0]} describes "
                        f"whole scans; it reads {_listed(WINDOW_PARTS)}. Name a second model with "
                        "these features for it."
                    )
        return self


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
    labels: tuple[Annotated[int, Field(ge=4)], ...] = Field(
        (), description="numbers of people whose labels are learned from, beside all"
    )
    components: int = Field(
        MOST, ge=1, le=4_000, description="numbers of the baselines of components, at most"
    )
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
    peers: dict[SupervisedFamily, Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="epochs of bnt and bolt; by default as published"
    )
    seed: int = Field(0, ge=0, description="of divisions, probes and draws")
    draws: int = Field(1000, ge=10, description="for the intervals")

    @model_validator(mode="after")
    def _everything_has_a_name(self) -> Self:
        """Refuse two targets, or two ways to split, of one name."""
        columns = [target.column for target in self.targets]
        twice = _first_twice(columns)
        if twice is not None:
            raise ValueError(
                f"the target {twice!r} is named twice. Name it once; to predict it both by "
                "classification and by regression, write a second plan with a folder of its own."
            )
        twice = _first_twice([split.label for split in self.splits])
        if twice is not None:
            raise ValueError(
                f"two splits have the same name, {twice!r}; give each its own, as in "
                "{kind: random, name: again}."
            )
        return self

    def divisions(self) -> list[tuple[str, SplitPlan, int | None]]:
        """List the ways of splitting by name, with all labels and with some of them."""
        every = [(split.label, split, None) for split in self.splits]
        some = [
            (f"{split.label} {number} labels", split, number)
            for split in self.splits
            for number in sorted({*self.labels})
        ]
        return [*every, *some]

    @model_validator(mode="after")
    def _labels_stay_where_they_are(self) -> Self:
        """Refuse to permute labels of which some are left out."""
        if self.labels and self.permutations:
            raise ValueError(
                "labels are permuted among all people who are learned from, so that permutations "
                "and labels exclude each other. Write two plans, with a folder each."
            )
        return self

    @model_validator(mode="after")
    def _something_stays_within(self) -> Self:
        """Refuse to say where permuted labels stay if there are none."""
        if self.permute_within is not None and not self.permutations:
            raise ValueError(
                "permute_within says where permuted labels stay, but there are no permutations. "
                "Say how many, such as permutations: 1000."
            )
        return self


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
        If the file is missing, is no YAML, has unknown keys (the nearest is named), keys that
        nothing reads, or impossible values.
    """
    path = Path(path)
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the plan {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigurationError(f"the plan {path} is no YAML: {reason}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"the plan {path} must have keys such as store and targets.")
    try:
        plan = StudyPlan.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(_explain(error, path)) from error
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
    around = {problem["loc"][:k] for problem in error.errors() for k in range(len(problem["loc"]))}
    for problem in error.errors():
        if problem["type"] == "too_short" and problem["loc"] in around:
            continue  # it is short only because what was in it is refused
        place = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = _known_keys(problem["loc"])
            said.append(f"unknown key {place}.{nearest(str(problem['loc'][-1]), known)}")
        else:
            said.append(": ".join([place] * bool(place) + [_reason(problem)]))
    return f"the plan {path} cannot be used: {' '.join(said)}"


def _reason(problem: ErrorDetails) -> str:
    """Say what is wrong with a value; what we say ourselves is said as it is."""
    own = problem.get("ctx", {}).get("error")
    return str(own) if isinstance(own, ValueError) else problem["msg"]


def _listed(names: Sequence[str]) -> str:
    """Write names as a person does."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def _first_twice(names: Sequence[str]) -> str | None:
    """Return the first name that comes twice."""
    return next((name for name in names if names.count(name) > 1), None)


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
