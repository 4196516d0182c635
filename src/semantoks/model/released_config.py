"""The configuration of the released code, as far as it decides about the architecture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import ValidationError

from semantoks.errors import InputError
from semantoks.model.branches import (
    REFERENCE_BRANCHES,
    BranchShape,
    DenseBranch,
    branch_widths,
)
from semantoks.model.released_sections import (
    BUILT_IN,
    Loose,
    ReleasedData,
    ReleasedModel,
    ReleasedObjective,
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
    >>> from semantoks.model.branches import LongBranch
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
