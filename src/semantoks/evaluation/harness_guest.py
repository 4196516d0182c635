"""A saved model as a guest of the Brainmarks harness: one sample in, summary and tokens out.

A sample of the harness is a dict with bold (time, roi), z-scored per ROI, and tr in s. This module
does not need the harness; the plug-in ``brainmarks.models.semantoks`` hands it over.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from semantoks.data.atlas import Atlas
from semantoks.data.signal import Preprocessing, preprocess
from semantoks.errors import InputError
from semantoks.evaluation.readout import check_whole, window_starts
from semantoks.model.checkpoint import load_model
from semantoks.model.encoder import SemantoksEncoder

SPACES: Final[Mapping[str, str]] = {
    "schaefer400-tian3-buckner7": "schaefer400_tians3_buckner7",
    "schaefer400-tian3": "schaefer400_tians3",
    "schaefer400": "schaefer400",
}
"""Built-in atlas -> what the harness calls its space."""


class GuestEmbeddings(NamedTuple):
    """What the harness takes from a model."""

    cls_embeds: Float[Tensor, "batch 1 dim"]
    reg_embeds: None
    patch_embeds: Float[Tensor, "batch token dim"]


class GuestTransform:
    """Prepare a sample as the model's own recordings were prepared, and cut its windows.

    Examples
    --------
    >>> encoder = SemantoksEncoder(Atlas.load("schaefer400"), dim=64, depth=1)
    >>> transform = GuestTransform(encoder, Preprocessing(), windows=8)
    >>> sample = transform({"bold": torch.randn(400, 400), "tr": 1.0})
    >>> sample["series"].shape, sample["hidden"].shape
    (torch.Size([8, 400, 100]), torch.Size([8, 7, 5]))
    """

    def __init__(
        self, encoder: SemantoksEncoder, preprocessing: Preprocessing, windows: int = 8
    ) -> None:
        self.encoder = encoder
        if preprocessing.filtered_before is not None:
            # Somebody else filtered what the model has learned from; here, nobody has.
            low, high = preprocessing.filtered_before
            preprocessing = dataclasses.replace(
                preprocessing, high_pass=low, low_pass=high, filtered_before=None
            )
        # The harness has chosen its scans: short ones and poor ones are read as they are.
        self.preprocessing = dataclasses.replace(preprocessing, min_samples=2, min_coverage=0)
        self.windows = check_whole("windows", windows)

    def __call__(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        """Cut the windows of one scan.

        A scan that is shorter than a window is filled up with zeros, and patches that hold nothing
        else are hidden. A scan with fewer places than windows repeats some, so that samples make a
        batch.
        """
        bold = np.asarray(sample["bold"], dtype=np.float64)
        if bold.ndim != 2 or bold.shape[1] != len(self.encoder.atlas):
            raise InputError(
                f"the sample has bold of shape {bold.shape}, but the model expects (time, roi) "
                f"with {len(self.encoder.atlas)} ROIs (atlas {self.encoder.atlas.name!r})."
            )
        if not float(sample.get("tr", 0)) > 0:
            raise InputError("the sample has no positive repetition time tr, in s.")
        ready = preprocess(bold.T, float(sample["tr"]), self.preprocessing)
        length, patch = self.encoder.window, self.encoder.patch
        known = min(ready.series.shape[1], length)
        padded = np.pad(ready.series, ((0, 0), (0, length - known)))
        places = window_starts(padded.shape[1], length, self.windows)
        starts = places[np.linspace(0, len(places) - 1, self.windows).round().astype(int)]
        cut = np.stack([padded[:, start : start + length] for start in starts])
        networks = ~self.encoder.network_valid(ready.valid[None])[0]
        empty = np.arange(length // patch) * patch >= known
        hidden = networks[:, None] | empty
        return {
            "series": torch.from_numpy(cut.astype(np.float32)),
            "hidden": torch.from_numpy(np.tile(hidden, (self.windows, 1, 1))),
        }


class GuestModel(nn.Module):
    """Encode all windows of every scan of a batch."""

    def __init__(self, encoder: SemantoksEncoder, space: str) -> None:
        super().__init__()
        self.__space__ = space
        self.encoder = encoder.eval().requires_grad_(requires_grad=False)

    def forward(self, batch: Mapping[str, Tensor]) -> GuestEmbeddings:
        """Encode a batch."""
        series, hidden = batch["series"], batch["hidden"]
        scans = len(series)
        found = self.encoder(
            series.flatten(0, 1), hidden.flatten(0, 1) if bool(hidden.any()) else None
        )
        return GuestEmbeddings(
            found.summary.unflatten(0, (scans, -1)).mean(1, keepdim=True),
            None,
            found.tokens.flatten(1, 2).unflatten(0, (scans, -1)).flatten(1, 2),
        )


def make_guest(model: str, *, windows: int = 8) -> tuple[GuestTransform, GuestModel]:
    """Load a model as a guest."""
    saved = load_model(model)
    spaces = {Atlas.load(name).fingerprint: space for name, space in SPACES.items()}
    space = spaces.get(saved.encoder.atlas.fingerprint)
    if space is None:
        raise InputError(
            f"{model} is a model for atlas {saved.encoder.atlas.name!r}, which the harness does "
            f"not have; it has those of {', '.join(SPACES)}."
        )
    preprocessing = Preprocessing.from_dict(saved.preprocessing or {})
    transform = GuestTransform(saved.encoder, preprocessing, windows)
    return transform, GuestModel(saved.encoder, space)
