"""Features as a BIDS derivative."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import pandas as pd

import semantoks
from semantoks.errors import InputError
from semantoks.evaluation.embedding import Embeddings, write_embeddings
from semantoks.files import new_folder

BIDS_VERSION: Final = "1.10.0"
TABLE: Final = "features.parquet"
"""All scans in one file, at the top of the dataset."""
_NOT_OF_BIDS: Final = "*.parquet\n*.parquet.json\n*.csv\n*.html\nscans.tsv\n"
"""Files that validators of BIDS would not know."""
_ENTITIES: Final = (
    *("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo", "part"),
    *("space", "res", "den"),
)
"""Entities that tell recordings apart, in the order of the standard (rules/entities.yaml of its
schema); only desc follows."""


def write_bids_derivatives(
    embeddings: Embeddings,
    folder: Path,
    *,
    sources: Mapping[str, str] | None = None,
    files: Iterable[Path] = (),
    phenotypes: pd.DataFrame | None = None,
) -> Path:
    """Write embeddings as a BIDS derivative dataset.

    Examples
    --------
    >>> import tempfile
    >>> frame = pd.DataFrame({"scan": ["a"], "subject": ["anna"], "mean_0000": [0.5]})
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     made = write_bids_derivatives(Embeddings(frame), Path(parent) / "out")
    ...     print((made / "sub-anna/func/sub-anna_desc-semantoks_features.tsv").read_text())
    mean_0000
    0.5
    <BLANKLINE>
    """
    stems = bids_stems(embeddings.frame)
    try:
        with new_folder(folder) as beside:
            _describe(beside, embeddings.provenance)
            write_embeddings(embeddings, beside / TABLE)
            written = _write_scans(beside, embeddings, stems, sources or {})
            known = pd.DataFrame(index=embeddings.frame.index) if phenotypes is None else phenotypes
            _write_indices(beside, embeddings.frame, stems, written, known)
            for file in files:
                shutil.copyfile(file, beside / file.name)
    except FileExistsError as error:
        raise InputError(f"{folder} exists already. Name another folder, or remove it.") from error
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"the dataset {folder} could not be written: {reason}.") from error
    return folder


def bids_stems(frame: pd.DataFrame) -> list[str]:
    """Give every scan a BIDS name.

    Names of scans that are BIDS names already keep the entities that tell recordings apart; others
    are named after subject and session, and numbered as runs where there are several.

    Examples
    --------
    >>> scans = ["sub-01_task-rest_desc-x", "b", "c"]
    >>> bids_stems(pd.DataFrame({"scan": scans, "subject": ["sub-01", "x_1", "x_1"]}))
    ['sub-01_task-rest', 'sub-x1_run-1', 'sub-x1_run-2']
    """
    empty = pd.Series("", index=frame.index)
    scans = frame["scan"].astype(str)
    subjects = frame.get("subject", empty).fillna("").astype(str)
    subjects = subjects.where(subjects != "", scans)
    sessions = frame.get("session", empty).fillna("").astype(str)
    people, visits = _labels("subjects", subjects, "sub"), _labels("sessions", sessions, "ses")
    stems = []
    for scan, subject, session in zip(scans, subjects, sessions, strict=True):
        found = dict(re.findall(r"(?:^|_)([a-z]+)-([A-Za-z0-9]+)", scan))
        entities = {name: found[name] for name in _ENTITIES if name in found}
        entities["sub"] = people[subject]
        if session:
            entities["ses"] = visits[session]
        stems.append(_join(entities))
    return _number(stems)


def _join(entities: Mapping[str, str]) -> str:
    """Write entities in the order of the standard."""
    return "_".join(f"{name}-{entities[name]}" for name in _ENTITIES if name in entities)


def _labels(what: str, values: pd.Series[str], prefix: str) -> dict[str, str]:
    """Make BIDS labels of letters and digits; two values must not become one."""
    labels: dict[str, str] = {}
    taken: dict[str, str] = {}
    for value in values.unique():
        label = re.sub(r"[^A-Za-z0-9]", "", value.removeprefix(f"{prefix}-"))
        if value and not label:
            raise InputError(f"{what}: {value!r} has no letter or digit to make a BIDS label of.")
        if label in taken:
            raise InputError(
                f"the {what} {taken[label]!r} and {value!r} would both be {prefix}-{label} in BIDS,"
                " which allows letters and digits only. Rename one, or write a table instead."
            )
        taken[label], labels[value] = value, label
    return labels


def _number(stems: list[str]) -> list[str]:
    """Tell scans of the same name apart as runs."""
    counts = pd.Series(stems).value_counts()
    seen: dict[str, int] = {}
    names = []
    taken = set(stems)
    for stem in stems:
        if counts[stem] == 1:
            names.append(stem)
            continue
        if "_run-" in stem:
            raise InputError(f"two scans have the same BIDS name {stem}; rename one.")
        seen[stem] = seen.get(stem, 0) + 1
        parts = dict(part.split("-", 1) for part in stem.split("_"))
        name = _join({**parts, "run": str(seen[stem])})
        if name in taken:
            raise InputError(f"two scans would have the same BIDS name {name}; rename one.")
        names.append(name)
    return names


def _describe(folder: Path, provenance: Mapping[str, Any]) -> None:
    """Write what the dataset is and who made it."""
    source = provenance.get("source") or provenance.get("store", {}).get("path")
    description = {
        "Name": "Features of functional MRI scans by Brain-Semantoks",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [
            {
                "Name": "semantoks",
                "Version": semantoks.__version__,
                "Description": "Frozen features of a self-distilled encoder (arXiv 2512.11582)",
            }
        ],
        "SourceDatasets": [{"URL": Path(source).resolve().as_uri()}] if source else [],
        "Provenance": dict(provenance),
    }
    _write_json(folder / "dataset_description.json", description)
    (folder / ".bidsignore").write_text(_NOT_OF_BIDS, encoding="utf-8")
    (folder / "README").write_text(
        "Features of functional MRI scans, made by semantoks.\n\n"
        f"{TABLE}: all scans, a row each. scans.tsv: which file is of which scan.\n"
        "sub-*/func/*_desc-semantoks_features.tsv: the same, a file a scan, with a JSON sidecar.\n"
        "dataset_description.json, Provenance: model, preprocessing, windows.\n"
        "quality.html, quality.parquet, coverage.csv, refused.csv, if there: how good the scans "
        "are.\n",
        encoding="utf-8",
    )


def _write_scans(
    folder: Path, embeddings: Embeddings, stems: list[str], sources: Mapping[str, str]
) -> list[str]:
    """Write a table and a sidecar a scan; return their places in the dataset."""
    provenance, names = embeddings.provenance, embeddings.feature_names
    common = {
        "Description": "Features of one scan, averaged over its windows",
        "Features": provenance.get("features", "unknown"),
        "Windows": provenance.get("windows"),
        "SamplesInWindow": provenance.get("window"),
        "Model": provenance.get("model", {}),
        "Atlas": provenance.get("atlas", {}).get("name"),
        "Preprocessing": provenance.get("preprocessing", {}).get("of_store"),
        "GeneratedBy": {"Name": "semantoks", "Version": semantoks.__version__},
    }
    header = "\t".join(names) + "\n"
    written = []
    for stem, scan, row in zip(
        stems, embeddings.frame["scan"].astype(str), embeddings.features, strict=True
    ):
        parts = [part for part in stem.split("_") if part.startswith(("sub-", "ses-"))]
        place = Path(*parts, "func", f"{stem}_desc-semantoks_features.tsv")
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        values = "\t".join(f"{value:.9g}" for value in row)
        (folder / place).write_text(f"{header}{values}\n", encoding="utf-8")
        own = {"Scan": scan, "Sources": [sources[scan]] if scan in sources else []}
        _write_json((folder / place).with_suffix(".json"), own | common)
        written.append(place.as_posix())
    return written


def _write_indices(
    folder: Path,
    frame: pd.DataFrame,
    stems: list[str],
    written: list[str],
    phenotypes: pd.DataFrame,
) -> None:
    """Write who is in the dataset, and which file is of which scan."""
    people = [stem.split("_")[0] for stem in stems]
    about = phenotypes.reset_index(drop=True).assign(participant_id=people)
    by_subject = about.groupby("participant_id", sort=True)
    # What differs between the scans of a subject belongs to the scans.
    counts = by_subject.nunique(dropna=False)
    constant = [str(name) for name in phenotypes if (counts[name] == 1).all()]
    about[["participant_id", *constant]].drop_duplicates("participant_id").sort_values(
        "participant_id"
    ).to_csv(folder / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    index = pd.DataFrame({"filename": written, "scan": frame["scan"].astype(str)})
    for column in ("subject", "session", "site"):
        if column in frame.columns:
            index[column] = frame[column].fillna("").astype(str).replace("", "n/a").to_numpy()
    for column in phenotypes.columns.difference([*constant, *index.columns], sort=False):
        index[column] = phenotypes[column].to_numpy()
    index.to_csv(folder / "scans.tsv", sep="\t", index=False, na_rep="n/a")


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values."""
    path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
