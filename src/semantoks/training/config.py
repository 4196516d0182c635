"""The configuration of a pretraining run: frozen, strict, the same in Python, YAML and shell."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from semantoks.errors import ConfigurationError, nearest
from semantoks.files import parse_yaml
from semantoks.model.encoder import check_sizes
from semantoks.model.layers import REFERENCE_BRANCHES, BranchShape
from semantoks.model.synchrony import Span, Start, check_time_courses
from semantoks.model.tokenizer import Pooling, Spatial, Tokenization, check_tokenization
from semantoks.objective.prototypes import Centring
from semantoks.training.precision import Precision

_LOGGER: Final = logging.getLogger(__name__)

Residence = Literal["auto", "device", "stream"]
"""Where the series of a run lie: on the device, or in the store."""


_Beta = Annotated[float, Field(ge=0, lt=1)]


class _Section(BaseModel):
    """A part of the configuration; unknown keys and changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(_Section):
    """Shape of the encoder and of the head.

    Those that begin with projection are the arguments of `Head`, the others those of
    `SemantoksEncoder`, but for time_course_start, which says what its weights are at first, and
    components, which are learned when the run ends.
    """

    dim: int = Field(768, ge=2, le=16_384, description="width of a token")
    depth: int = Field(8, ge=0, le=256, description="transformer blocks")
    head_dim: int = Field(64, ge=1, description="width of an attention head")
    window: int = Field(100, ge=1, le=100_000, description="samples in a window")
    patch: int = Field(20, ge=1, description="samples in a patch")
    mlp_ratio: int = Field(4, ge=1, le=64, description="hidden width of a block over dim")
    layer_scale: float = Field(0.1, gt=0, description="gain of a block's sides at the beginning")
    spatial: Spatial = Field("networks", description="what a token stands for")
    tokenization: Tokenization = Field("semantic", description="how a patch becomes a token")
    pooling: Pooling = Field("mean", description="what a token keeps of its samples")
    branches: tuple[Annotated[BranchShape, Field(discriminator="kind")], ...] = Field(
        REFERENCE_BRANCHES, description="what a semantic tokenizer listens with"
    )
    time_courses: int = Field(
        0, ge=0, le=1_024, description="learned time courses a network; 0 for none"
    )
    time_course_span: Span = Field("patch", description="over what their covariances are taken")
    time_course_start: Start = Field("random", description="mixtures that they are at first")
    components: int = Field(
        0, ge=0, le=4_000, description="of log-connectivity, kept beside the encoder; 0 for none"
    )
    projection_hidden_dim: int = Field(
        1024, ge=1, le=65_536, description="width of the head's hidden layers"
    )
    projection_dim: int = Field(128, ge=2, le=65_536, description="width of the head's output")
    projection_hidden_layers: int = Field(1, ge=0, le=16, description="hidden layers of the head")

    @model_validator(mode="after")
    def _sizes_fit(self) -> ModelConfig:
        check_sizes(dim=self.dim, head_dim=self.head_dim, window=self.window, patch=self.patch)
        check_tokenization(
            dim=self.dim,
            spatial=self.spatial,
            tokenization=self.tokenization,
            pooling=self.pooling,
            branches=self.branches,
        )
        check_time_courses(self.time_courses, self.time_course_span, self.spatial)
        if not self.time_courses and self.time_course_start != "random":
            raise ConfigurationError(
                f"time_course_start = {self.time_course_start} has no effect without time courses; "
                "set time_courses too."
            )
        return self

    def encoder_arguments(self) -> dict[str, Any]:
        """Return the part that `SemantoksEncoder` takes."""
        others = ("projection_", "time_course_start", "components")
        return {name: value for name, value in self if not name.startswith(others)}


class ViewsConfig(_Section):
    """Augmentation of a window (a size of 0 switches a kind off), and where windows come from."""

    roi_dropout: float = Field(0.1, ge=0, lt=1, description="largest share of ROIs set to 0")
    time_dropout: float = Field(0.3, ge=0, lt=1, description="largest share of samples set to 0")
    gain: float = Field(0.2, ge=0, lt=1, description="amplitude is multiplied by 1 ± this")
    noise: float = Field(0.1, ge=0, description="standard deviation of the noise that is added")
    residence: Residence = Field(
        "auto", description="of the series: on the device, or streamed from the store; same results"
    )
    ahead: int = Field(2, ge=0, description="steps whose windows are read ahead when streamed")


class MasksConfig(_Section):
    """Which tokens the student does not see."""

    probability: float = Field(0.5, ge=0, le=1, description="share of steps with masks")
    low: float = Field(0.65, gt=0, le=1, description="smallest share of a masked slice")
    high: float = Field(0.85, gt=0, le=1, description="largest share of a masked slice")
    kind: Literal["slice", "network", "temporal", "random"] = Field(
        "slice", description="slice draws network or temporal slices with equal chance"
    )

    @model_validator(mode="after")
    def _ordered(self) -> MasksConfig:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} must not exceed high = {self.high}")
        return self


class ObjectiveConfig(_Section):
    """What the student is asked, and the weights of the terms of the loss.

    From prototypes on, the keys have an effect with objectives of prototypes only.
    """

    kind: Literal["simdino", "dino", "ibot", "dinov2"] = Field(
        "simdino", description="compare unit vectors (simdino), or what they say of prototypes"
    )
    cls_weight: float = Field(1.0, ge=0, description="of the term on [CLS]; 0 for an ablation")
    token_weight: float = Field(0.5, ge=0, description="of the token term on masked steps")
    summary_weight: float = Field(0.5, ge=0, description="of the network-summary term at first")
    summary_share: float = Field(0.05, ge=0, le=1, description="share of steps until it is 0")
    summary_schedule: Literal["fade", "constant"] = Field(
        "fade", description="fade to 0 over summary_share, or keep the weight to the end"
    )
    epsilon: float = Field(0.05, gt=0, description="distortion of the coding rate")
    prototypes: int = Field(1024, ge=2, le=1_048_576, description="number of prototypes")
    centring: Centring = Field("mean", description="of the teacher: its mean, or sinkhorn")
    centre_momentum: float = Field(0.9, ge=0, lt=1, description="of the teacher's mean")
    temperature: float = Field(0.07, gt=0, le=10, description="of the teacher, after the line")
    temperature_start: float = Field(0.04, gt=0, le=10, description="of the teacher at first")
    temperature_epochs: int = Field(30, ge=0, description="of the line between them")
    koleo_weight: float = Field(0.1, ge=0, description="of nearest-neighbour distances (dinov2)")
    frozen_epochs: int = Field(1, ge=0, description="in which prototypes stay as they began")


class OptimizationConfig(_Section):
    """AdamW, its schedules, and the teacher's."""

    epochs: int = Field(100, ge=0, description="one scan a subject an epoch; 0 = untrained")
    batch_size: int = Field(512, ge=2, description="scans a step")
    learning_rate: float = Field(7e-4, gt=0, description="peak, for a batch of 256")
    warmup_epochs: int = Field(3, ge=0, description="linear from 0")
    weight_decay: float = Field(0.05, ge=0, description="at the beginning")
    weight_decay_end: float = Field(0.3, ge=0, description="at the end")
    betas: tuple[_Beta, _Beta] = Field((0.9, 0.999), description="of AdamW")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    teacher_momentum: float = Field(0.99, ge=0, le=1, description="at the beginning; 1 at the end")

    @model_validator(mode="after")
    def _warmup_ends(self) -> OptimizationConfig:
        if 0 < self.epochs <= self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs = {self.warmup_epochs} leaves nothing of epochs = {self.epochs}; "
                "set optimization.warmup_epochs too"
            )
        return self


class LoggingConfig(_Section):
    """What is written down, and when."""

    steps: int = Field(10, ge=1, description="steps between rows of the log")
    health_epochs: int = Field(1, ge=1, description="epochs between looks at the health")
    checkpoint_epochs: int = Field(10, ge=1, description="epochs between checkpoints")
    keep: int = Field(2, ge=1, description="checkpoints that are kept")
    tensorboard: bool = Field(False, description="write TensorBoard events too (extra)")


class Configuration(_Section):
    """Everything that decides a pretraining run.

    Parameters
    ----------
    model : ModelConfig
        Shape of the encoder and of the head.
    objective : ObjectiveConfig
        Weights of the terms of the loss.
    views : ViewsConfig
        Augmentation of a window.
    masks : MasksConfig
        Tokens hidden from the student.
    optimization : OptimizationConfig
        AdamW and the schedules.
    logging : LoggingConfig
        What is written down, and when.
    seed : int
        Seed of weights, views and masks.
    device : str
        Device of a step.
    precision : str
        Arithmetic of a step.

    Examples
    --------
    >>> from semantoks.training.config import configure, paper
    >>> Configuration().optimization.epochs
    100
    >>> configure(paper(), {"optimization.epoch": 20})
    Traceback (most recent call last):
    ...
    semantoks.errors.ConfigurationError: unknown configuration key 'optimization.epoch'. ...
    """

    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    views: ViewsConfig = ViewsConfig()
    masks: MasksConfig = MasksConfig()
    optimization: OptimizationConfig = OptimizationConfig()
    logging: LoggingConfig = LoggingConfig()
    seed: int = Field(0, ge=0, description="of weights, order, views and masks")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1 or mps")
    precision: Precision = Field("auto", description="of matrix products; auto where it is faster")


def paper() -> Configuration:
    """Return the recipe of the paper.

    Returns
    -------
    Configuration
        Width 768, depth 8, batch 512, 100 epochs.
    """
    return Configuration()


def tiny() -> Configuration:
    """Return a recipe that runs in a minute on two cores: the demo's.

    Returns
    -------
    Configuration
        Width 64, depth 2, batch 32, 30 epochs.
    """
    return Configuration(
        model=ModelConfig(
            dim=64, depth=2, head_dim=32, projection_hidden_dim=256, projection_dim=64
        ),
        optimization=OptimizationConfig(
            epochs=30,
            batch_size=32,
            learning_rate=4e-3,
            warmup_epochs=2,
            teacher_momentum=0.9,  # 150 steps are too few for the paper's teacher to follow
        ),
        logging=LoggingConfig(steps=2),
    )


def components() -> Configuration:
    """Return a recipe that trains no network: the closed-form description alone, in seconds.

    Returns
    -------
    Configuration
        400 components of log-connectivity at most, for scans of 20 samples or more.
    """
    return Configuration(
        model=ModelConfig(
            dim=64, depth=0, window=20, projection_hidden_dim=64, projection_dim=64, components=400
        ),
        masks=MasksConfig(probability=0),
        optimization=OptimizationConfig(epochs=0),
    )


RECIPES = {"paper": paper, "tiny": tiny, "components": components}


def load_recipe(name_or_file: str) -> Configuration:
    """Load a recipe by name or from a YAML file.

    Parameters
    ----------
    name_or_file : str
        "paper", "tiny", "components", or the path of a YAML file such as a run's ``config.yaml``.
        What a file leaves out is as in the paper.

    Returns
    -------
    Configuration
        The recipe.

    Raises
    ------
    ConfigurationError
        If there is no such recipe, or the file has unknown keys or impossible values.
    """
    if name_or_file in RECIPES:
        return RECIPES[name_or_file]()
    path = Path(name_or_file)
    if path.suffix not in {".yaml", ".yml"}:
        raise ConfigurationError(
            f"there is no recipe {name_or_file!r}. Built in are {', '.join(RECIPES)}; any other is "
            "a .yaml file." + nearest(name_or_file, RECIPES)
        )
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"recipe {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"recipe {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"recipe {path} must hold sections such as 'model:'.")
    return _validated(content, origin=str(path))


def configure(recipe: Configuration, changes: Mapping[str, Any]) -> Configuration:
    """Change keys of a recipe.

    Parameters
    ----------
    recipe : Configuration
        Where to begin.
    changes : mapping of str to value
        Values by dotted key, such as ``{"optimization.epochs": 20, "seed": 1}``.

    Returns
    -------
    Configuration
        A new configuration.

    Raises
    ------
    ConfigurationError
        If a key is unknown (the nearest is named) or a value is impossible.

    Examples
    --------
    >>> configure(tiny(), {"model.depth": 3}).model.depth
    3
    """
    content: dict[str, Any] = recipe.model_dump()
    known = set(flatten(content))
    for key, value in changes.items():
        if key not in known:
            raise ConfigurationError(
                f"unknown configuration key {key!r}.{nearest(key, known)} "
                f"All keys: {', '.join(sorted(known))}."
            )
        section, _, name = key.rpartition(".")
        (content[section] if section else content)[name] = value
    _shorten_warmup(content["optimization"], changes)
    return _validated(content, origin="the configuration")


def _shorten_warmup(content: dict[str, Any], changes: Mapping[str, Any]) -> None:
    """Warm up over fewer epochs where a run was made shorter than that, and say so."""
    epochs, before = content["epochs"], content["warmup_epochs"]
    asked = "optimization.epochs" in changes and "optimization.warmup_epochs" not in changes
    if asked and isinstance(epochs, int) and 0 < epochs <= before:
        content["warmup_epochs"] = epochs // 10
        _LOGGER.warning(
            "optimization.epochs = %d is within the warm-up of %d epochs; warming up over %d.",
            epochs, before, content["warmup_epochs"],
        )  # fmt: skip


def parse_changes(settings: Iterable[str]) -> dict[str, Any]:
    """Read ``section.key=value`` words; values are YAML.

    Examples
    --------
    >>> parse_changes(["optimization.epochs=20", "masks.kind=random"])
    {'optimization.epochs': 20, 'masks.kind': 'random'}
    """
    changes = {}
    for word in settings:
        key, equals, value = word.partition("=")
        if not equals:
            raise ConfigurationError(
                f"cannot read the setting {word!r}: write section.key=value, such as "
                "optimization.epochs=20."
            )
        try:
            changes[key.strip()] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise ConfigurationError(
                f"the value of {word!r} is not valid YAML; write a number, a word or a list such "
                "as [0.9, 0.999]."
            ) from error
    return changes


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Give every value its dotted key.

    Examples
    --------
    >>> flatten({"a": {"b": 1}, "c": 2})
    {'a.b': 1, 'c': 2}
    """
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def same_run(written: str, configuration: Configuration) -> bool:
    """Say whether a run can be gone on with by a configuration, with the same results.

    Examples
    --------
    >>> same_run(to_yaml(paper()), configure(paper(), {"views.residence": "stream"}))
    True
    """
    try:
        before = Configuration.model_validate(parse_yaml(written))
    except (yaml.YAMLError, ValueError, RecursionError):
        return False
    free = {"views.residence": "auto", "views.ahead": 0}
    return configure(before, free) == configure(configuration, free)


def to_yaml(configuration: Configuration) -> str:
    """Write a configuration as YAML that `load_recipe` reads back."""
    return yaml.safe_dump(configuration.model_dump(mode="json"), sort_keys=False)


def _validated(content: Mapping[str, Any], *, origin: str) -> Configuration:
    """Check keys and values; say in one paragraph what is wrong with the first."""
    try:
        return Configuration.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = flatten(Configuration().model_dump())
            raise ConfigurationError(
                f"{origin} has the unknown key {key!r}.{nearest(key, known)}"
            ) from error
        raise ConfigurationError(
            f"{origin} has an impossible value for {key!r}: {first['msg']} (got "
            f"{first['input']!r})."
        ) from error
