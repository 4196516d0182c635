"""The part of a report that tells who was scanned: sites, lengths, quality, and who was refused."""

from __future__ import annotations

import numpy as np
import pandas as pd

from semantoks.interpretation.contents import RunContents, known_text
from semantoks.interpretation.figures import draw_bars, draw_distributions, render
from semantoks.interpretation.page import Block, Picture, Section, Table, Words


def cohort_section(contents: RunContents) -> Section:
    """Show who was scanned where, for how long, and how well."""
    store = contents.store
    scans = store.scans
    sites = known_text(scans["site"]).fillna("site unknown").value_counts()
    minutes = scans["length"].to_numpy(dtype=np.float64) * store.t_r / 60
    columns = {
        f"scan length (min, at {store.t_r:g} s a sample)": minutes,
        "repetition time as measured (s)": scans["t_r"].to_numpy(dtype=np.float64),
        "coverage (% of ROIs with signal)": 100 * scans["coverage"].to_numpy(dtype=np.float64),
        "motion (mean framewise displacement, mm)": scans["motion"].to_numpy(dtype=np.float64),
    }
    blocks: list[Block] = [
        Words(
            f"{len(scans):,} scans of {store.n_subjects:,} subjects, {minutes.sum() / 60:,.1f} "
            f"hours in all."
        ),
        Picture(
            render(draw_bars(dict(sites), "scans"), "sites", "Number of scans at every site"),
            "Scans at every site. A site with few scans hardly shapes what is learned, and says "
            "little when it is left out for testing.",
        ),
        Picture(
            render(
                draw_distributions(columns), "scans",
                "Histograms of scan length, repetition time, coverage and motion",
            ),
            "How many scans have which length, repetition time, coverage and motion. Scans at the "
            "edge of a histogram are worth a look.",
        ),
    ]  # fmt: skip
    return Section("cohort", "Cohort", [*blocks, *_refused(store.refused)])


def _refused(refused: pd.DataFrame) -> list[Block]:
    """List the scans that were left out."""
    if refused.empty:
        return [Words("No scan was refused when the store was prepared.")]
    counts = refused["category"].value_counts()
    shown = refused[["scan", "category", "reason"]].head(200)
    more = f", the first {len(shown)}" if len(refused) > len(shown) else ""
    return [
        Table(
            ["reason for refusal", "scans"],
            [[str(name), f"{n:,}"] for name, n in counts.items()],
            "Scans that were refused when the store was prepared.",
        ),
        Table(
            ["scan", "category", "reason"],
            shown.astype(str).to_numpy().tolist(),
            f"Every refused scan by name{more}",
            folded=True,
        ),
    ]
