"""What networks do together: covariances of a few learned time courses, as a part of tokens."""

from __future__ import annotations

from typing import Final, Literal

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

    Parameters
    ----------
    atlas : Atlas
        Which ROI belongs to which network.
    dim : int
        Width of a token.
    patch : int
        Samples a patch.
    time_courses : int
        Time courses a network; one with fewer ROIs has as many as it has ROIs.
    span : {"patch", "window"}
        Whether m is taken over a token's own patch, or over all patches that show both networks.
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
        owner = torch.repeat_interleave(torch.arange(len(self.counts)), torch.tensor(self.counts))
        self.register_buffer("owner", owner, persistent=False)

    @torch.no_grad()
    def start_principal(self, correlation: Float[Tensor, "roi roi"]) -> None:
        """Let every network's time courses be the leading principal components of its ROIs.

        Parameters
        ----------
        correlation : Tensor of shape (roi, roi)
            Correlation of the ROIs of a cohort, on average over its scans.
        """
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
        """Mix the ROIs of every network.

        Parameters
        ----------
        series : Tensor of shape (batch, roi, time)
            Standardized windows.

        Returns
        -------
        Tensor of shape (batch, course, time)
            Time courses, those of a network together, in the order of the networks; float32
            whatever the precision around.
        """
        with torch.autocast(series.device.type, enabled=False):
            mixtures: Tensor = torch.block_diag(*self.weights)  # type: ignore[no-untyped-call]
            return mixtures @ series.index_select(1, self.order).float()

    def synchrony(
        self,
        series: Float[Tensor, "batch roi time"],
        hidden: Bool[Tensor, "batch network patch"] | None = None,
    ) -> Float[Tensor, "batch span course course"]:
        """Compare all time courses with one another.

        Parameters
        ----------
        series : Tensor of shape (batch, roi, time)
            Standardized windows; time is a multiple of the patch.
        hidden : Tensor of shape (batch, network, patch), optional
            True where a network must not be looked at: its synchrony with any other is 0.

        Returns
        -------
        Tensor of shape (batch, span, course, course)
            Synchrony in every patch, or once, if the span is the window.
        """
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
        """Say of every network and patch how it goes together with the others.

        Parameters
        ----------
        series : Tensor of shape (batch, roi, time)
            Standardized windows; time is a multiple of the patch.
        hidden : Tensor of shape (batch, network, patch), optional
            True for networks that must not be looked at in a patch; nothing is computed for them,
            and they are 0.

        Returns
        -------
        Tensor of shape (batch, network, patch, dim)
            What is to be added to tokens.
        """
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
    """Refuse time courses that do not fit the rest of an encoder.

    Parameters
    ----------
    time_courses : int
        Learned time courses a network; 0 for none.
    span : {"patch", "window"}
        Over how many samples their covariances are taken.
    spatial : {"networks", "maximal", "minimal"}
        What a token stands for.

    Raises
    ------
    ConfigurationError
        If the number is negative, the span is none or without effect, or tokens stand for ROIs.
    """
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
