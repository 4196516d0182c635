"""Checkpoints of the released code, read without running code, as models of today."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import (
    REFERENCE_BRANCHES,
    BranchShape,
    DenseBranch,
    Head,
    LongBranch,
    branch_widths,
)
from semantoks.model.released import (
    BRANCHES,
    Branch,
    ReleasedWeights,
    read_released_file,
    released_encoder,
    released_head,
)

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


class ReleasedConfiguration(Loose):
    """The parts of a released configuration that decide about the architecture."""

    model_type: Literal["simple_dino_tf"] = "simple_dino_tf"
    data: ReleasedData
    model: ReleasedModel
    dino: ReleasedObjective = ReleasedObjective()

    def encoder_arguments(self) -> dict[str, Any]:
        """Return the arguments of `SemantoksEncoder` that make this architecture."""
        model, data = self.model, self.data
        dim = model.embedding_dim
        if model.cnn_dim != dim:
            raise InputError(
                f"cnn_dim = {model.cnn_dim} differs from embedding_dim = {dim}; how the released "
                "code joins the two is not known here, so the checkpoint is not imported."
            )
        # The released code takes D/64 heads and 4 D hidden units whatever these keys say, and no
        # shape would show another number of heads.
        if dim % 64 or model.heads not in (0, dim // 64) or model.mlp_dim not in (0, 4 * dim):
            raise InputError(
                f"heads = {model.heads} and mlp_dim = {model.mlp_dim} are not those of the "
                f"released architecture, which has embedding_dim / 64 = {dim / 64:g} heads and 4 * "
                f"embedding_dim = {4 * dim} hidden units (0 means these)."
            )
        return {
            "dim": dim,
            "depth": model.depth,
            "head_dim": 64,
            "window": data.target_signal_length,
            "patch": data.patch_size,
            "mlp_ratio": 4,
            "layer_scale": model.layer_scale_init_value,
            **self._tokenizer(),
        }

    def head_arguments(self) -> dict[str, Any]:
        """Return the arguments of `Head` that make this architecture."""
        return {
            "dim": self.model.embedding_dim,
            "hidden_dim": self.model.projection_hidden_dim,
            "output_dim": self.model.projection_bottleneck_dim,
            "hidden_layers": self.model.projection_nlayers - 1,
        }

    def networks(self) -> tuple[str, ...] | None:
        """Return the networks in the order of the released numbering."""
        data = self.data
        cortex = SCHAEFER_NETWORKS.get(data.schaefer_networks)
        if cortex is None or data.schaefer_rois != 400:
            return None
        if data.tian_networks > 1 or data.buckner_networks > 1:
            return None
        parts = {"Subcortical": data.tian_rois, "Cerebellar": data.buckner_rois}
        return cortex + tuple(name for name, rois in parts.items() if rois)

    def atlas_name(self) -> str | None:
        """Return the built-in atlas of these networks."""
        data = self.data
        found = tuple(atlas for atlas in data.atlases.values() if atlas[1])
        known = tuple(BUILT_IN.values())
        endings: dict[tuple[tuple[str | None, int], ...], str] = {
            known[:1]: "",
            known[:2]: "-tian3",
            known: "-tian3-buckner7",
        }
        if self.networks() is None or found not in endings:
            return None
        cortex = "schaefer400" if data.schaefer_networks == 7 else "schaefer400-17networks"
        return cortex + endings[found]

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

    Examples
    --------
    >>> from semantoks.model.layers import LongBranch
    >>> kernel_taps(LongBranch(taps=4, pieces=3))
    16
    """
    if isinstance(branch, DenseBranch):
        return branch.kernel_size
    return branch.taps * int(2 ** (branch.pieces - 1))


def read_released_config(content: Mapping[str, Any], *, origin: str) -> ReleasedConfiguration:
    """Read the architecture out of a released configuration."""
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

    Examples
    --------
    >>> recipe_of({"training": {"seed": 21, "output_dir": "./output"}, "data": {"name": "fmri"}})
    {'training': {'seed': 21}}
    """
    recipe = {section: _plain(content[section]) for section in _RECIPE if section in content}
    training = content.get("training")
    if isinstance(training, Mapping):  # numbers and switches: what is text there are paths
        recipe["training"] = {
            str(key): value for key, value in training.items() if isinstance(value, int | float)
        }
    return recipe


def _plain(value: Any) -> Any:
    """Return what JSON can hold; everything else as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


PREPROCESSING: Final = {"target_t_r": 2.0, "high_pass": 0.01, "low_pass": 0.1}
"""What the released models were trained on: repetition time in s, band in Hz."""


@dataclass(frozen=True)
class ImportedModel:
    """A released checkpoint as read."""

    encoder: SemantoksEncoder
    head: Head
    branch: str
    dropped: dict[str, int]
    provenance: dict[str, Any]
    notices: tuple[str, ...] = ()


def import_checkpoint(
    file: str | Path,
    out: str | Path,
    *,
    config: str | Path | None = None,
    atlas: Atlas | None = None,
    branch: Branch = "teacher",
    license: str = "unknown",
) -> ImportedModel:
    """Turn a checkpoint of the released code into a model folder.

    See Also
    --------
    read_checkpoint : The same without writing a folder.
    """
    if Path(out).exists():
        raise InputError(f"{out} exists; choose another folder or remove it.")
    imported = read_checkpoint(file, config=config, atlas=atlas, branch=branch)
    save_encoder(
        imported.encoder,
        out,
        preprocessing=PREPROCESSING,
        provenance=imported.provenance,
        license=license,
    )
    return imported


def read_checkpoint(
    file: str | Path,
    *,
    config: str | Path | None = None,
    atlas: Atlas | None = None,
    branch: Branch = "teacher",
) -> ImportedModel:
    """Read a checkpoint of the released code.

    The file is read as numbers only: one that holds code is refused, and none is run.
    """
    file = Path(file)
    read = read_released_file(file, None if config is None else Path(config))
    released = read_released_config(read.config, origin=read.origin)
    atlas, notices = _atlas(released, atlas)
    encoder = SemantoksEncoder(atlas, **released.encoder_arguments())
    order = _order(released, encoder)
    # The encoder that is not wanted is checked as well: damage there may not be alone.
    present = [b for b in BRANCHES if any(key.startswith(f"{b}_encoder.") for key in read.state)]
    found = {
        name: _with_context(file, read.state, encoder, name, order, released.data.first_atlas)
        for name in dict.fromkeys((branch, *present))
    }
    encoder.load_state_dict(found[branch].weights)
    head = Head(**released.head_arguments())
    separate = released.dino.use_separate_mask_predictor
    head.load_state_dict(released_head(read.state, head, branch=branch, separate=separate))
    dead = found[branch].dead
    provenance = {
        "imported_from": {
            "file": file.name,
            "sha256": _sha256(file),
            "branch": branch,
            **({} if read.epoch is None else {"epoch": read.epoch}),
        },
        "recipe": recipe_of(read.config),
        "dropped_keys": len(dead),
        "dropped_parameters": sum(dead.values()),
        "notices": [*read.notices, *notices],
        "versions": {"torch": str(torch.__version__)},
    }
    encoder.preprocessing, encoder.provenance = dict(PREPROCESSING), provenance
    return ImportedModel(
        encoder.eval(), head.eval(), branch, dead, provenance, (*read.notices, *notices)
    )


def _atlas(released: ReleasedConfiguration, atlas: Atlas | None) -> tuple[Atlas, tuple[str, ...]]:
    """Take the atlas that was given, or the one that the configuration names, with notices."""
    name = released.atlas_name()
    if atlas is None:
        if name is None:
            raise InputError(
                "the configuration does not name a network map that is built in; give the atlas "
                "(ROIs in the order of the recordings, with their networks) by --atlas."
            )
        return Atlas.load(name), ()
    expected = released.data.schaefer_rois + released.data.tian_rois + released.data.buckner_rois
    if expected and len(atlas) != expected:
        raise InputError(
            f"atlas {atlas.name!r} has {len(atlas)} ROIs, but the checkpoint was trained on "
            f"{expected}; give its atlas{f' ({name})' if name else ''} by --atlas."
        )
    if name is not None:
        _check_rois(atlas, Atlas.load(name))
        return atlas, ()
    return atlas, (
        f"the configuration names no built-in atlas, so the order of ROIs within the networks of "
        f"{atlas.name!r} cannot be checked; features are only right if it is that of the training.",
    )


def _check_rois(atlas: Atlas, built_in: Atlas) -> None:
    """Refuse ROIs in another order than the checkpoint's; sizes of networks do not show it."""
    for number, (found, expected) in enumerate(zip(atlas.labels, built_in.labels, strict=True), 1):
        if found != expected:
            raise InputError(
                f"ROI {number} of atlas {atlas.name!r} is {found!r}, but the checkpoint was "
                f"trained on {built_in.name}, where it is {expected!r}. Leave --atlas out, or give "
                "the same labels in the same order."
            )


def _order(released: ReleasedConfiguration, encoder: SemantoksEncoder) -> list[int]:
    """Return the released number of each of the encoder's networks."""
    found = encoder.token_atlas.network_names
    names = released.networks()
    if names is None or encoder.spatial != "networks":
        return list(range(len(found)))
    if set(names) != set(found):
        raise InputError(
            f"the networks of atlas {encoder.atlas.name!r} ({', '.join(found)}) are not those of "
            f"the checkpoint ({', '.join(names)}); give its atlas ({released.atlas_name()}) by "
            "--atlas."
        )
    built_in = released.atlas_name()
    if built_in is not None and encoder.atlas.networks != Atlas.load(built_in).networks:
        raise InputError(
            f"atlas {encoder.atlas.name!r} puts ROIs into other networks than {built_in}, which "
            "the checkpoint was trained on. Leave --atlas out."
        )
    return [names.index(name) for name in found]


def _with_context(
    file: Path,
    state: Mapping[str, Tensor],
    encoder: SemantoksEncoder,
    branch: Branch,
    order: list[int],
    first_atlas: str | None,
) -> ReleasedWeights:
    """Translate the encoder after comparing the size of its networks with the atlas."""
    _check_network_map(state, encoder, branch, order)
    try:
        return released_encoder(state, encoder, branch=branch, order=order, atlas=first_atlas)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _check_network_map(
    state: Mapping[str, Tensor], encoder: SemantoksEncoder, branch: Branch, order: list[int]
) -> None:
    """Refuse an atlas whose networks have other sizes than the checkpoint's."""
    rows = state.get(
        f"{branch}_encoder.inter_network_transformer.network_learnable_pos_embedding.weight"
    )
    names, sizes = encoder.token_atlas.network_names, encoder.token_atlas.network_sizes
    if rows is not None and len(rows) != len(names):
        raise InputError(
            f"the checkpoint has {len(rows)} networks, but atlas {encoder.atlas.name!r} has "
            f"{len(names)} ({', '.join(names[:20])}); give its network map by --atlas."
        )
    counts: dict[int, int] = {}
    pattern = (
        rf"{branch}_encoder\.network_tokenizers\.\w+\.(\d+)\.branches\.\d+\.(?:weight|slconv\.D)"
    )
    for key, value in state.items():
        if found := re.fullmatch(pattern, key):
            counts.setdefault(int(found[1]), value.shape[1])
    wrong = [
        f"{name} has {counts[number]} ROIs in the checkpoint and {size} in the atlas"
        for name, size, number in zip(names, sizes, order, strict=True)
        if counts.get(number, size) != size
    ]
    if wrong:
        raise InputError(
            f"atlas {encoder.atlas.name!r} is not the checkpoint's: {'; '.join(wrong[:9])}. Give "
            "its network map by --atlas."
        )


def _sha256(file: Path) -> str:
    """Compute the SHA-256 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
