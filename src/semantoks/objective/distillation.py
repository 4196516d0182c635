"""Self-distillation: a student follows the moving average of itself."""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from semantoks.model.encoder import Encoding, SemantoksEncoder
from semantoks.model.layers import Head
from semantoks.objective.losses import compression, expansion, token_agreement
from semantoks.objective.sharing import Share


class LossTerms(NamedTuple):
    """The terms of one step, before weighting, and their weighted total."""

    total: Tensor
    compression: Tensor
    expansion: Tensor
    token: Tensor | None
    summary: Tensor | None


class Projected(NamedTuple):
    """What the heads say of the two views of a batch, all of unit length."""

    summaries: tuple[Tensor, Tensor]
    tokens: Tensor
    networks: tuple[Tensor, Tensor] | None

    def gathered(self, share: Share) -> Projected:
        """Return the summaries of all processes; tokens stay where they are."""

        def both(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return share.gather(pair[0]), share.gather(pair[1])

        networks = None if self.networks is None else both(self.networks)
        return self._replace(summaries=both(self.summaries), networks=networks)


class Branch(nn.Module):
    """An encoder and the head that serves all of its outputs."""

    def __init__(self, encoder: SemantoksEncoder, head: Head) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(
        self,
        views: Float[Tensor, "batch view roi time"],
        masks: Bool[Tensor, "batch view network patch"] | None,
        chosen: Int[Tensor, "token"],
        *,
        networks: bool,
    ) -> Projected:
        """Encode and project both views."""
        series = views.transpose(0, 1).flatten(0, 1)
        hidden = None if masks is None else masks.transpose(0, 1).flatten(0, 1)
        summaries = None
        if networks:  # over all tokens, so that nothing can be left out
            encoded: Encoding = self.encoder(series, hidden)
            cls, tokens = encoded.summary, encoded.tokens.flatten(0, 2).index_select(0, chosen)
            summaries = _pair(self.head(encoded.tokens.mean(2)))
        else:
            cls, tokens = self.encoder.choose(series, hidden, chosen)
        return Projected(
            summaries=_pair(self.head(cls)),
            tokens=self.head(tokens),
            networks=summaries,
        )


class Distillation(nn.Module):
    """Student, teacher, and what the one is asked about the other."""

    def __init__(
        self,
        encoder: SemantoksEncoder,
        head: Head,
        *,
        cls_weight: float = 1.0,
        token_weight: float = 0.5,
        summary_weight: float = 0.5,
        epsilon: float = 0.05,
    ) -> None:
        super().__init__()
        self.student = Branch(encoder, head)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.cls_weight = cls_weight
        self.token_weight = token_weight
        self.summary_weight = summary_weight
        self.epsilon = epsilon

    def forward(
        self,
        views: Float[Tensor, "batch view roi time"],
        masks: Bool[Tensor, "batch view network patch"] | None,
        *,
        curriculum: float = 0.0,
        absent: Bool[Tensor, "batch network"] | None = None,
        share: Share | None = None,
    ) -> LossTerms:
        """Compare the student, on masked windows, with the teacher, on whole ones.

        total = w_cls L_CLS + w_token L_Tok + w_summary · curriculum · L_TTR
        """
        networks = curriculum > 0 and self.summary_weight > 0
        missing = None if absent is None else self._lattice(absent, views)
        seen = missing if masks is None else masks if missing is None else masks | missing
        chosen = torch.empty(0, dtype=torch.long, device=views.device)
        if masks is not None and self.token_weight > 0:
            chosen = _places(masks if missing is None else masks & ~missing)
        student: Projected = self.student(views, seen, chosen, networks=networks)
        with torch.no_grad():
            teacher: Projected = self.teacher(views, missing, chosen, networks=networks)
        if share is not None:
            student, teacher = student.gathered(share), teacher.gathered(share)
            absent = None if absent is None else share.gather(absent.float()) > 0

        agreement = compression(student.summaries, teacher.summaries)
        spread = expansion(student.summaries, teacher.summaries, epsilon=self.epsilon)
        total = self.cls_weight * (-agreement - spread)

        token = None
        if masks is not None and self.token_weight > 0:
            window = chosen // masks[0, 0].numel()
            n_windows = masks.shape[0] * masks.shape[1]
            token = -token_agreement(student.tokens, teacher.tokens, window, n_windows)
            token = token if share is None else share.mean(token)
            total = total + self.token_weight * token

        summary = None
        if student.networks is not None and teacher.networks is not None:
            ours, theirs = _rows(student.networks, absent), _rows(teacher.networks, absent)
            summary = -compression(ours, theirs) - expansion(ours, theirs, epsilon=self.epsilon)
            total = total + self.summary_weight * curriculum * summary
        return LossTerms(total, agreement, spread, token, summary)

    def _lattice(
        self, absent: Bool[Tensor, "batch network"], views: Float[Tensor, "batch view roi time"]
    ) -> Bool[Tensor, "batch view network patch"]:
        """Spread what is absent over both views and all patches."""
        patches = views.shape[-1] // self.student.encoder.patch
        return absent[:, None, :, None].expand(-1, 2, -1, patches)

    @torch.no_grad()
    def update_teacher(self, momentum: float) -> None:
        """Move the teacher towards the student: θ_t ← m θ_t + (1 - m) θ_s."""
        teacher: list[Tensor] = [*self.teacher.parameters()]
        student: list[Tensor] = [*self.student.parameters()]
        torch._foreach_lerp_(teacher, student, 1.0 - momentum)


def _places(asked: Bool[Tensor, "batch view network patch"]) -> Int[Tensor, "token"]:
    """Find the tokens that are asked for among all view * batch * network * patch."""
    return asked.transpose(0, 1).flatten().nonzero().squeeze(1)


def _pair(both: Tensor) -> tuple[Tensor, Tensor]:
    """Part what was computed for both views at once."""
    first, second = both.chunk(2)
    return first, second


def _rows(
    pair: tuple[Tensor, Tensor], absent: Bool[Tensor, "batch network"] | None
) -> tuple[Tensor, Tensor]:
    """Put the networks of all scans below one another, but for those that are absent."""
    if absent is None:
        return pair[0].flatten(0, 1), pair[1].flatten(0, 1)
    return pair[0][~absent], pair[1][~absent]
