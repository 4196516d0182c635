"""A store to a page that shows how good its scans are."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Final

from semantoks.cli.application import SILENT, app
from semantoks.terminal import Output, complain

PAGE: Final = "quality.html"
"""The page in the folder of a store."""


@app.command(sort_key=25)
def quality(store: Path, *, out: Path | None = None, output: Output = SILENT) -> None:
    """Draw how good every scan is, kept or refused; who stands out is named.

    Length, motion, coverage, temporal signal to noise, share in band, jumps, global signal, and
    connectivity with distance. The numbers are in STORE/quality.parquet and STORE/coverage.csv.

    Example: semantoks quality abide.store

    Parameters
    ----------
    store : Path
        The store.
    out : Path
        The page; by default STORE/quality.html. One that is there is replaced.
    output : Output
        How to speak.
    """
    page = _draw(store, out)
    output.say(f"The quality of the scans: {page}.")
    output.result({"quality_page": str(page)})


def draw_quality_page(store: Path, output: Output) -> Path | None:
    """Draw the page of a store into it; nothing else may be lost if that fails."""
    try:
        return _draw(store, None)
    except Exception as error:
        if output.debug:
            traceback.print_exc()
        complain(
            f"the page of quality could not be drawn ({type(error).__name__}: {error}); everything "
            "else is done. To try it again on a store: semantoks quality STORE."
        )
        return None


def _draw(path: Path, out: Path | None) -> Path:
    """Draw the page of a store."""
    from semantoks.data.store import Store
    from semantoks.interpretation.quality import write_quality_page

    store = Store.open(path)
    return write_quality_page(store, store.quality, path / PAGE if out is None else out)
