"""Connectivity as the other models read it: correlation, shrunk as by Ledoit and Wolf."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def correlation(
    series: Float[Tensor, "batch roi time"], *, shrunk: bool = False
) -> Float[Tensor, "batch roi roi"]:
    """Correlate regions; one that never changes is correlated with itself only.

    Shrunk is C = (1 - s) S + s mean(diag S) I of standardized series, again as a correlation.
    """
    x = series.double()
    deviation = x.std(-1, correction=0, keepdim=True)
    flat = deviation <= 0
    z = torch.where(flat, 0.0, (x - x.mean(-1, keepdim=True)) / torch.where(flat, 1.0, deviation))
    rois, time = z.shape[1:]
    s = z @ z.transpose(1, 2) / time
    if shrunk:
        mean = s.diagonal(dim1=1, dim2=2).mean(-1)
        squares = s.square().sum((1, 2))
        delta = squares / rois - mean.square()
        fourth = (z.square() @ z.square().transpose(1, 2)).sum((1, 2)) / time
        beta = (fourth - squares) / (rois * time)
        share = (beta.clamp(min=0).minimum(delta) / delta)[:, None, None]
        s = (1 - share) * s + share * mean[:, None, None] * torch.eye(rois).to(s)
    root = s.diagonal(dim1=1, dim2=2).clamp(min=1e-12).sqrt()
    same = torch.eye(rois, dtype=torch.bool, device=s.device)
    return (s / (root[:, :, None] * root[:, None])).masked_fill(same, 1.0)
