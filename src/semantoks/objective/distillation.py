"""Self-distillation: a student follows the moving average of itself."""

from __future__ import annotations

import copy
from typing import Literal, NamedTuple

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
    compression: Tensor  # agreement of the views
    expansion: Tensor | None  # spread of the scans
    token: Tensor | None
    summary: Tensor | None


class Projected(NamedTuple):
    """What the heads say of the two views of a batch: unit vectors, or logits of prototypes."""

    summaries: tuple[Tensor, Tensor]
    tokens: Tensor
    networks: tuple[Tensor, Tensor] | None
    encoded: tuple[Tensor, Tensor]  # [CLS] before the head

    def gathered(self, share: Share) -> Projected:
        """Return the summaries of all processes; tokens stay where they are."""

        def both(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return share.gather(pair[0]), share.gather(pair[1])

        networks = None if self.networks is None else both(self.networks)
        return self._replace(
            summaries=both(self.summaries), networks=networks, encoded=both(self.encoded)
        )


class Asked(NamedTuple):
    """What a step asks the student of, beside [CLS]."""

    hidden: Bool[Tensor, "batch view network patch"] | None  # from the student
    places: Int[Tensor, "token"]  # that it is asked for, among all view * batch * network * patch
    absent: Bool[Tensor, "batch network"] | None
    curriculum: float
    temperature: float
    share: Share | None

    def windows(self) -> tuple[Int[Tensor, "token"], int]:
        """Say to which window of how many every place belongs."""
        if self.hidden is None:
            raise TypeError("nothing is hidden")
        batch, views, networks, patches = self.hidden.shape
        return self.places // (networks * patches), batch * views


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
        chosen: Int[Tensor, "token"] | None,
        *,
        networks: bool,
    ) -> Projected:
        """Encode and project both views; of tokens those chosen, or all."""
        series = views.transpose(0, 1).flatten(0, 1)
        hidden = None if masks is None else masks.transpose(0, 1).flatten(0, 1)
        summaries = None
        if networks or chosen is None:  # over all tokens, so that nothing can be left out
            encoded: Encoding = self.encoder(series, hidden)
            cls, tokens = encoded.summary, encoded.tokens.flatten(0, 2)
            tokens = tokens if chosen is None else tokens.index_select(0, chosen)
            summaries = _pair(self.head(encoded.tokens.mean(2))) if networks else None
        else:
            cls, tokens = self.encoder.choose(series, hidden, chosen)
        return Projected(
            summaries=_pair(self.head(cls)),
            tokens=self.head(tokens),
            networks=summaries,
            encoded=_pair(cls),
        )


class Distillation(nn.Module):
    """Student, teacher, and what the one is asked about the other: the terms of SimDINO."""

    teacher_says = "masked"  # of which tokens: those that the student is asked of, or all

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
        temperature: float = 0.07,
    ) -> LossTerms:
        """Compare the student, on masked windows, with the teacher, on whole ones."""
        networks = curriculum > 0 and self.summary_weight > 0
        missing = None if absent is None else self._lattice(absent, views)
        seen = missing if masks is None else masks if missing is None else masks | missing
        chosen = torch.empty(0, dtype=torch.long, device=views.device)
        if masks is not None and self.token_weight > 0:
            chosen = _places(masks if missing is None else masks & ~missing)
        student: Projected = self.student(views, seen, chosen, networks=networks)
        with torch.no_grad():
            of_teacher = None if self.teacher_says == "all" else chosen
            teacher: Projected = self.teacher(views, missing, of_teacher, networks=networks)
        if share is not None:
            student, teacher = student.gathered(share), teacher.gathered(share)
            absent = None if absent is None else share.gather(absent.float()) > 0

        hidden = masks if self.token_weight > 0 else None
        asked = Asked(hidden, chosen, absent, curriculum, temperature, share)
        return self.terms(student, teacher, asked)

    def terms(self, student: Projected, teacher: Projected, asked: Asked) -> LossTerms:
        """Compute total = w_cls L_CLS + w_token L_Tok + w_summary · curriculum · L_TTR."""
        agreement = compression(student.summaries, teacher.summaries)
        spread = expansion(student.summaries, teacher.summaries, epsilon=self.epsilon)
        total = self.cls_weight * (-agreement - spread)

        token = None
        if asked.hidden is not None:
            token = -token_agreement(student.tokens, teacher.tokens, *asked.windows())
            token = token if asked.share is None else asked.share.mean(token)
            total = total + self.token_weight * token

        summary = None
        if student.networks is not None and teacher.networks is not None:
            ours = rows(student.networks, asked.absent)
            theirs = rows(teacher.networks, asked.absent)
            summary = -compression(ours, theirs) - expansion(ours, theirs, epsilon=self.epsilon)
            total = total + self.summary_weight * asked.curriculum * summary
        return LossTerms(total, agreement, spread, token, summary)

    def _lattice(
        self, absent: Bool[Tensor, "batch network"], views: Float[Tensor, "batch view roi time"]
    ) -> Bool[Tensor, "batch view network patch"]:
        """Spread what is absent over both views and all patches."""
        patches = views.shape[-1] // self.student.encoder.patch
        return absent[:, None, :, None].expand(-1, 2, -1, patches)

    def frozen(self) -> dict[nn.Parameter, Literal["gradient", "rate"]]:
        """Say which weights stay as they began in the first epochs, and how."""
        return {}

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


def rows(
    pair: tuple[Tensor, Tensor], absent: Bool[Tensor, "batch network"] | None
) -> tuple[Tensor, Tensor]:
    """Put the networks of all scans below one another, but for those that are absent."""
    if absent is None:
        return pair[0].flatten(0, 1), pair[1].flatten(0, 1)
    return pair[0][~absent], pair[1][~absent]
