"""The configuration of the released code, as far as it decides about the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from semantoks.errors import InputError
from semantoks.model.branches import (
    REFERENCE_BRANCHES,
    BranchShape,
    DenseBranch,
    LongBranch,
    branch_widths,
)

SCHAEFER_NETWORKS: Final = {
    7: ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default"),
    17: (
        *("VisCent", "VisPeri", "SomMotA", "SomMotB", "DorsAttnA", "DorsAttnB"),
        *("SalVentAttnA", "SalVentAttnB", "LimbicB", "LimbicA", "ContA", "ContB", "ContC"),
        *("DefaultA", "DefaultB", "DefaultC", "TempPar"),
    ),
}
"""Networks of the Schaefer atlas in the numbering of the released network maps."""
_RECIPE: Final = ("model", "ssl", "masking", "dino", "optimizer", "scheduler")


class _Strict(BaseModel):
    """Keys that nobody here knows may change the architecture: they are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class _Loose(BaseModel):
    """Keys beside those below have nothing to do with the architecture."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class ReleasedDense(_Strict):
    """A dense branch of the tokenizer."""

    type: Literal["dense"]
    kernel_size: int
    depthwise: Literal[False] = False
    out_channels: int

    def shape(self) -> BranchShape:
        """Return the branch as it is called here.

        Returns
        -------
        DenseBranch
            The branch.
        """
        return DenseBranch(kernel_size=self.kernel_size, width=self.out_channels)


class ReleasedLong(_Strict):
    """A branch of structured long convolutions of the tokenizer."""

    type: Literal["sgconv"]
    kernel_size: int
    num_scales: int
    decay_min: float
    decay_max: float
    out_channels: int

    def shape(self) -> BranchShape:
        """Return the branch as it is called here.

        Returns
        -------
        LongBranch
            The branch.
        """
        return LongBranch(
            taps=self.kernel_size,
            pieces=self.num_scales,
            decay_min=self.decay_min,
            decay_max=self.decay_max,
            width=self.out_channels,
        )


class ReleasedTokenizer(_Strict):
    """The tokenizer of a network."""

    pooling_type: str
    config: list[Annotated[ReleasedDense | ReleasedLong, Field(discriminator="type")]]
    final_norm: Literal["layer"]


class ReleasedModel(_Strict):
    """Encoder and head."""

    backbone_type: Literal["cnn_tf"]
    cnn_dim: int
    cnn_final_norm: Literal["layer"]
    embedding_dim: int
    depth: int
    heads: int = 0
    mlp_dim: int = 0
    global_pooling: str
    projection_hidden_dim: int
    projection_output_dim: int | None = None
    projection_bottleneck_dim: int
    projection_nlayers: int = Field(ge=1)
    drop_path_rate: float = 0.0
    layer_scale_init_value: float = Field(gt=0)
    emb_dropout: float = 0.0
    tokenizer: ReleasedTokenizer


class ReleasedData(_Loose):
    """What a window is, and the networks of its ROIs."""

    target_signal_length: int = Field(ge=1)
    patch_size: int = Field(ge=1)
    max_spatial: bool = False
    min_spatial: bool = False
    schaefer_atlas: str | None = None
    schaefer_rois: int = 0
    schaefer_networks: int = 0
    tian_rois: int = 0
    tian_networks: int = 0
    buckner_rois: int = 0
    buckner_networks: int = 0


class ReleasedConfiguration(_Loose):
    """The parts of a released configuration that decide about the architecture."""

    data: ReleasedData
    model: ReleasedModel

    def encoder_arguments(self) -> dict[str, Any]:
        """Return the arguments of `SemantoksEncoder` that make this architecture.

        Returns
        -------
        dict
            Arguments by name.

        Raises
        ------
        InputError
            If the architecture cannot be made or is not known exactly.
        """
        model, data = self.model, self.data
        dim = model.embedding_dim
        if model.cnn_dim != dim:
            raise InputError(
                f"cnn_dim = {model.cnn_dim} differs from embedding_dim = {dim}; how the released "
                "code joins the two is not known here, so the checkpoint is not imported."
            )
        head_dim, rest = divmod(dim, model.heads) if model.heads else (64, dim % 64)
        mlp_ratio, rest_mlp = divmod(model.mlp_dim, dim) if model.mlp_dim else (4, 0)
        if rest or rest_mlp:
            raise InputError(
                f"heads = {model.heads} and mlp_dim = {model.mlp_dim} do not divide or multiply "
                f"embedding_dim = {dim}; the checkpoint's configuration is another model's."
            )
        return {
            "dim": dim,
            "depth": model.depth,
            "head_dim": head_dim,
            "window": data.target_signal_length,
            "patch": data.patch_size,
            "mlp_ratio": mlp_ratio,
            "layer_scale": model.layer_scale_init_value,
            **self._tokenizer(),
        }

    def head_arguments(self) -> dict[str, Any]:
        """Return the arguments of `Head` that make this architecture.

        Returns
        -------
        dict
            Arguments by name.
        """
        return {
            "dim": self.model.embedding_dim,
            "hidden_dim": self.model.projection_hidden_dim,
            "output_dim": self.model.projection_bottleneck_dim,
            "hidden_layers": self.model.projection_nlayers - 1,
        }

    def networks(self) -> tuple[str, ...] | None:
        """Return the networks in the order of the released numbering.

        Returns
        -------
        tuple of str or None
            Names as in the built-in atlases; None if the network map is not a known one.
        """
        data = self.data
        cortex = SCHAEFER_NETWORKS.get(data.schaefer_networks)
        if cortex is None or data.schaefer_rois != 400:
            return None
        if data.tian_networks > 1 or data.buckner_networks > 1:
            return None
        parts = {"Subcortical": data.tian_rois, "Cerebellar": data.buckner_rois}
        return cortex + tuple(name for name, rois in parts.items() if rois)

    def atlas_name(self) -> str | None:
        """Return the built-in atlas of these networks.

        Returns
        -------
        str or None
            None if there is none.
        """
        data = self.data
        sizes = (data.schaefer_rois, data.tian_rois, data.buckner_rois)
        endings = {(400, 0, 0): "", (400, 50, 0): "-tian3", (400, 50, 7): "-tian3-buckner7"}
        if self.networks() is None or sizes not in endings:
            return None
        cortex = "schaefer400" if data.schaefer_networks == 7 else "schaefer400-17networks"
        return cortex + endings[sizes]

    def _tokenizer(self) -> dict[str, Any]:
        """Return the arguments of the tokenizer."""
        data, tokenizer = self.data, self.model.tokenizer
        if data.max_spatial and data.min_spatial:
            raise InputError("max_spatial and min_spatial exclude each other.")
        if data.max_spatial:
            return {
                "spatial": "maximal",
                "tokenization": "linear",
                "branches": REFERENCE_BRANCHES,
            }
        if tokenizer.pooling_type not in ("mean", "max"):
            raise InputError(
                f"pooling_type = {tokenizer.pooling_type!r} cannot be imported: only mean and max "
                "have no weights of their own; the names and the formula of the weights of others "
                "are not known here, and a guess would give wrong features."
            )
        branches = tuple(branch.shape() for branch in tokenizer.config)
        branch_widths(branches, self.model.embedding_dim)
        for branch in branches:
            taps = kernel_taps(branch)
            if taps > data.patch_size:
                raise InputError(
                    f"a {branch.kind} branch has kernels of {taps} taps, more than a patch of "
                    f"{data.patch_size} samples; how the released code cuts these is not known "
                    "here, so the checkpoint is not imported."
                )
        return {
            "spatial": "minimal" if data.min_spatial else "networks",
            "pooling": tokenizer.pooling_type,
            "branches": branches,
        }


def kernel_taps(branch: BranchShape) -> int:
    """Count the taps of a branch's kernels.

    Parameters
    ----------
    branch : DenseBranch or LongBranch
        The branch.

    Returns
    -------
    int
        Samples that a kernel spans.

    Examples
    --------
    >>> kernel_taps(LongBranch(taps=4, pieces=3))
    16
    """
    if isinstance(branch, DenseBranch):
        return branch.kernel_size
    return branch.taps * int(2 ** (branch.pieces - 1))


def read_released_config(content: Mapping[str, Any], *, origin: str) -> ReleasedConfiguration:
    """Read the architecture out of a released configuration.

    Parameters
    ----------
    content : mapping
        The configuration.
    origin : str
        Where it comes from, for messages.

    Returns
    -------
    ReleasedConfiguration
        What decides about the architecture.

    Raises
    ------
    InputError
        If a key is missing, unknown where it may change the architecture, or not supported.
    """
    try:
        return ReleasedConfiguration.model_validate(content)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()[:5]
        )
        raise InputError(
            f"the configuration in {origin} does not describe an architecture that is known here: "
            f"{wrong}. Give the YAML of the training run by --config."
        ) from error


def recipe_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Pick what a person wants to know of how a released model was trained.

    Parameters
    ----------
    content : mapping
        The released configuration.

    Returns
    -------
    dict
        Its sections without paths and names of machines.
    """
    return {section: content[section] for section in _RECIPE if section in content}
