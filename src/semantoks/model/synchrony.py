"""What networks do together: covariances of a few learned time courses, as a part of tokens."""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from semantoks.data.atlas import Atlas
from semantoks.errors import ConfigurationError

Start = Literal["random", "principal"]
"""The mixtures that time courses are at first: the mean and random ones, or principal ones."""
Span = Literal["patch", "window"]
"""Over how many samples covariances are taken: those of a token's patch, or of all patches."""

FLOOR: Final = 1e-2
"""Power that is added to that of every time course, so that silence has no direction.

ROIs have a variance of 1 over their scan; the noise of training has 0.01."""


class Synchrony(nn.Module):
    """Tell every network how its time courses go together with those of all networks.

    A time course is a learned linear mixture of the ROIs of a network. For two of them, x and y,
    of a patch of T samples, with m(x, y) = Σ_t x_t y_t / T (the mean of a z-scored scan is 0),

    synchrony = m(x, y) / √((m(x, x) + floor) (m(y, y) + floor)),

    and log(m(x, x) + floor) for a time course with itself. What a network receives is
    LayerNorm(Linear(its time courses × those of all networks)).
    """

    def __init__(
        self, atlas: Atlas, dim: int, patch: int, time_courses: int, span: Span = "patch"
    ) -> None:
        super().__init__()
        self.dim, self.patch, self.span = dim, patch, span
        self.counts = [min(time_courses, size) for size in atlas.network_sizes]
        self.weights = nn.ParameterList(
            nn.Parameter(_mean_and_random(count, size))
            for count, size in zip(self.counts, atlas.network_sizes, strict=True)
        )
        entries = sum(self.counts)
        self.projections = nn.ModuleList(
            nn.Sequential(nn.Linear(count * entries, dim), nn.LayerNorm(dim))
            for count in self.counts
        )
        self.order: Tensor
        order = torch.cat([torch.as_tensor(indices) for indices in atlas.network_indices])
        self.register_buffer("order", order, persistent=False)
        self.owner: Tensor
        owner = torch.as_tensor(np.repeat(np.arange(len(self.counts)), self.counts))
        self.register_buffer("owner", owner, persistent=False)

    @torch.no_grad()
    def start_principal(self, correlation: Float[Tensor, "roi roi"]) -> None:
        """Let every network's time courses be the leading principal components of its ROIs."""
        ordered = correlation[self.order.cpu()][:, self.order.cpu()].double()
        start = 0
        for weight in self.weights:
            count, size = weight.shape
            own = ordered[start : start + size, start : start + size]
            leading = torch.linalg.eigh(own).eigenvectors.flip(1)[:, :count].T
            sign = torch.where(leading.sum(1, keepdim=True) < 0, -1.0, 1.0)
            weight.copy_(leading * sign)
            start += size

    def courses(
        self, series: Float[Tensor, "batch roi time"]
    ) -> Float[Tensor, "batch course time"]:
        """Mix the ROIs of every network."""
        with torch.autocast(series.device.type, enabled=False):
            mixtures: Tensor = torch.block_diag(*self.weights)  # type: ignore[no-untyped-call]
            return mixtures @ series.index_select(1, self.order).float()

    def synchrony(
        self,
        series: Float[Tensor, "batch roi time"],
        hidden: Bool[Tensor, "batch network patch"] | None = None,
    ) -> Float[Tensor, "batch span course course"]:
        """Compare all time courses with one another."""
        with torch.autocast(series.device.type, enabled=False):
            batch, _, time = series.shape
            courses = self.courses(series).view(batch, -1, time // self.patch, self.patch)
            courses = courses.transpose(1, 2)
            if hidden is not None:
                # Silenced here, a hidden network cannot show anywhere further on.
                seen = (~hidden).transpose(1, 2).index_select(2, self.owner).to(courses)
                courses = courses * seen[..., None]
            moments = courses @ courses.transpose(2, 3) / self.patch
            if self.span == "window" and hidden is not None:
                both = (seen.transpose(1, 2) @ seen).clamp(min=1)
                moments = (moments.sum(1) / both)[:, None]
            elif self.span == "window":
                moments = moments.mean(1, keepdim=True)
            power = moments.diagonal(dim1=2, dim2=3) + FLOOR
            scale = power.rsqrt()
            alike = moments * scale[..., None] * scale[:, :, None]
            own = torch.eye(alike.shape[-1], dtype=torch.bool, device=alike.device)
            return torch.where(own, power.log()[..., None], alike)

    def forward(
        self,
        series: Float[Tensor, "batch roi time"],
        hidden: Bool[Tensor, "batch network patch"] | None = None,
    ) -> Float[Tensor, "batch network patch dim"]:
        """Say of every network and patch how it goes together with the others."""
        batch, patches = len(series), series.shape[2] // self.patch
        blocks = torch.split(self.synchrony(series, hidden), self.counts, dim=2)
        told = []
        for n, (block, project) in enumerate(zip(blocks, self.projections, strict=True)):
            rows = block.flatten(2).expand(-1, patches, -1).flatten(0, 1)
            if hidden is None:
                told.append(project(rows).float())
                continue
            (shown,) = (~hidden[:, n]).flatten().nonzero(as_tuple=True)
            known = project(rows.index_select(0, shown)).float()
            told.append(known.new_zeros(len(rows), self.dim).index_copy(0, shown, known))
        return torch.stack([x.view(batch, patches, self.dim) for x in told], dim=1)


def check_time_courses(time_courses: int, span: Span, spatial: str) -> None:
    """Refuse time courses that do not fit the rest of an encoder."""
    if isinstance(time_courses, bool) or not isinstance(time_courses, int) or time_courses < 0:
        raise ConfigurationError(
            f"time_courses is {time_courses!r}; it must be a whole number of time courses a "
            "network, or 0 for none."
        )
    if span not in ("patch", "window"):
        raise ConfigurationError(f"time_course_span is {span!r}; it is 'patch' or 'window'.")
    if not time_courses and span != "patch":
        raise ConfigurationError(
            f"time_course_span = {span} has no effect without time courses; set time_courses too."
        )
    if time_courses and spatial == "maximal":
        raise ConfigurationError(
            "time_courses are mixtures of the ROIs of a network, but spatial = maximal gives every "
            "ROI its own token; set spatial = networks, or time_courses = 0."
        )


def _mean_and_random(count: int, size: int) -> Tensor:
    """Draw orthonormal mixtures (count, size): the mean of all ROIs first, then random ones."""
    directions = torch.randn(size, count)
    directions[:, 0] = 1.0
    mixtures = torch.linalg.qr(directions).Q.T
    signed: Tensor = mixtures * mixtures[:1].sum().sign()
    return signed
