"""A batch that many processes share: each computes a part, the loss sees all of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Share(NamedTuple):
    """The scans of a batch that this process computes.

    Every process computes the loss of the whole batch from what it gathers, and its own part of
    the gradient by going back from there. So the gradients of the weights must be *summed* over
    processes, and both are what one process would have found.
    """

    start: int
    stop: int
    total: int

    def gather(self, rows: Tensor) -> Tensor:
        """Put the rows of all processes below one another, in the order of the batch."""
        everyone: Tensor = _Gather.apply(rows, self.start, self.total)  # type: ignore[no-untyped-call]
        return everyone

    def sum(self, value: Tensor) -> Tensor:
        """Add a value over the processes."""
        total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
        return total

    def highest(self, value: Tensor) -> Tensor:
        """Take the highest value of the processes; no gradient."""
        highest = value.detach().clone()
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
        return highest

    def mean(self, value: Tensor) -> Tensor:
        """Average a mean over scans over the processes, each by the number of its scans."""
        weighted = value * ((self.stop - self.start) / self.total)
        average: Tensor = _Sum.apply(weighted)  # type: ignore[no-untyped-call]
        return average


class _Gather(torch.autograd.Function):
    """Fill in one's own rows and add the others'; one's own gradient comes back."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, start: int, total: int) -> Tensor:
        ctx.part = slice(start, start + len(rows))
        everyone = rows.new_zeros(total, *rows.shape[1:])
        everyone[ctx.part] = rows
        dist.all_reduce(everyone)
        return everyone

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        # No sum: the loss is the same one on every process, not one of many to be added.
        return gradients[0][ctx.part], None, None


class _Sum(torch.autograd.Function):
    """Add the values of all processes; the gradient comes back as it is."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
