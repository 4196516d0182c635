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
    """The terms of one step, before weighting, and their weighted total.

    Parameters
    ----------
    total : Tensor
        What is minimised.
    compression : Tensor
        Agreement of the two views' summaries (maximised).
    expansion : Tensor
        Spread of the summaries (maximised).
    token : Tensor or None
        Minus the agreement on masked tokens; None on steps without masks.
    summary : Tensor or None
        Minus compression and expansion of the network summaries; None once its weight is 0.
    """

    total: Tensor
    compression: Tensor
    expansion: Tensor
    token: Tensor | None
    summary: Tensor | None


class Projected(NamedTuple):
    """What the heads say of the two views of a batch, all of unit length.

    Parameters
    ----------
    summaries : pair of Tensor of shape (batch, dim)
        Of the [CLS] vectors.
    tokens : Tensor of shape (token, dim)
        Of the tokens that were chosen.
    networks : pair of Tensor of shape (batch, network, dim)
        Of the tokens' means over patches; None where no term asks for them.
    """

    summaries: tuple[Tensor, Tensor]
    tokens: Tensor
    networks: tuple[Tensor, Tensor] | None

    def gathered(self, share: Share) -> Projected:
        """Return the summaries of all processes; tokens stay where they are.

        Parameters
        ----------
        share : Share
            This process's part of the batch.

        Returns
        -------
        Projected
            Summaries and networks of the whole batch.
        """

        def both(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return share.gather(pair[0]), share.gather(pair[1])

        networks = None if self.networks is None else both(self.networks)
        return self._replace(summaries=both(self.summaries), networks=networks)


class Branch(nn.Module):
    """An encoder and the head that serves all of its outputs.

    Parameters
    ----------
    encoder : SemantoksEncoder
        Encoder.
    head : Head
        Head.
    """

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
        """Encode and project both views.

        Parameters
        ----------
        views : Tensor of shape (batch, 2, roi, time)
            Two windows a scan.
        masks : Tensor of shape (batch, 2, network, patch) or None
            True where a token is hidden.
        chosen : Tensor of int, shape (token,)
            Places of the tokens to project among all view * batch * network * patch.
        networks : bool
            Whether network summaries are projected too.

        Returns
        -------
        Projected
            Unit vectors.
        """
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
    """Student, teacher, and what the one is asked about the other.

    Parameters
    ----------
    encoder : SemantoksEncoder
        The student's encoder; the teacher begins as its copy.
    head : Head
        The student's head; the teacher's begins as its copy.
    cls_weight : float
        Weight of the term on the [CLS] outputs; it is computed, for the log, even if this is 0.
    token_weight : float
        Weight of the token term on masked steps.
    summary_weight : float
        Weight of the network-summary term at the beginning of its curriculum.
    epsilon : float
        Distortion of the coding rate.
    """

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

        Parameters
        ----------
        views : Tensor of shape (batch, 2, roi, time)
            Two augmented windows a scan.
        masks : Tensor of shape (batch, 2, network, patch) or None
            True where the student does not see a token; None on steps without masks.
        curriculum : float
            Between 1 and 0: how much of the network-summary term is left.
        absent : Tensor of shape (batch, network), optional
            True where a scan has no usable ROI of a network: neither branch sees its tokens, and
            no term asks about them.
        share : Share, optional
            Where many processes share a batch: which part of it the views are. Terms are then of
            the whole batch, and gradients must be summed over processes.

        Returns
        -------
        LossTerms
            The terms and their total.
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
        """Move the teacher towards the student: θ_t ← m θ_t + (1 - m) θ_s.

        Parameters
        ----------
        momentum : float
            Between 0 and 1: how much of the teacher stays.
        """
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
