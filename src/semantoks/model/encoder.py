"""From windows of a recording to a summary and tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError, InputError
from semantoks.model.components import ComponentReadOut
from semantoks.model.layers import (
    REFERENCE_BRANCHES,
    Block,
    BranchShape,
    patch_positions,
    read_branch,
)
from semantoks.model.synchrony import Span, Synchrony, check_time_courses
from semantoks.model.tokenizer import (
    Pooling,
    RoiTokenizer,
    SemanticTokenizer,
    Spatial,
    Tokenization,
    check_tokenization,
    token_atlas,
)


class Encoding(NamedTuple):
    """What the encoder says about a batch of windows.

    Parameters
    ----------
    summary : Tensor of shape (batch, dim)
        The [CLS] vector.
    tokens : Tensor of shape (batch, network, patch, dim)
        One vector a network and patch.
    """

    summary: Float[Tensor, "batch dim"]
    tokens: Float[Tensor, "batch network patch dim"]


class ChosenTokens(NamedTuple):
    """What the encoder says where not all tokens were asked for."""

    summary: Float[Tensor, "batch dim"]
    tokens: Float[Tensor, "token dim"]


class SemantoksEncoder(nn.Module):
    """Brain-Semantoks: semantic tokenizer and transformer.

    Parameters
    ----------
    atlas : Atlas
        Order of the ROIs and the network of each.
    dim : int
        Width of a token.
    depth : int
        Number of transformer blocks.
    head_dim : int
        Width of an attention head.
    window : int
        Samples in a training window; longer and shorter ones are accepted.
    patch : int
        Samples in a patch.
    mlp_ratio : int
        Hidden width of a block over `dim`.
    layer_scale : float
        Gain of both sides of a block at the beginning.
    spatial : {"networks", "maximal", "minimal"}
        What a token stands for: a network, every ROI on its own, or the whole brain. Tokens have
        the networks of `token_atlas` on their network axis.
    tokenization : {"semantic", "linear"}
        How a patch becomes a token: by convolutions a network, or by a linear projection, which
        ROIs share if `spatial` is maximal.
    pooling : {"mean", "max", "attention"}
        What a semantic tokenizer keeps of the samples of a patch.
    branches : sequence of DenseBranch, LongBranch or mapping
        What a semantic tokenizer listens with.
    time_courses : int
        Learned time courses a network, whose covariances with those of all networks are added to
        its tokens (`Synchrony`); 0, as in the reference, for none.
    time_course_span : {"patch", "window"}
        Whether these covariances are those inside a token's patch, or over the whole window.
    components : mapping, optional
        Numbers and scans of a closed-form read-out that stands beside the network
        (`ComponentReadOut`); None, as in the reference, for none.

    Raises
    ------
    ConfigurationError
        If the sizes do not fit together.

    References
    ----------
    Gijsen, Schulz, Ritter: Brain-Semantoks. ICLR 2026, arXiv 2512.11582.

    Examples
    --------
    >>> import torch
    >>> from semantoks.data.atlas import Atlas
    >>> encoder = SemantoksEncoder(Atlas.load("schaefer400"), dim=64, depth=2)
    >>> summary, tokens = encoder(torch.randn(3, 400, 100))
    >>> summary.shape, tokens.shape
    (torch.Size([3, 64]), torch.Size([3, 7, 5, 64]))
    """

    def __init__(
        self,
        atlas: Atlas,
        dim: int = 768,
        depth: int = 8,
        *,
        head_dim: int = 64,
        window: int = 100,
        patch: int = 20,
        mlp_ratio: int = 4,
        layer_scale: float = 0.1,
        spatial: Spatial = "networks",
        tokenization: Tokenization = "semantic",
        pooling: Pooling = "mean",
        branches: Sequence[BranchShape | Mapping[str, Any]] = REFERENCE_BRANCHES,
        time_courses: int = 0,
        time_course_span: Span = "patch",
        components: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        check_sizes(dim=dim, head_dim=head_dim, window=window, patch=patch)
        self.branches = tuple(read_branch(branch) for branch in branches)
        self.spatial, self.tokenization, self.pooling = spatial, tokenization, pooling
        check_tokenization(
            dim=dim,
            spatial=spatial,
            tokenization=tokenization,
            pooling=pooling,
            branches=self.branches,
        )
        check_time_courses(time_courses, time_course_span, spatial)
        self.time_courses, self.time_course_span = time_courses, time_course_span
        self.atlas, self.dim, self.depth = atlas, dim, depth
        self.head_dim, self.window, self.patch = head_dim, window, patch
        self.mlp_ratio, self.layer_scale = mlp_ratio, layer_scale
        self.token_atlas = token_atlas(atlas, spatial)
        # What the folder of a loaded model says: how series are prepared, its origin and licence.
        self.preprocessing: dict[str, Any] = {}
        self.provenance: dict[str, Any] = {}
        self.license = "unknown"
        self.tokenizer = self._make_tokenizer()
        networks = len(self.token_atlas.network_names)
        self.network_position = nn.Parameter(torch.randn(networks, dim) * 0.02)
        self.mask_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.cls_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.blocks = nn.ModuleList(
            Block(dim, head_dim, mlp_ratio, layer_scale) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        # Last, so that all other weights are those that a seed gives without it.
        self.synchrony = (
            Synchrony(self.token_atlas, dim, patch, time_courses, time_course_span)
            if time_courses
            else None
        )
        self.components = ComponentReadOut(len(atlas), **components) if components else None

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments, beside the atlas, that make an encoder of the same shape."""
        sizes = ("dim", "depth", "head_dim", "window", "patch", "mlp_ratio", "layer_scale")
        names = (*sizes, "spatial", "tokenization", "pooling", "time_courses", "time_course_span")
        arguments = {name: getattr(self, name) for name in names}
        arguments["branches"] = [dataclasses.asdict(branch) for branch in self.branches]
        beside = {} if self.components is None else {"components": dict(self.components.sizes)}
        return arguments | beside

    def forward(
        self,
        series: Tensor,
        mask: Tensor | None = None,
    ) -> Encoding:
        """Encode windows.

        Parameters
        ----------
        series : Tensor of shape (batch, roi, time)
            Windows of series that were z-scored per ROI over the whole scan, at the repetition
            time that the model was trained with; time is a multiple of the patch.
        mask : Tensor of shape (batch, network, patch), optional
            True where a token is hidden.

        Returns
        -------
        Encoding
            Summary (batch, dim) and tokens (batch, network, patch, dim).

        Raises
        ------
        InputError
            If a shape does not fit.
        """
        self._check(series, mask)
        return self.encode(self._read(series, mask), mask)

    def choose(self, series: Tensor, mask: Tensor | None, places: Tensor) -> ChosenTokens:
        """Encode windows where only summaries and some tokens are wanted.

        The same numbers as from a call, without what the last block would do for other tokens.

        Parameters
        ----------
        series : Tensor of shape (batch, roi, time)
            Windows, as for a call.
        mask : Tensor of shape (batch, network, patch) or None
            True where a token is hidden.
        places : Tensor of int, shape (token,)
            Places of the wanted tokens among all batch * network * patch, in that order.

        Returns
        -------
        ChosenTokens
            Summary (batch, dim) and wanted tokens (token, dim).

        Raises
        ------
        InputError
            If a shape does not fit.
        """
        self._check(series, mask)
        x = self._sequence(self._read(series, mask), mask)
        batch, length = x.shape[:2]
        # A [CLS] stands in front of the tokens of every window.
        summaries = torch.arange(batch, device=x.device) * length
        rows = torch.cat([summaries, places + places // (length - 1) + 1])
        for block in self.blocks[:-1]:
            x = block(x)
        x = self.blocks[-1](x, rows) if self.depth else x.flatten(0, 1).index_select(0, rows)
        summary, tokens = self.norm(x).split([batch, len(places)])
        return ChosenTokens(summary, tokens)

    def encode(
        self,
        tokens: Float[Tensor, "batch network patch dim"],
        mask: Bool[Tensor, "batch network patch"] | None = None,
    ) -> Encoding:
        """Let tokens see one another.

        Parameters
        ----------
        tokens : Tensor of shape (batch, network, patch, dim)
            The tokenizer's output.
        mask : Tensor of shape (batch, network, patch), optional
            True where a token is hidden.

        Returns
        -------
        Encoding
            Summary (batch, dim) and tokens (batch, network, patch, dim).
        """
        x = self._sequence(tokens, mask)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Encoding(x[:, 0], x[:, 1:].unflatten(1, tokens.shape[1:3]))

    def _read(self, series: Tensor, mask: Tensor | None) -> Tensor:
        """Turn windows into tokens that have not seen one another; hidden ones are 0."""
        tokens: Tensor = self.tokenizer(series, mask)
        return tokens if self.synchrony is None else tokens + self.synchrony(series, mask)

    def _sequence(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Hide tokens, add positions and put [CLS] in front: (batch, 1 + network * patch, dim)."""
        batch, _, patches, dim = tokens.shape
        if mask is not None:
            tokens = torch.where(mask[..., None], self.mask_token.to(tokens.dtype), tokens)
        positions = patch_positions(patches, dim).to(tokens.device)
        tokens = tokens + (self.network_position[:, None] + positions)
        # The one place where the lattice is flattened.
        return torch.cat([self.cls_token.expand(batch, 1, dim), tokens.flatten(1, 2)], dim=1)

    def network_valid(self, valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Say for which places on the network axis of the tokens a scan has usable ROIs.

        Parameters
        ----------
        valid : ndarray of shape (batch, roi)
            False where a ROI of a scan is flat or missing.

        Returns
        -------
        ndarray of shape (batch, network)
            False where no ROI of a network is usable.
        """
        indices = self.token_atlas.network_indices
        return np.stack([valid[:, rois].any(axis=1) for rois in indices], axis=1)

    def _make_tokenizer(self) -> SemanticTokenizer | RoiTokenizer:
        """Make what turns windows into tokens."""
        if self.spatial == "maximal":
            return RoiTokenizer(self.dim, self.patch)
        return SemanticTokenizer(
            self.token_atlas,
            self.dim,
            self.patch,
            tokenization=self.tokenization,
            branches=self.branches,
            pooling=self.pooling,
        )

    def _check(self, series: Tensor, mask: Tensor | None) -> None:
        """Refuse shapes that do not fit the atlas and the patch."""
        if not isinstance(series, Tensor):
            raise InputError(
                f"the encoder expects a tensor of shape (batch, roi, time), but got "
                f"{type(series).__name__}; give torch.from_numpy(series).float(), or recordings to "
                "SemantoksFeatures."
            )
        if series.ndim != 3 or series.shape[1] != len(self.atlas):
            raise InputError(
                f"the encoder expects series of shape (batch, roi, time) with {len(self.atlas)} "
                f"ROIs (atlas {self.atlas.name!r}), but got {tuple(series.shape)}."
            )
        time = series.shape[2]
        if time == 0 or time % self.patch:
            raise InputError(
                f"a window must hold whole patches of {self.patch} samples, but has {time}; cut it "
                f"to {max(time // self.patch, 1) * self.patch}."
            )
        lattice = (series.shape[0], len(self.network_position), time // self.patch)
        if mask is not None and (mask.shape != lattice or mask.dtype != torch.bool):
            raise InputError(
                f"the mask must be boolean of shape (batch, network, patch) = {lattice}, but is "
                f"{mask.dtype} of shape {tuple(mask.shape)}."
            )


def check_sizes(*, dim: int, head_dim: int, window: int, patch: int) -> None:
    """Refuse sizes of an encoder that do not fit together."""
    if dim % head_dim or dim % 2:
        raise ConfigurationError(
            f"dim = {dim} must be an even multiple of head_dim = {head_dim}; "
            f"try {max(dim // head_dim, 1) * head_dim}."
        )
    if window % patch:
        raise ConfigurationError(
            f"window = {window} must be a multiple of patch = {patch}; "
            f"try {max(window // patch, 1) * patch}."
        )


def network_mask(
    network_valid: NDArray[np.bool_], patches: int
) -> Bool[Tensor, "batch network patch"] | None:
    """Mask of the networks that a scan lacks.

    Examples
    --------
    >>> network_mask(np.array([[True, False]]), 2)
    tensor([[[False, False],
             [ True,  True]]])
    """
    if network_valid.all():
        return None
    return torch.from_numpy(~network_valid)[..., None].expand(-1, -1, patches).contiguous()


def fresh_weights(encoder: SemantoksEncoder, seed: int = 0) -> SemantoksEncoder:
    """Make an encoder of the same architecture with untrained weights.

    Examples
    --------
    >>> from semantoks.data.atlas import Atlas
    >>> encoder = SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=1)
    >>> first, again = fresh_weights(encoder, 1), fresh_weights(encoder, 1)
    >>> bool((first.cls_token == again.cls_token).all()), first is encoder
    (True, False)
    """
    arguments = encoder.arguments | {"components": None}  # which were learned from people, too
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = SemantoksEncoder(encoder.atlas, **arguments)
    fresh.preprocessing = encoder.preprocessing
    return fresh.eval()
