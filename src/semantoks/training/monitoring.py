"""The health of a run: whether scans, tokens and branches are still told apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from semantoks.model.encoder import Encoding
from semantoks.objective.distillation import Distillation

_COLLAPSED_COSINE: Final = 0.95
_COLLAPSED_RANK: Final = 0.1
_STILL: Final = 1e-3
_IDLE: Final = 0.9
"""From here on the schedules have brought the teacher almost to rest, as they should."""


class Health(NamedTuple):
    """What a fixed set of windows says about a model."""

    effective_rank: float
    effective_rank_max: float
    teacher_student_cosine: float
    token_cosine: float
    feature_deviation: float
    identification: float
    identification_chance: float


@torch.no_grad()
def examine(
    model: Distillation,
    views: Float[Tensor, "batch view roi time"],
    mask: Bool[Tensor, "batch network patch"] | None = None,
    *,
    batch_size: int = 64,
) -> Health:
    """Look at the health of a model."""
    features, seconds, student_teacher, tokens = [], [], [], []
    for rows in torch.split(torch.arange(len(views)), batch_size):
        hidden = None if mask is None else mask[rows]
        first, second = views[rows].unbind(1)
        teacher: Encoding = model.teacher.encoder(first, hidden)
        student: Encoding = model.student.encoder(first, hidden)
        features.append(_pooled(teacher))
        seconds.append(_pooled(model.teacher.encoder(second, hidden)))
        student_teacher.append(torch.cosine_similarity(teacher.summary, student.summary, dim=-1))
        tokens.append(token_cosine(teacher.tokens))
    table = torch.cat(features)
    return Health(
        effective_rank=effective_rank(table),
        effective_rank_max=float(min(len(table) - 1, table.shape[1])),
        teacher_student_cosine=float(torch.cat(student_teacher).mean()),
        token_cosine=float(torch.cat(tokens).mean()),
        feature_deviation=float(table.std(dim=0).mean()),
        identification=identification(table, torch.cat(seconds)),
        identification_chance=1 / len(table),
    )


class Warned(NamedTuple):
    """A sign that a run goes wrong, and what to try."""

    kind: str
    message: str


def warn(looks: Sequence[Health], share: float) -> tuple[Warned, ...]:
    """Say what is wrong with a run, if anything.

    Examples
    --------
    >>> well = Health(20.0, 63.0, 0.9, 0.4, 0.5, 0.8, 1 / 64)
    >>> warn([well, well._replace(effective_rank=3.0)], 0.5)[0].kind
    'rank'
    """
    if len(looks) < 2:
        return ()
    now = looks[-1]
    found = []
    if now.effective_rank < _COLLAPSED_RANK * now.effective_rank_max:
        found.append(
            Warned(
                "rank",
                f"the features fill {now.effective_rank:.1f} of {now.effective_rank_max:.0f} "
                "dimensions: scans become alike (collapse). Try a smaller "
                "optimization.learning_rate, a longer optimization.warmup_epochs or a larger "
                "optimization.batch_size; look for scans that are copies of one another.",
            )
        )
    if now.token_cosine > _COLLAPSED_COSINE:
        found.append(
            Warned(
                "tokens",
                f"tokens of a window have a mean cosine of {now.token_cosine:.3f}: networks become "
                "alike (partial collapse). Try model.tokenization=semantic, a larger "
                "objective.summary_share, or a smaller optimization.learning_rate.",
            )
        )
    if share < _IDLE and len(looks) > 2 and all(map(_still, looks[-3:-1], looks[-2:])):
        found.append(Warned("teacher", _stalled(now)))
    return tuple(found)


def _still(before: Health, after: Health) -> bool:
    """Say whether the teacher's features have not changed between two looks."""
    names = ("effective_rank", "token_cosine", "feature_deviation")
    pairs = [(getattr(before, name), getattr(after, name)) for name in names]
    return all(abs(a - b) <= _STILL * max(abs(a), abs(b)) for a, b in pairs)


def _stalled(now: Health) -> str:
    """Say why the teacher may stand still, judged by how far the student is away."""
    seen = (
        "the teacher has not changed over three looks (its cosine with the student is "
        f"{now.teacher_student_cosine:.3f})"
    )
    if now.teacher_student_cosine > 1 - _STILL:
        return f"{seen}, and neither has the student. Try a larger optimization.learning_rate."
    return (
        f"{seen}: it does not follow the student. Try a smaller optimization.teacher_momentum, or "
        "more optimization.epochs."
    )


def _pooled(encoding: Encoding) -> Float[Tensor, "batch dim"]:
    """Join the mean token and the summary, as features are read out."""
    return torch.cat([encoding.tokens.flatten(1, 2).mean(1), encoding.summary], dim=1)


def identification(first: Float[Tensor, "batch dim"], second: Float[Tensor, "batch dim"]) -> float:
    """Find every subject's second window among those of all subjects.

    Examples
    --------
    >>> corners = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    >>> identification(corners, corners + 0.1), identification(corners, corners.flip(0))
    (1.0, 0.0)
    """
    ours = torch.nn.functional.normalize(first - first.mean(0), dim=1)
    others = torch.nn.functional.normalize(second - second.mean(0), dim=1)
    nearest = (ours @ others.T).argmax(1)
    own = torch.arange(len(first), device=first.device)
    return float((nearest == own).float().mean())


def effective_rank(features: Float[Tensor, "batch dim"]) -> float:
    """Count the dimensions that a cloud of points really fills.

    References
    ----------
    Roy, Vetterli: The effective rank. EUSIPCO 2007.

    Examples
    --------
    >>> round(effective_rank(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])), 3)
    2.0
    """
    centred = (features - features.mean(0)).cpu()  # not every GPU has float64
    if not centred.isfinite().all():
        return math.nan
    values = torch.linalg.svdvals(centred.double())
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values / total
    return float(torch.exp(torch.special.entr(shares).sum()))


def token_cosine(tokens: Float[Tensor, "batch network patch dim"]) -> Float[Tensor, "batch"]:
    """Average the cosine between different tokens of a window."""
    unit = torch.nn.functional.normalize(tokens.flatten(1, 2), dim=-1)
    n = unit.shape[1]
    # The squared length of the sum holds all pairs and, n times, a token with itself.
    return (unit.sum(1).square().sum(-1) - n) / max(n * (n - 1), 1)
