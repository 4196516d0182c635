"""The sections of the configuration of a pretraining run: keys, types, defaults, limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semantoks.errors import ConfigurationError
from semantoks.model.branches import REFERENCE_BRANCHES, BranchShape
from semantoks.model.encoder import check_sizes
from semantoks.model.synchrony import Span, Start, check_time_courses
from semantoks.model.tokenizer import Pooling, Spatial, Tokenization, check_tokenization
from semantoks.training.precision import Precision

Residence = Literal["auto", "device", "stream"]
"""Where the series of a run lie: on the device, or in the store."""


class _Section(BaseModel):
    """A part of the configuration; unknown keys and changes are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(_Section):
    """Shape of the encoder and of the head.

    Those that begin with projection are the arguments of `Head`, the others those of
    `SemantoksEncoder`, but for time_course_start, which says what its weights are at first.
    """

    dim: int = Field(768, ge=2, description="width of a token")
    depth: int = Field(8, ge=0, description="transformer blocks")
    head_dim: int = Field(64, ge=1, description="width of an attention head")
    window: int = Field(100, ge=1, description="samples in a window")
    patch: int = Field(20, ge=1, description="samples in a patch")
    mlp_ratio: int = Field(4, ge=1, description="hidden width of a block over dim")
    layer_scale: float = Field(0.1, gt=0, description="gain of a block's sides at the beginning")
    spatial: Spatial = Field("networks", description="what a token stands for")
    tokenization: Tokenization = Field("semantic", description="how a patch becomes a token")
    pooling: Pooling = Field("mean", description="what a token keeps of its samples")
    branches: tuple[Annotated[BranchShape, Field(discriminator="kind")], ...] = Field(
        REFERENCE_BRANCHES, description="what a semantic tokenizer listens with"
    )
    time_courses: int = Field(0, ge=0, description="learned time courses a network; 0 for none")
    time_course_span: Span = Field("patch", description="over what their covariances are taken")
    time_course_start: Start = Field("random", description="mixtures that they are at first")
    projection_hidden_dim: int = Field(1024, ge=1, description="width of the head's hidden layers")
    projection_dim: int = Field(128, ge=2, description="width of the head's output")
    projection_hidden_layers: int = Field(1, ge=0, description="hidden layers of the head")

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
        others = ("projection_", "time_course_start")
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
    """Weights of the terms of the loss."""

    cls_weight: float = Field(1.0, ge=0, description="of the term on [CLS]; 0 for an ablation")
    token_weight: float = Field(0.5, ge=0, description="of the token term on masked steps")
    summary_weight: float = Field(0.5, ge=0, description="of the network-summary term at first")
    summary_share: float = Field(0.05, ge=0, le=1, description="share of steps until it is 0")
    summary_schedule: Literal["fade", "constant"] = Field(
        "fade", description="fade to 0 over summary_share, or keep the weight to the end"
    )
    epsilon: float = Field(0.05, gt=0, description="distortion of the coding rate")


class OptimizationConfig(_Section):
    """AdamW, its schedules, and the teacher's."""

    epochs: int = Field(100, ge=0, description="one scan a subject an epoch; 0 = untrained")
    batch_size: int = Field(512, ge=2, description="scans a step")
    learning_rate: float = Field(7e-4, gt=0, description="peak, for a batch of 256")
    warmup_epochs: int = Field(3, ge=0, description="linear from 0")
    weight_decay: float = Field(0.05, ge=0, description="at the beginning")
    weight_decay_end: float = Field(0.3, ge=0, description="at the end")
    betas: tuple[float, float] = Field((0.9, 0.999), description="of AdamW")
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
