"""A run as one html page that a person looks at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from semantoks.errors import InputError
from semantoks.files import replacing
from semantoks.interpretation.cohort import cohort_section
from semantoks.interpretation.contents import read_run
from semantoks.interpretation.knowledge import (
    choose_phenotypes,
    map_section,
    scores_section,
    similarity_section,
)
from semantoks.interpretation.page import render_page
from semantoks.interpretation.sections import (
    health_section,
    provenance_section,
    summary_section,
    training_section,
)


def write_report(
    run: str | Path,
    *,
    embeddings: Path | None = None,
    comparisons: Sequence[Path] = (),
    out: Path | None = None,
    phenotypes: Sequence[str] = (),
    store: Path | None = None,
) -> Path:
    """Write what a run is and what its features hold as one self-contained html page.

    Parameters
    ----------
    run : str or Path
        Folder that ``semantoks pretrain`` wrote.
    embeddings : Path, optional
        File that ``semantoks embed`` wrote; by default every embeddings*.parquet of the run.
    comparisons : sequence of Path
        Folders that ``semantoks probe`` wrote; by default every probe* of the run.
    out : Path, optional
        The page; by default report.html in the run. One that stands there is replaced.
    phenotypes : sequence of str
        Columns that maps are coloured by; by default the targets of the comparisons, otherwise
        the first column with few categories.
    store : Path, optional
        Where the store is now, if it was moved since training.

    Returns
    -------
    Path
        The page. What the run does not hold yet is named in it with the command that makes it.

    Raises
    ------
    InputError
        If the run or a file of it cannot be read, the store moved or changed, or there is no such
        phenotype.
    """
    folder = Path(run)
    contents = read_run(folder, embeddings=embeddings, comparisons=comparisons, store=store)
    chosen = choose_phenotypes(contents, phenotypes)
    path = out or folder / "report.html"
    if not path.parent.is_dir():
        raise InputError(f"the report {path} cannot be written: make its folder first.")
    page = render_page(
        f"semantoks report: {folder.resolve().name}",
        f"trained on {contents.store.path.resolve().name}, atlas {contents.store.atlas.name}",
        [
            summary_section(contents),
            cohort_section(contents),
            training_section(contents),
            health_section(contents),
            similarity_section(contents),
            map_section(contents, chosen),
            scores_section(contents),
            provenance_section(contents),
        ],
    )
    try:
        with replacing(path) as beside:
            beside.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report {path} cannot be written: {error.strerror}.") from error
    return path
