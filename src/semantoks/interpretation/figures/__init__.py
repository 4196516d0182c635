"""Every picture of a report; the one part of the package that imports matplotlib.

Pictures are drawn on `Figure` objects, never through pyplot, so that drawing changes nothing
outside; `render` turns one into text that stands inside an html page.
"""

from __future__ import annotations

from semantoks.interpretation.figures.canvas import render
from semantoks.interpretation.figures.panels import (
    Curve,
    draw_bad_rois,
    draw_bars,
    draw_curves,
    draw_distributions,
    draw_map,
    draw_quality,
    draw_similarity,
    is_continuous,
)
from semantoks.interpretation.figures.scores import (
    ScalingAxis,
    ScoreAxis,
    draw_scaling,
    draw_scores,
)

__all__ = [
    "Curve",
    "ScalingAxis",
    "ScoreAxis",
    "draw_bad_rois",
    "draw_bars",
    "draw_curves",
    "draw_distributions",
    "draw_map",
    "draw_quality",
    "draw_scaling",
    "draw_scores",
    "draw_similarity",
    "is_continuous",
    "render",
]
