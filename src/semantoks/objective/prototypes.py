"""Self-distillation by prototypes: DINO, iBOT and the set of DINOv2.

M. Caron et al. 2021, arXiv:2104.14294; J. Zhou et al. 2022, arXiv:2111.07832; M. Oquab et al. 2024,
arXiv:2304.07193. The three slots of our own objective stay: [CLS], masked tokens, and networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.objective.distillation import Asked, Distillation, LossTerms, Projected, rows
from semantoks.objective.losses import mean_of_windows
from semantoks.objective.sharing import Share

Kind = Literal["dino", "ibot", "dinov2"]
"""Objectives that compare with prototypes."""
Centring = Literal["mean", "sinkhorn"]
"""How the teacher's prototypes are kept in use: its mean is taken off, or all are used alike."""

STUDENT_TEMPERATURE: Final = 0.1


class PrototypeHead(Head):
    """Products of unit vectors with prototypes w_k = g_k v_k / |v_k|."""

    def __init__(
        self,
        dim: int,
        *,
        prototypes: int,
        gains: Literal["one", "learned"] = "one",
        hidden_dim: int = 2048,
        output_dim: int = 256,
        hidden_layers: int = 2,
    ) -> None:
        super().__init__(
            dim, hidden_dim=hidden_dim, output_dim=output_dim, hidden_layers=hidden_layers
        )
        self.gains = nn.Parameter(torch.ones(prototypes, 1), requires_grad=gains == "learned")
        self.directions = nn.Parameter(torch.empty(prototypes, output_dim))
        nn.init.uniform_(self.directions, -(output_dim**-0.5), output_dim**-0.5)

    def forward(self, x: Float[Tensor, "*batch dim"]) -> Float[Tensor, "*batch prototype"]:
        """Compare with every prototype."""
        vectors = super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(vectors, self.gains * F.normalize(self.directions, dim=1))


class PrototypeDistillation(Distillation):
    """Student and teacher say which prototypes a window, a token and a network are like."""

    def __init__(
        self,
        encoder: SemantoksEncoder,
        head: PrototypeHead,
        *,
        kind: Kind,
        cls_weight: float = 1.0,
        token_weight: float = 1.0,
        summary_weight: float = 0.5,
        centring: Centring = "mean",
        centre_momentum: float = 0.9,
        koleo_weight: float = 0.1,
    ) -> None:
        super().__init__(
            encoder,
            head,
            cls_weight=cls_weight,
            token_weight=0.0 if kind == "dino" else token_weight,
            summary_weight=summary_weight,
        )
        self.kind, self.centring, self.centre_momentum = kind, centring, centre_momentum
        self.koleo_weight = koleo_weight if kind == "dinov2" else 0.0
        # iBOT centres tokens by the mean of all, masked or not; DINOv2 by that of masked ones.
        self.teacher_says = "all" if kind == "ibot" and self.token_weight > 0 else "masked"
        self.cls_centre: Tensor
        self.token_centre: Tensor
        self.summary_centre: Tensor
        for name in ("cls", "token", "summary"):
            self.register_buffer(f"{name}_centre", torch.zeros(len(head.directions)))

    def frozen(self) -> dict[nn.Parameter, Literal["gradient", "rate"]]:
        """Say how prototypes are held: in DINOv2 their moments build up meanwhile."""
        head = self.student.head
        if not isinstance(head, PrototypeHead):
            raise TypeError("the head has no prototypes")
        how: Literal["gradient", "rate"] = "rate" if self.kind == "dinov2" else "gradient"
        return {p: how for p in (head.gains, head.directions) if p.requires_grad}

    def terms(self, student: Projected, teacher: Projected, asked: Asked) -> LossTerms:
        """Compute total = w_cls L_CLS + w_koleo L_KoLeo + w_token L_Tok + w_summary c L_TTR."""
        targets = self._targets(torch.cat(teacher.summaries), "cls", asked).chunk(2)
        # Without local views DINOv2 divides the two pairs by three.
        pairs = 3 if self.kind == "dinov2" else 2
        cls = view_entropy(student.summaries, targets) / pairs
        total = self.cls_weight * cls

        spread = None
        if self.koleo_weight > 0:
            spread = -sum(map(koleo, student.encoded), start=torch.zeros_like(cls))
            total = total - self.koleo_weight * spread

        token = self._token(student, teacher, asked)
        if token is not None:
            total = total + self.token_weight * token

        summary = None
        if student.networks is not None and teacher.networks is not None:
            ours = rows(student.networks, asked.absent)
            theirs = rows(teacher.networks, asked.absent)
            wanted = self._targets(torch.cat(theirs), "summary", asked).chunk(2)
            summary = view_entropy(ours, wanted) / 2
            total = total + self.summary_weight * asked.curriculum * summary
        return LossTerms(total, -cls, spread, token, summary)

    def _token(self, student: Projected, teacher: Projected, asked: Asked) -> Tensor | None:
        """Compare masked tokens with what the teacher says of the same ones."""
        if self.teacher_says == "masked" and asked.hidden is None:
            return None
        logits, seen = teacher.tokens, teacher.tokens
        if self.teacher_says == "all":
            logits, seen = logits.index_select(0, asked.places), _present(logits, asked)
        wanted = self._targets(logits, "token", asked, seen=seen, share=asked.share)
        if asked.hidden is None:
            return None
        token = mean_of_windows(cross_entropy(student.tokens, wanted), *asked.windows())
        return token if asked.share is None else asked.share.mean(token)

    def _targets(
        self,
        logits: Float[Tensor, "row prototype"],
        what: Literal["cls", "token", "summary"],
        asked: Asked,
        *,
        seen: Float[Tensor, "other prototype"] | None = None,
        share: Share | None = None,
    ) -> Float[Tensor, "row prototype"]:
        """Compute the teacher's probabilities, then move the centre by what it has `seen`."""
        if self.centring == "sinkhorn":
            return sinkhorn(logits, asked.temperature, share)
        centre: Tensor = getattr(self, f"{what}_centre")
        probabilities = ((logits - centre) / asked.temperature).softmax(-1)
        if self.training:
            centre.copy_(
                move_centre(centre, logits if seen is None else seen, self.centre_momentum, share)
            )
        return probabilities


def _present(
    logits: Float[Tensor, "token prototype"], asked: Asked
) -> Float[Tensor, "present prototype"]:
    """Leave out the tokens of networks that a scan lacks."""
    if asked.absent is None:
        return logits
    absent = asked.absent
    if asked.share is not None:
        absent = absent[asked.share.start : asked.share.stop]
    patches = len(logits) // (2 * absent.numel())
    present: Bool[Tensor, "token"] = ~absent[None, :, :, None].expand(2, -1, -1, patches).flatten()
    return logits[present]


def cross_entropy(
    logits: Float[Tensor, "row prototype"],
    targets: Float[Tensor, "row prototype"],
    temperature: float = STUDENT_TEMPERATURE,
) -> Float[Tensor, "row"]:
    """Compute -Σ_k q_k log softmax(s / τ)_k."""
    return -(targets * (logits / temperature).log_softmax(-1)).sum(-1)


def view_entropy(
    student: Sequence[Float[Tensor, "batch prototype"]],
    targets: Sequence[Float[Tensor, "batch prototype"]],
) -> Float[Tensor, ""]:
    """Add up the mean cross-entropies of all pairs of different views, one of each."""
    pairs = [
        cross_entropy(logits, wanted).mean()
        for v, wanted in enumerate(targets)
        for u, logits in enumerate(student)
        if u != v
    ]
    return torch.stack(pairs).sum()


@torch.no_grad()
def move_centre(
    centre: Float[Tensor, "prototype"],
    logits: Float[Tensor, "row prototype"],
    momentum: float,
    share: Share | None = None,
) -> Float[Tensor, "prototype"]:
    """Move a centre towards the mean of the rows of all processes: c <- m c + (1 - m) mean."""
    total, count = logits.sum(0), logits.new_tensor(float(len(logits)))
    if share is not None:
        total, count = share.sum(total), share.sum(count)
    if not count:
        return centre
    return momentum * centre + (1 - momentum) * total / count


@torch.no_grad()
def sinkhorn(
    logits: Float[Tensor, "row prototype"],
    temperature: float,
    share: Share | None = None,
    *,
    rounds: int = 3,
) -> Float[Tensor, "row prototype"]:
    """Give every row one unit of probability and every prototype as much, in turns."""
    x = logits.float() / temperature
    count = x.new_tensor(float(len(x)))
    count = count if share is None else share.sum(count)
    for _ in range(rounds):  # in logarithms: exp of logits that are no cosines would overflow
        x = x - _log_sum_of_rows(x, share) - math.log(x.shape[1])
        x = x - x.logsumexp(1, keepdim=True) - count.log()
    return (x + count.log()).exp().to(logits.dtype)


def _log_sum_of_rows(
    x: Float[Tensor, "row prototype"], share: Share | None
) -> Float[Tensor, "prototype"]:
    """Compute log Σ exp over the rows of all processes."""
    if share is None:
        return x.logsumexp(0)
    nothing = x.new_full((1, x.shape[1]), -math.inf)
    highest = share.highest(torch.cat([x, nothing]).amax(0))
    return highest + share.sum((x - highest).exp().sum(0)).log()


def koleo(vectors: Float[Tensor, "batch dim"]) -> Float[Tensor, ""]:
    """Compute -mean log distance to the nearest other vector, on the unit sphere."""
    with torch.autocast(vectors.device.type, enabled=False):
        x = F.normalize(vectors.float(), eps=1e-8)
        with torch.no_grad():
            products = x @ x.T
            nearest = products.fill_diagonal_(-1).argmax(1)
        distance = F.pairwise_distance(x, x[nearest], eps=1e-8)
        return -(distance + 1e-8).log().mean()


def teacher_temperature(
    place: int, *, start: float = 0.04, end: float = 0.07, length: int = 30
) -> float:
    """Look up the teacher's temperature: a line over `length` epochs (or steps), then its end."""
    if place >= length - 1 or length < 2:
        return start if length == 1 and place < 1 else end
    return start + (end - start) * place / (length - 1)
