"""Sections of the configuration of the released code, and the keys that are known in each."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from semantoks.model.branches import BranchShape, DenseBranch, LongBranch

BUILT_IN: Final = {
    "schaefer": ("schaefer400", 400),
    "tian": ("tian3", 50),
    "buckner": ("buckner7", 7),
}
"""Atlases that are built in here: part of the brain -> released name, number of ROIs."""


class Strict(BaseModel):
    """Keys that nobody here knows may change the architecture: they are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Loose(BaseModel):
    """Keys beside those below have nothing to do with the architecture."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ReleasedDense(Strict):
    """A dense branch of the tokenizer."""

    type: Literal["dense"]
    kernel_size: int
    depthwise: Literal[False] = False
    out_channels: int

    def shape(self) -> BranchShape:
        """Return the branch as it is called here."""
        return DenseBranch(kernel_size=self.kernel_size, width=self.out_channels)


class ReleasedLong(Strict):
    """A branch of structured long convolutions of the tokenizer."""

    type: Literal["sgconv"]
    kernel_size: int
    num_scales: int
    decay_min: float
    decay_max: float
    out_channels: int

    def shape(self) -> BranchShape:
        """Return the branch as it is called here."""
        return LongBranch(
            taps=self.kernel_size,
            pieces=self.num_scales,
            decay_min=self.decay_min,
            decay_max=self.decay_max,
            width=self.out_channels,
        )


class ReleasedTokenizer(Strict):
    """The tokenizer of a network."""

    pooling_type: str
    config: list[Annotated[ReleasedDense | ReleasedLong, Field(discriminator="type")]]
    final_norm: Literal["layer"]


class ReleasedModel(Strict):
    """Encoder and head."""

    backbone_type: Literal["cnn_tf"]
    cnn_dim: int
    cnn_final_norm: Literal["layer"]
    embedding_dim: int
    depth: int
    heads: int = 0
    mlp_dim: int = 0
    global_pooling: Literal["cls"]
    projection_hidden_dim: int
    projection_output_dim: int | None = None
    projection_bottleneck_dim: int
    projection_nlayers: int = Field(ge=1)
    drop_path_rate: float = 0.0
    layer_scale_init_value: float = Field(gt=0)
    emb_dropout: float = 0.0
    tokenizer: ReleasedTokenizer


class ReleasedData(Strict):
    """What a window is, and the networks of its ROIs.

    A key that is not here may change what goes in (another repetition time or standardization).
    """

    target_signal_length: int = Field(ge=1)
    patch_size: int = Field(ge=1)
    max_spatial: bool = False
    min_spatial: bool = False
    name: Literal["fmri"] = "fmri"
    channels: Literal["all"] = "all"
    # How views are drawn and where data are: known, and of no consequence for the weights.
    augment_level: Any = None
    crop_starts: Any = None
    datasets: Any = None
    max_crop_distance: Any = None
    min_crop_distance: Any = None
    network_map_path: Any = None
    number_of_crops: Any = None
    schaefer_atlas: str | None = None
    schaefer_rois: int = 0
    schaefer_networks: int = 0
    tian_atlas: str | None = None
    tian_rois: int = 0
    tian_networks: int = 0
    buckner_atlas: str | None = None
    buckner_rois: int = 0
    buckner_networks: int = 0

    @property
    def atlases(self) -> dict[str, tuple[str | None, int]]:
        """Name and number of ROIs of each part of the brain, in the order of the released code."""
        return {
            "schaefer": (self.schaefer_atlas, self.schaefer_rois),
            "tian": (self.tian_atlas, self.tian_rois),
            "buckner": (self.buckner_atlas, self.buckner_rois),
        }

    @property
    def first_atlas(self) -> str | None:
        """Name of the first atlas: only its set of tokenizers is ever used."""
        return next((name for name, _ in self.atlases.values() if name is not None), None)

    @model_validator(mode="after")
    def _names_fit_sizes(self) -> ReleasedData:
        """Refuse an atlas that is known and has another number of ROIs here."""
        sizes = dict(BUILT_IN.values())
        for part, (name, rois) in self.atlases.items():
            if name in sizes and (name != BUILT_IN[part][0] or rois not in (0, sizes[name])):
                raise ValueError(
                    f"{part}_atlas is {name} with {rois} ROIs, but {name} has {sizes[name]}"
                )
        return self


class ReleasedObjective(Loose):
    """Which heads there are."""

    use_separate_mask_predictor: bool = False
