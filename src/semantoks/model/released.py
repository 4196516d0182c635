"""Weights in the format of the released code, under the names that they have here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal

from torch import Tensor

from semantoks.errors import InputError

_BLOCK: Final = {
    "attn.qkv": "attention.qkv",
    "attn.proj": "attention.out",
    "ls1.gamma": "scale1.gain",
    "ls2.gamma": "scale2.gain",
    "mlp.3": "mlp.2",
}
_TOKENIZER: Final = {
    "branches.0.": "dense.",
    "branches.1.slconv.kernel_list.": "long.pieces.",
    "branches.1.slconv.D": "long.gain",
    "branches.1.slconv.kernel_norm": "long.norm",
    "branches.1.projection.": "project.",
    "norm.": "norm.",
}
_SINGLE: Final = {
    "inter_network_transformer.cls_token": "cls_token",
    "inter_network_transformer.mask_embedding": "mask_token",
    "inter_network_transformer.network_learnable_pos_embedding.weight": "network_position",
    "norm.weight": "norm.weight",
    "norm.bias": "norm.bias",
}
# Recomputed here, or constant: the decay of the long kernels, the flag of their stored norm and
# the sin-cos positions of patches.
_DERIVED: Final = re.compile(
    r"slconv\.(multiplier|kernel_norm_initialized)$|\.temporal_pos_embedding$"
)


def released_encoder(
    state: Mapping[str, Tensor], *, branch: Literal["teacher", "student"] = "teacher"
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Translate the encoder of a released checkpoint.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``model_state_dict`` of a checkpoint of the released code.
    branch : {"teacher", "student"}
        Which of the two encoders.

    Returns
    -------
    weights : dict of str to Tensor
        What `SemantoksEncoder.load_state_dict` takes.
    dead : tuple of str
        Parameters that were never used and are left behind: the tokenizers that are stored again
        for every atlas after the first, and a LayerNorm inside the transformer.

    Raises
    ------
    InputError
        If a key is not known.
    """
    prefix = f"{branch}_encoder."
    encoder = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not encoder:
        raise InputError(f"the checkpoint has no keys that begin with {prefix!r}.")
    atlases = [k.split(".")[1] for k in encoder if k.startswith("network_tokenizers.")]
    live = atlases[0] if atlases else ""
    weights, dead = {}, []
    for key, value in encoder.items():
        if _DERIVED.search(key):
            continue
        if key.startswith("inter_network_transformer.norm.") or (
            key.startswith("network_tokenizers.") and key.split(".")[1] != live
        ):
            dead.append(prefix + key)
            continue
        name = _encoder_name(key)
        weights[name] = value.reshape(-1) if name in {"cls_token", "mask_token"} else value
    return weights, tuple(dead)


def released_head(
    state: Mapping[str, Tensor], *, branch: Literal["teacher", "student"] = "teacher"
) -> dict[str, Tensor]:
    """Translate the head of a released checkpoint.

    Parameters
    ----------
    state : mapping of str to Tensor
        ``model_state_dict`` of a checkpoint of the released code.
    branch : {"teacher", "student"}
        Which of the two heads.

    Returns
    -------
    dict of str to Tensor
        What `Head.load_state_dict` takes.
    """
    prefix = f"{branch}_predictor."
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def _encoder_name(key: str) -> str:
    """Translate the name of one parameter of the encoder."""
    if key in _SINGLE:
        return _SINGLE[key]
    if block := re.fullmatch(r"inter_network_transformer\.transformer_blocks\.(\d+)\.(.+)", key):
        name = block[2]
        for old, new in _BLOCK.items():
            name = name.replace(old, new)
        return f"blocks.{block[1]}.{name}"
    if network := re.fullmatch(r"network_tokenizers\.\w+\.(\d+)\.(.+)", key):
        for old, new in _TOKENIZER.items():
            if network[2].startswith(old):
                return f"tokenizer.networks.{network[1]}.{new}{network[2].removeprefix(old)}"
    raise InputError(f"the released format has no parameter {key!r}; the file is another model's.")
