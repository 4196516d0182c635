"""Where a score comes from, as one page: what to believe first, then networks, pairs and ROIs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pandas as pd
from matplotlib.figure import Figure

from semantoks.errors import InputError
from semantoks.evaluation.metrics import METRIC_NAMES
from semantoks.files import replacing
from semantoks.interpretation.figures.canvas import render
from semantoks.interpretation.figures.explanations import draw_brain, draw_importance, draw_pairs
from semantoks.interpretation.page import (
    Block,
    Findings,
    Picture,
    Section,
    Table,
    Words,
    render_page,
)
from semantoks.interpretation.standing import number, with_interval

if TYPE_CHECKING:
    from semantoks.benchmark.explanation import Explanation

_VERDICTS: Final = {True: "above", False: "below", None: "open"}
_NOT_SAID: Final = (
    "A drop says what this probe on these features uses, not where in the brain a trait is: what "
    "two networks both know is lost only where both are hidden. A pattern says what goes with the "
    "score, not what the probe uses. Neither says what causes what. What scanners, motion and age "
    "leave in connectivity is in the map too, unless it was taken out or held apart."
)


def write_explanation_page(folder: Path, found: Explanation) -> Path:
    """Write explain.html and its figures into the folder of an explanation."""
    settings, pairs, gradients = found.settings, found.pairs, found.gradients
    believable = found.believable
    metric = METRIC_NAMES[settings["metric"]].split(" (")[0]
    pictures: dict[str, Figure | None] = {
        "networks": draw_importance(found.networks, settings, believable)
    }
    if len(pairs):
        pictures["pairs"] = draw_pairs(pairs, believable)
        pictures["brain"] = draw_brain(found.rois, believable)
    if len(gradients):
        pictures["gradients"] = draw_brain(found.roi_gradients, believable)
    low, high = settings["score"][1:]
    said = (
        f"{settings['target']}, told from {settings['features']}: {metric} "
        f"{with_interval(settings['score'][0], low, high)} on people who were not learned from "
        f"({settings['n_subjects']:,} subjects, {settings['n_scans']:,} scans; chance "
        f"{settings['chance']:g})."
        + (f" Taken out: {', '.join(settings['confounds'])}." if settings["confounds"] else "")
    )
    sections = [
        Section(
            "believe", "May I believe it?", [Words(said), _findings(found.checks), Words(_NOT_SAID)]
        ),
        Section("networks", "Networks", _networks(found.networks, pictures["networks"])),
    ]
    if len(pairs):
        sections.append(
            Section("pairs", "Pairs of networks", _pairs(pairs, pictures, settings, believable))
        )
    if len(gradients):
        blocks = _gradients(gradients, pictures["gradients"], believable)
        sections.append(Section("gradients", "Gradients", blocks))
    page = folder / "explain.html"
    try:
        for name, figure in pictures.items():
            if figure is not None:
                for suffix in ("png", "svg"):
                    with replacing(folder / f"{name}.{suffix}") as beside:
                        figure.savefig(beside, format=suffix, dpi=200)
        with replacing(page) as beside:
            title = f"Where {settings['target']} comes from"
            beside.write_text(render_page(title, "", sections), encoding="utf-8")
    except OSError as error:
        raise InputError(f"the page {page} cannot be written: {error.strerror}.") from error
    return page


def _findings(checks: pd.DataFrame) -> Findings:
    """Say every check with its verdict."""
    words = {True: "passed", False: "failed", None: "for your judgement"}
    items = []
    for check, value, passed, said in checks.itertuples(index=False):
        known = None if passed is None or pd.isna(passed) else bool(passed)
        number = "" if pd.isna(value) else f"{value:.3f}; "
        items.append((f"{check}, {words[known]}", f"{number}{said}", _VERDICTS[known]))
    return Findings(items)


def _networks(networks: pd.DataFrame, figure: Figure | None) -> list[Block]:
    """Show what is lost where each network is hidden."""
    blocks: list[Block] = []
    if figure is not None:
        blocks.append(
            Picture(
                render(figure, "networks", "Drop of the score where a network is hidden"),
                "Left: what the score loses where a network is hidden (bars: 95 % over subjects); "
                "with the probe as it is, and with one that learns again without it. In brackets "
                "the ROIs of a network: larger ones have more to lose. Right: one network alone.",
            )
        )
    rows = [
        [
            str(row["network"]), str(row["n_roi"]),
            with_interval(row["drop"], row["low"], row["high"]), f"{row['p']:.3f}",
            number(row['refit_drop']), number(row['alone']),
        ]
        for _, row in networks.iterrows()
    ]  # fmt: skip
    headings = ["network", "ROIs", "drop [95\u00a0%]", "p", "drop, learned again", "alone"]
    caption = "p: how often permuted labels make any network drop as much."
    if "random_drop" in networks:
        headings.append("random ROIs")
        caption += " Random ROIs: the mean drop where as many ROIs are hidden at random."
        for row, drop in zip(rows, networks["random_drop"], strict=True):
            row.append(number(drop))
    return [*blocks, Table(headings, rows, caption)]


def _gradients(gradients: pd.DataFrame, brain: Figure | None, believable: bool) -> list[Block]:
    """Show what networks add to the score."""
    blocks: list[Block] = []
    if brain is not None:
        said = "What each ROI adds to the difference of the classes, or goes with the value, from "
        words = "silence (its mean) on: integrated gradients, signed. "
        blocks.append(
            Picture(
                render(brain, "gradients", "ROIs in a glass brain"),
                said + words + _mark(believable),
            )
        )
    rows = [
        [str(name), str(n), with_interval(value, low, high), number(others)]
        for name, n, value, low, high, others in gradients.loc[
            :, ["network", "n_roi", "value", "low", "high", "against_others"]
        ].itertuples(index=False)
    ]
    headings = ["network", "ROIs", "adds [95\u00a0%]", "against others"]
    caption = "Against others: from another person's scan with random phases on."
    return [*blocks, Table(headings, rows, caption)]


def _mark(believable: bool, means: str = "more of the score") -> str:
    """Say what a colour means."""
    return f"Red: {means}." if believable else f"Grey, since a check failed; darker: {means}."


def _pairs(
    pairs: pd.DataFrame,
    pictures: Mapping[str, Figure | None],
    settings: Mapping[str, Any],
    believable: bool,
) -> list[Block]:
    """Show how edges go with the score."""
    classes = settings["classes"]
    sign = _mark(believable, f"towards {classes[1]!r}" if classes else "towards larger values")
    blocks: list[Block] = [
        Picture(
            render(pictures["pairs"], "pairs", "Pairs of networks"),  # type: ignore[arg-type]
            f"How the mean edge of two networks goes with the held-out score. {sign} Stars: "
            "p < .05 among the largest of all pairs.",
        )
    ]
    brain = pictures.get("brain")
    if brain is not None:
        blocks.append(
            Picture(
                render(brain, "brain", "ROIs in a glass brain"),
                f"The same for the mean of all edges of a ROI. {sign}",
            )
        )
    rows = [
        [str(a), str(b), with_interval(value, low, high), f"{p:.3f}"]
        for a, b, value, low, high, p in pairs.loc[
            :, ["network_a", "network_b", "value", "low", "high", "p"]
        ].itertuples(index=False)
    ]
    headings = ["network", "with", "correlation [95\u00a0%]", "p"]
    caption = "Patterns of all pairs, the strongest first."
    return [*blocks, Table(headings, rows, caption, folded=len(rows) > 12)]
