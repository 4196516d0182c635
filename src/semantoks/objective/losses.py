"""The terms of the loss as pure functions of unit vectors."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

Pair = tuple[Float[Tensor, "batch dim"], Float[Tensor, "batch dim"]]
"""Unit vectors of both views of a batch of scans."""


def compression(student: Pair, teacher: Pair) -> Float[Tensor, ""]:
    """Agreement of the two views of a scan: ½ Σ_{i≠j} mean_b <t_i, s_j>."""
    (s1, s2), (t1, t2) = student, teacher
    return 0.5 * ((t1 * s2).sum(-1).mean() + (t2 * s1).sum(-1).mean())


def coding_rate(vectors: Float[Tensor, "batch dim"], *, epsilon: float = 0.05) -> Float[Tensor, ""]:
    """Volume that a batch of vectors spans: ½ logdet(I + d/(m ε) ZᵀZ).

    Examples
    --------
    >>> coding_rate(torch.eye(4), epsilon=0.5).item()  # 2 log(1 + 4/(4 * 0.5))
    2.197224...
    """
    # In half precision the logarithm of the determinant overflows and the batch collapses.
    with torch.autocast(vectors.device.type, enabled=False):
        z = vectors.float()
        m, d = z.shape
        gram = z.T @ z if d <= m else z @ z.T  # the same non-zero eigenvalues, the smaller matrix
        identity = torch.eye(len(gram), dtype=z.dtype, device=z.device)
        # Unchecked: what is not finite must reach the loop, which knows what to tell the user.
        factor = torch.linalg.cholesky_ex(identity + d / (m * epsilon) * gram).L
        rate: Tensor = factor.diagonal().log().sum()
        return rate


def expansion(student: Pair, teacher: Pair, *, epsilon: float = 0.05) -> Float[Tensor, ""]:
    """Spread of a batch: ½ Σ_i γ · coding_rate((s_i + t_i) / 2), γ = (d + m) / (d m)."""
    m, d = student[0].shape
    gamma = (d + m) / (d * m)
    rates = [
        coding_rate((s + t) / 2, epsilon=epsilon) for s, t in zip(student, teacher, strict=True)
    ]
    return 0.5 * gamma * (rates[0] + rates[1])


def token_agreement(
    student: Float[Tensor, "token dim"],
    teacher: Float[Tensor, "token dim"],
    window: Int[Tensor, "token"],
    n_windows: int,
) -> Float[Tensor, ""]:
    """Mean over windows of the mean cosine over their masked tokens."""
    return mean_of_windows((student * teacher).sum(-1), window, n_windows)


def mean_of_windows(
    values: Float[Tensor, "token"], window: Int[Tensor, "token"], n_windows: int
) -> Float[Tensor, ""]:
    """Average over windows the mean over their tokens; a window without any counts as 0."""
    nothing = values.new_zeros(n_windows)
    count = nothing.index_add(0, window, torch.ones_like(values))
    return (nothing.index_add(0, window, values) / count.clamp(min=1)).mean()
