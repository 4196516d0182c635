"""Names and sidecars as BIDS writes them: who was measured when, in which space, how fast."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

from semantoks.data.recording import ReaderOptions
from semantoks.data.tables import check_t_r, same_t_r
from semantoks.errors import InputError

RECORDING: Final = ("sub", "ses", "task", "acq", "ce", "rec", "dir", "run", "echo")
"""Entities that tell recordings apart; all others (space, res, den, desc, ...) tell files of one
recording apart."""
_PARTICIPANTS: Final = ("participants.tsv", "participants.csv")
_ENDINGS: Final = (".nii.gz", ".tsv.gz", ".dtseries.nii", ".ptseries.nii", ".dlabel.nii")


@dataclass(frozen=True)
class BidsName:
    """The name of a file, taken apart."""

    path: Path
    entities: Mapping[str, str] = field(hash=False)
    suffix: str
    extension: str

    def get(self, entity: str) -> str:
        """Return the label of an entity."""
        return self.entities.get(entity, "")

    @property
    def subject(self) -> str:
        """The subject with its prefix, "" if the name does not say it."""
        return self._join(("sub",))

    @property
    def session(self) -> str:
        """The session with its prefix, "" if the name does not say it."""
        return self._join(("ses",))

    @cached_property
    def recording(self) -> str:
        """The entities that tell recordings apart, joined as in the name; the stem if none do."""
        return self._join(RECORDING) or self.path.name.removesuffix(self.extension)

    def is_of(self, other: BidsName, *, without: str = "") -> bool:
        """Tell whether two files are of one recording; run-1 and run-01 are one run."""
        return all(same_label(self.get(key), other.get(key)) for key in RECORDING if key != without)

    def _join(self, keys: Sequence[str]) -> str:
        """Join entities as they stand in names."""
        return "_".join(f"{key}-{self.entities[key]}" for key in keys if key in self.entities)


def parse_bids_name(path: Path) -> BidsName:
    """Take the name of a file apart.

    Examples
    --------
    >>> name = parse_bids_name(Path("sub-01_ses-2_task-rest_run-1_space-T1w_desc-preproc_bold.nii"))
    >>> name.recording, name.get("space"), name.suffix, name.extension
    ('sub-01_ses-2_task-rest_run-1', 'T1w', 'bold', '.nii')
    """
    from nilearn.interfaces.bids import parse_bids_filename

    endings = [ending for ending in _ENDINGS if path.name.endswith(ending)]
    extension = endings[0] if endings else path.suffix
    stem = path.name.removesuffix(extension)
    # nilearn takes a name apart at its first point, which may stand in the name of a subject.
    parsed = parse_bids_filename(f"{stem.replace('.', '')}.nii")
    entities = {key: label for key, label in parsed["entities"].items() if label is not None}
    return BidsName(path, entities, stem.rpartition("_")[2], extension)


def list_files(source: Path, endings: Iterable[str]) -> list[Path]:
    """List the files of a folder and the folders below by the ends of their names."""
    wanted = tuple(endings)
    if source.is_file():
        return [source] if source.name.endswith(wanted) else []
    return sorted(path for path in walk(source) if path.name.endswith(wanted))


def walk(source: Path, unread: list[str] | None = None) -> Iterator[Path]:
    """Yield all files below a folder, hidden ones left out, links followed once.

    What cannot be read as a file or folder is added to `unread`, a phrase each.
    """
    told = unread if unread is not None else []
    seen: set[str] = set()

    def fail(error: OSError) -> None:
        told.append(f"{error.filename} cannot be listed ({error.strerror})")

    for folder, below, files in os.walk(source, followlinks=True, onerror=fail):
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(name for name in below if not name.startswith("."))
        if not below and not files and Path(folder).name.startswith("sub-"):
            told.append(f"{folder} is empty")
        for name in files:
            path = Path(folder, name)
            if name.startswith("."):
                continue
            if path.is_file():
                yield path
            elif path.is_symlink():
                told.append(f"{path} is a link to nothing")
                yield path  # refused by name where it would be a scan
            else:
                told.append(f"{path} is no regular file")


def find_participants(source: Path) -> Path | None:
    """Find the table of participants that lies in a data set."""
    return next((source / name for name in _PARTICIPANTS if (source / name).is_file()), None)


def keep_wanted(
    names: Sequence[BidsName], options: ReaderOptions, source: Path, entities: Sequence[str]
) -> list[BidsName]:
    """Keep the files that the user asked for."""
    kept = list(names)
    for entity in entities:
        wanted = getattr(options, entity)
        if wanted is None or not kept:
            continue
        there = sorted({name.get(entity) or "(none)" for name in kept})
        kept = [name for name in kept if same_label(name.get(entity), wanted)]
        if not kept:
            raise InputError(
                f"{source} holds no recording with {entity}-{wanted}; there are "
                f"{', '.join(there[:10])}. Leave --{entity} out, or name one of these."
            )
    return kept


def same_label(label: str, wanted: str) -> bool:
    """Compare two labels; numbers may have leading zeros."""
    if label.isdecimal() and wanted.isdecimal():
        return int(label) == int(wanted)
    return label == wanted


def read_sidecar(name: BidsName) -> dict[str, Any]:
    """Read what the JSON files that apply to a file say, the nearest one last.

    A JSON file applies if it lies in the folder of the file or in one above it, up to the root of
    the data set, has the same suffix, and names no entity that the file does not have.
    """
    content: dict[str, Any] = {}
    for path in list_sidecars(name):
        content |= read_json(path)
    return content


def list_sidecars(name: BidsName) -> list[Path]:
    """List the JSON files that apply to a file, the nearest one last; see `read_sidecar`."""
    found: list[Path] = []
    for folder in reversed(_folders_up(name.path.parent)):
        applying = [other for other in _jsons(folder, name) if _applies(other, name)]
        found += [x.path for x in sorted(applying, key=lambda other: len(other.entities))]
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that holds an object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} cannot be read as JSON: {error}. Correct it, or export it again."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"{path} holds a JSON {type(content).__name__}; an object with keys such as "
            '"RepetitionTime" was expected. Correct it, or export it again.'
        )
    return content


def _folders_up(folder: Path) -> list[Path]:
    """Return a folder and those above it, up to the root of its data set."""
    found = [folder]
    while found[-1].name and not (found[-1] / "dataset_description.json").is_file():
        if not _of_one_person(found[-1]):
            break
        found.append(found[-1].parent)
    return found


def _of_one_person(folder: Path) -> bool:
    """Say whether a folder is that of a person, or in it."""
    return folder.name.startswith(("sub-", "ses-")) or folder.name in {"func", "anat"}


@lru_cache(maxsize=64)
def _list_shared(folder: Path, changed: int, ending: str) -> tuple[Path, ...]:
    """List files of a folder as it was when it was changed last."""
    return tuple(folder.glob(f"*{ending}"))


def _jsons(folder: Path, name: BidsName) -> list[BidsName]:
    """Return the JSON files of a folder that may describe a file."""
    ending = f"{name.suffix}.json"
    paths: Iterable[Path] = folder.glob(f"*{ending}")
    if not _of_one_person(folder) and folder.is_dir():
        # The folders of all people lie here: listed for each of them, thousands take minutes.
        paths = _list_shared(folder, folder.stat().st_mtime_ns, ending)
    # A folder may hold those of thousands of subjects.
    own = [path for path in paths if not path.name.startswith("sub-") or _of_subject(path, name)]
    return [parse_bids_name(path) for path in sorted(own)]


def _of_subject(path: Path, name: BidsName) -> bool:
    """Say whether a file is of the subject of another one."""
    return path.name.startswith(f"{name.subject}_")


def _applies(sidecar: BidsName, name: BidsName) -> bool:
    """Say whether a sidecar describes a file."""
    return sidecar.suffix == name.suffix and sidecar.entities.items() <= name.entities.items()


def read_t_r(name: BidsName) -> float | None:
    """Return the repetition time that the sidecars of a file give."""
    value = read_sidecar(name).get("RepetitionTime")
    where = f"RepetitionTime in the JSON sidecar of {name.path}"
    return None if value is None else check_t_r(value, where)


def agree_on_t_r(
    sidecar: float | None, header: float | None, path: Path, given: float | None = None
) -> float | None:
    """Choose the repetition time; what the user gives settles what sidecar and header dispute."""
    if given is not None:
        return given
    if header is None or sidecar is None:
        where = f"the repetition time in the header of {path}"
        return sidecar if header is None else check_t_r(header, where)
    # Releases of fMRIPrep up to 22.0 copied milliseconds as seconds.
    if same_t_r(sidecar, header) or same_t_r(1000 * sidecar, header):
        return sidecar
    raise InputError(
        f"{path}: RepetitionTime of the JSON sidecar is {sidecar:g} s, but the header of the image "
        f"says {header:g} s. One of them is wrong, and all frequencies depend on it (fMRIPrep "
        "23.2.0 wrote headers of 1 s). Look it up in the protocol of the scanner, and give the "
        f"right one: t_r={sidecar:g} (--t-r {sidecar:g}), or correct the JSON file or the header."
    )
