"""The health of a run: whether scans, tokens and branches are still told apart."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from semantoks.model.encoder import Encoding
from semantoks.objective.distillation import Distillation


class Health(NamedTuple):
    """What a fixed set of windows says about a model.

    Parameters
    ----------
    effective_rank : float
        Exponential of the entropy of the normalised singular values of the teacher's features.
    effective_rank_max : float
        Largest effective rank that so many windows and dimensions can have.
    teacher_student_cosine : float
        Mean cosine between the summaries of teacher and student.
    token_cosine : float
        Mean cosine between different tokens of a window; near 1 in (partial) collapse.
    feature_deviation : float
        Mean over features of their standard deviation over windows.
    """

    effective_rank: float
    effective_rank_max: float
    teacher_student_cosine: float
    token_cosine: float
    feature_deviation: float


@torch.no_grad()
def examine(
    model: Distillation,
    windows: Float[Tensor, "batch roi time"],
    mask: Bool[Tensor, "batch network patch"] | None = None,
    *,
    batch_size: int = 64,
) -> Health:
    """Look at the health of a model.

    Parameters
    ----------
    model : Distillation
        Student and teacher.
    windows : Tensor of shape (batch, roi, time)
        Windows without augmentation, the same at every look.
    mask : Tensor of shape (batch, network, patch), optional
        True for the networks that a scan lacks.
    batch_size : int
        Windows encoded at once.

    Returns
    -------
    Health
        Five numbers.
    """
    features, student_teacher, tokens = [], [], []
    for rows in torch.split(torch.arange(len(windows)), batch_size):
        part, hidden = windows[rows], None if mask is None else mask[rows]
        teacher: Encoding = model.teacher.encoder(part, hidden)
        student: Encoding = model.student.encoder(part, hidden)
        pooled = teacher.tokens.flatten(1, 2).mean(1)
        features.append(torch.cat([pooled, teacher.summary], dim=1))
        student_teacher.append(torch.cosine_similarity(teacher.summary, student.summary, dim=-1))
        tokens.append(token_cosine(teacher.tokens))
    table = torch.cat(features)
    return Health(
        effective_rank=effective_rank(table),
        effective_rank_max=float(min(len(table) - 1, table.shape[1])),
        teacher_student_cosine=float(torch.cat(student_teacher).mean()),
        token_cosine=float(torch.cat(tokens).mean()),
        feature_deviation=float(table.std(dim=0).mean()),
    )


def effective_rank(features: Float[Tensor, "batch dim"]) -> float:
    """Count the dimensions that a cloud of points really fills.

    Parameters
    ----------
    features : Tensor of shape (batch, dim)
        Points.

    Returns
    -------
    float
        Exponential of the entropy of the normalised singular values of the centred points.

    References
    ----------
    Roy, Vetterli: The effective rank. EUSIPCO 2007.

    Examples
    --------
    >>> round(effective_rank(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])), 3)
    2.0
    """
    values = torch.linalg.svdvals((features - features.mean(0)).double())
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values / total
    return float(torch.exp(torch.special.entr(shares).sum()))


def token_cosine(tokens: Float[Tensor, "batch network patch dim"]) -> Float[Tensor, "batch"]:
    """Average the cosine between different tokens of a window.

    Parameters
    ----------
    tokens : Tensor of shape (batch, network, patch, dim)
        Tokens.

    Returns
    -------
    Tensor of shape (batch,)
        Between -1 and 1.
    """
    unit = torch.nn.functional.normalize(tokens.flatten(1, 2), dim=-1)
    n = unit.shape[1]
    # The squared length of the sum holds all pairs and, n times, a token with itself.
    return (unit.sum(1).square().sum(-1) - n) / max(n * (n - 1), 1)
