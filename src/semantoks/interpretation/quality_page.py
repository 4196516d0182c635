"""The quality sheet of a store: one page on which a bad scan is seen at a glance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from semantoks.data.quality import MEASURES, THRESHOLD, Measure, outliers, read_bad_networks
from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.files import replacing
from semantoks.interpretation.figures.canvas import render
from semantoks.interpretation.figures.panels import draw_bad_rois, draw_bars, draw_quality
from semantoks.interpretation.page import Block, Picture, Section, Table, Words, render_page

_MOST_ROWS: Final = 200
_MOST_DRAWN: Final = 60
_MOST_AT_ONCE: Final = 25

_READING: Final = (
    ("length", "Seconds of recording; short scans make noisy features."),
    ("mean framewise displacement", "Head motion in mm, where the source says it."),
    ("share of volumes scrubbed", "Volumes that the source or a reader censored."),
    ("share of ROIs with signal", "ROIs that are neither flat nor missing."),
    (
        "temporal signal to noise",
        "Mean over standard deviation in time, the median ROI; not known of centred series.",
    ),
    ("standard deviation", "Of the median ROI, as the file has it; a scale error stands out."),
    (
        "share of variance at 0.01-0.1 Hz",
        "Where resting-state fluctuations are; low where fast noise prevails, near 1 where the "
        "source was filtered already.",
    ),
    ("share of volumes that jump", "DVARS five robust deviations above its median."),
    ("largest jump", "Largest DVARS over its median."),
    (
        "share of the global signal",
        "Mean correlation of all pairs of ROIs: high where motion or breathing moves all of them.",
    ),
    (
        "connectivity with log distance",
        "Correlation of connectivity and the logarithm of distance. It is negative in real brains; "
        "near zero or above, the ROIs are in another order than the atlas says, or noise prevails.",
    ),
    (
        "within minus between networks",
        "Mean Fisher z of pairs in the same network less that of others; positive in real brains "
        "in the right order.",
    ),
)


def write_quality_page(store: Store, table: pd.DataFrame, out: Path) -> Path:
    """Write the quality sheet of a store as one self-contained html page."""
    missing = {"scan", "n_samples", "bad_networks"} - set(table.columns)
    if missing:
        raise InputError(
            f"the quality table of {store.path} has no column {', '.join(sorted(missing))}; "
            "prepare the store again."
        )
    table = _complete(table, store)
    found = outliers(table)
    page = render_page(
        f"semantoks quality: {store.path.resolve().name.lstrip('.')}",
        f"{len(table):,} scans found, {len(store):,} kept, atlas {store.atlas.name}",
        [
            _summary(table, found),
            _distributions(table, found),
            _coverage(table, store),
            _refused(table),
            Section("reading", "How to read it", [_legend()]),
        ],
    )
    try:
        with replacing(out) as beside:
            beside.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"the page {out} cannot be written: {error.strerror}.") from error
    return out


def _complete(table: pd.DataFrame, store: Store) -> pd.DataFrame:
    """Add site and motion of the kept scans where the quality table does not say them."""
    known = store.scans.set_index(store.scans["scan"].astype(str))
    table = table.assign(scan=table["scan"].astype(str))
    for column in ("site", "motion", "share_scrubbed"):
        if column not in table.columns and column in known.columns:
            table[column] = table["scan"].map(known[column])
    for column in ("category", "reason"):
        if column not in table.columns:
            table[column] = ""
    return table.assign(
        category=table["category"].fillna(""), reason=table["reason"].fillna("")
    ).reset_index(drop=True)


def _known(table: pd.DataFrame) -> list[Measure]:
    """Return the measures that are known of at least one scan."""
    return [m for m in MEASURES if m.column in table.columns and table[m.column].notna().any()]


def _summary(table: pd.DataFrame, found: pd.DataFrame) -> Section:
    """Count, and list the scans that stand out."""
    refused = table["category"] != ""
    standing = found.groupby("scan", sort=False).agg(
        worst=("distance", "max"), n=("measure", "size"), measures=("measure", _joined)
    )
    rows = [
        [str(scan), measures, f"{n}", f"{worst:.1f}"]
        for scan, worst, n, measures in standing.head(_MOST_ROWS).itertuples()
    ]
    blocks: list[Block] = [
        Words(
            f"{int(refused.sum()):,} of {len(table):,} scans were refused. {len(standing):,} "
            f"stand out by at least {THRESHOLD:g} robust standard deviations in one measure or "
            "more, held against the scans of their site (sites of fewer than ten scans: against "
            "all). Standing out is no verdict: look at these first."
        )
    ]
    headings = ["scan", "stands out in", "measures", "robust deviations"]
    if rows:
        caption = "Scans that stand out, the farthest first."
        blocks.append(Table(headings, rows[:_MOST_AT_ONCE], caption))
    if len(rows) > _MOST_AT_ONCE:
        more = rows[_MOST_AT_ONCE:]
        blocks.append(Table(headings, more, f"The next {len(more)}", folded=True))
    return Section("summary", "Summary", blocks)


def _joined(names: pd.Series[str]) -> str:
    """Join names in words."""
    return ", ".join(name.replace("_", " ") for name in names)


def _distributions(table: pd.DataFrame, found: pd.DataFrame) -> Section:
    """Draw every scan in every measure."""
    measures = _known(table)
    picture = render(
        draw_quality(table, measures, found),
        "quality",
        "Every scan as a dot in every measure, scans that stand out in orange",
    )
    unknown = [m.title for m in MEASURES if m not in measures]
    blocks: list[Block] = [
        Picture(
            picture,
            "Every dot is a scan, sites side by side. Orange: stands out in the suspicious "
            "direction; the farthest of three sites are named.",
        )
    ]
    if unknown:
        blocks.append(Words(f"Not known of any scan: {', '.join(unknown)}."))
    return Section("measures", "Every scan in every measure", blocks)


def _coverage(table: pd.DataFrame, store: Store) -> Section:
    """Show flat and missing ROIs by network."""
    names = store.atlas.network_names
    sizes = np.array(store.atlas.network_sizes)
    counts = np.zeros((len(table), len(names)))
    for row, text in enumerate(table["bad_networks"].fillna("{}").astype(str)):
        for name, count in read_bad_networks(text).items():
            counts[row, names.index(name)] = count
    affected = np.flatnonzero(counts.any(axis=1))
    if not len(affected):
        return Section("coverage", "Coverage", [Words("Every ROI of every scan carries signal.")])
    worst = affected[np.argsort(-counts[affected].sum(axis=1), kind="stable")][:_MOST_DRAWN]
    totals = {n: int(k) for n, k in zip(names, (counts > 0).sum(axis=0), strict=True) if k}
    shown = f"The {len(worst)} worst of them" if len(worst) < len(affected) else "They"
    return Section(
        "coverage",
        "Coverage",
        [
            Words(
                f"{len(affected):,} of {len(table):,} scans have flat or missing ROIs. {shown} "
                "are drawn. A network without a single usable ROI is masked in the model."
            ),
            Picture(
                render(
                    draw_bad_rois(
                        counts[worst] / sizes, [str(s) for s in table["scan"].iloc[worst]], names
                    ),
                    "badrois",
                    "Share of flat or missing ROIs by scan and network",
                ),
                "Share (%) of the ROIs of a network that carry no signal in a scan.",
            ),
            Picture(
                render(draw_bars(totals, "scans"), "badnetworks", "Scans with bad ROIs a network"),
                "Scans that lack at least one ROI of a network.",
            ),
        ],
    )


def _refused(table: pd.DataFrame) -> Section:
    """List who was refused, and why."""
    refused = table[table["category"] != ""]
    if refused.empty:
        return Section("refused", "Refused scans", [Words("No scan was refused.")])
    columns: Sequence[str] = ["scan", "category", "reason"]
    rows = refused[list(columns)].head(_MOST_ROWS).astype(str).to_numpy().tolist()
    counts = refused["category"].value_counts()
    return Section(
        "refused",
        "Refused scans",
        [
            Words(", ".join(f"{n:,} {name}" for name, n in counts.items()) + "."),
            Table(columns, rows, f"Scans that are not in the store ({len(rows)} shown)."),
        ],
    )


def _legend() -> Table:
    """Say what each measure means."""
    return Table(["measure", "meaning"], [list(row) for row in _READING], "What is measured.")
