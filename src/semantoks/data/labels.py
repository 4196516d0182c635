"""Names of ROIs as the world writes them, matched to those of an atlas."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.atlas import Atlas
from semantoks.errors import InputError, nearest

Naming = Literal["exact", "respelled", "17-network", "none"]
"""How the given names are those of the atlas: to the letter, but for spelling, as the same Schaefer
parcels under the names of their 17 networks, or not at all."""

_HEMISPHERES: Final = {"l": "L", "r": "R", "lh": "L", "rh": "R", "left": "L", "right": "R"}
_BUCKNER: Final = (
    ("visual", "vis"),
    ("somatomotor", "sommot"),
    ("dorsalattention", "dorsattn"),
    ("ventralattention", "salventattn"),
    ("limbic",),
    ("frontoparietal", "cont"),
    ("default",),
)
"""Networks of the cerebellum (Buckner et al., 2011) in the order in which they are numbered."""
_BUCKNER_PREFIX: Final = re.compile(
    r"buckner(?:7|2011)?_(?:7networks_)?(?:network_?)?"
    # A number alone may be that of another parcellation of the cerebellum.
    r"|cerebell(?:um|ar)_(?:network_?|(?!\d))"
    r"|network_?(?=\d$)"
)
_CUT_GROUPS: Final = 5
"""So many groups of parcels that all break off after their first few tell of another resolution."""


class _Key(NamedTuple):
    """What two spellings of a name have in common."""

    hemisphere: str
    name: str


@dataclass(frozen=True)
class LabelMatch:
    """Where the ROIs of an atlas stand among given names."""

    positions: NDArray[np.intp]
    unknown: tuple[str, ...]
    naming: Naming

    @property
    def n_found(self) -> int:
        """Number of ROIs that have a name."""
        return int((self.positions >= 0).sum())

    def place(self, values: Float[NDArray[np.floating[Any]], "name time"]) -> NDArray[np.float64]:
        """Put named rows into the order of the atlas."""
        placed = np.full((len(self.positions), values.shape[1]), np.nan)
        found = self.positions >= 0
        placed[found] = values[self.positions[found]]
        return placed


def match_labels(
    given: Sequence[str], atlas: Atlas, *, where: str = "the list of names"
) -> LabelMatch:
    """Find the ROIs of an atlas among given names.

    Names that are those of the atlas to the letter are taken as such. Otherwise case, separators,
    ``7Networks_`` and ``17Networks_`` in front, and how and where the hemisphere is written do not
    matter (``7Networks_LH_Vis_1``, ``lh-vis-1``, ``Vis_1_left``). Schaefer-400 parcels are known
    by the names of their 17 networks as well, and the cerebellum of Buckner by its numbers.

    Examples
    --------
    >>> match = match_labels(["7Networks_RH_Vis_1", "CSF"], Atlas.load("schaefer400"))
    >>> int(match.positions[200]), match.n_found, match.unknown, match.naming
    (0, 1, ('CSF',), 'respelled')
    """
    exact = {label: i for i, label in enumerate(atlas.labels)}
    plain, seventeen = _known_keys(atlas)
    rois: list[int] = []
    kinds: list[Naming] = []
    for name in given:
        key = _key(name)
        kind: Naming
        if name in exact:
            roi, kind = exact[name], "exact"
        elif key in plain:
            roi, kind = plain[key], "respelled"
        elif key in seventeen:
            roi, kind = seventeen[key], "17-network"
        else:
            roi, kind = -1, "none"
        rois.append(roi)
        kinds.append(kind)
    _check_not_mixed(given, rois, kinds, atlas, where)
    _check_once(given, rois, atlas, where)
    positions = np.full(len(atlas), -1, dtype=np.intp)
    for column, roi in enumerate(rois):
        if roi >= 0:
            positions[roi] = column
    _check_resolution(positions, atlas, where)
    unknown = tuple(name for name, roi in zip(given, rois, strict=True) if roi < 0)
    order: tuple[Naming, ...] = ("17-network", "respelled", "exact", "none")
    return LabelMatch(positions, unknown, next(kind for kind in order if kind in [*kinds, "none"]))


def refuse_unknown(match: LabelMatch, given: Sequence[str], atlas: Atlas, *, where: str) -> None:
    """Refuse names that are no ROI of the atlas."""
    if match.unknown:
        raise InputError(
            f"{where}: {len(match.unknown)} of {len(given)} columns are no ROI of atlas "
            f"{atlas.name!r} ({tell(match.unknown)}); the header must name ROIs such as "
            f"{tell(atlas.labels)}. Drop columns that are no ROIs, or give the atlas that the "
            f"series were extracted with.{nearest(match.unknown[0], atlas.labels)}"
        )


def tell(names: Sequence[str]) -> str:
    """Return the first few names for a message.

    Examples
    --------
    >>> tell(["a", "b", "c", "d"])
    "'a', 'b', 'c', ..."
    """
    return ", ".join(repr(name) for name in names[:3]) + (", ..." if len(names) > 3 else "")


@cache
def seventeen_network_names() -> Mapping[str, str]:
    """Return the Schaefer-400 parcels under the names of their 17 networks.

    Examples
    --------
    >>> names = seventeen_network_names()
    >>> names["LH_Vis_3"], next(iter(names))
    ('LH_VisCent_ExStr_1', 'LH_Vis_3')
    """
    path = resources.files("semantoks.data") / "atlases" / "schaefer400-17network-names.tsv"
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
    return {label: label17 for label, label17, _ in sorted(rows, key=lambda row: int(row[2]))}


@lru_cache(maxsize=8)
def _known_keys(atlas: Atlas) -> tuple[dict[_Key, int], dict[_Key, int]]:
    """Return which ROI a spelling stands for: by its own name, and by that of its 17 networks."""
    keys = [_key(label) for label in atlas.labels]
    # Labels that only their spelling tells apart are matched to the letter or not at all.
    plain = {key: i for i, key in enumerate(keys) if keys.count(key) == 1}
    names = seventeen_network_names()
    seventeen = {
        _key(names[label]): i for i, label in enumerate(_bare(atlas.labels)) if label in names
    }
    return plain, {key: i for key, i in seventeen.items() if key not in plain}


def _bare(labels: Sequence[str]) -> list[str]:
    """Return labels without the scheme that some write in front."""
    return [re.sub(r"^(7|17)Networks_", "", label) for label in labels]


def _key(name: str) -> _Key:
    """Take out of a name what is only spelling."""
    # Names of nilearn's older atlases are bytes, and end up in tables as text such as b'...'.
    text = re.sub(r"^b(['\"])(.*)\1$", r"\2", name.strip())
    text = re.sub(r"[^0-9a-z]+", "_", text.lower()).strip("_")
    buckner = _BUCKNER_PREFIX.match(text)
    if buckner:
        rest = text[buckner.end() :].replace("_", "")
        for number, aliases in enumerate(_BUCKNER, start=1):
            if rest in (*aliases, str(number)):
                return _Key("", f"buckner_{number}")
    text = re.sub(r"^(?:7|17)networks_", "", text)
    parts = text.split("_")
    for end in (0, -1):
        if len(parts) > 1 and parts[end] in _HEMISPHERES:
            hemisphere = _HEMISPHERES[parts.pop(end)]
            return _Key(hemisphere, "_".join(parts))
    return _Key("", text)


def _check_not_mixed(
    given: Sequence[str],
    rois: Sequence[int],
    kinds: Sequence[Naming],
    atlas: Atlas,
    where: str,
) -> None:
    """Refuse names of which some are from the 7-network and some from the 17-network table."""
    cortical = set(seventeen_network_names())
    bare = _bare(atlas.labels)
    seven = [
        name
        for name, roi, kind in zip(given, rois, kinds, strict=True)
        if kind in ("exact", "respelled") and bare[roi] in cortical
    ]
    seventeen = [name for name, kind in zip(given, kinds, strict=True) if kind == "17-network"]
    if seven and seventeen:
        raise InputError(
            f"{where} mixes two namings of the Schaefer parcels: {len(seven)} names of 7 networks "
            f"({tell(seven)}) and {len(seventeen)} of 17 networks ({tell(seventeen)}). These are "
            "two tables of the same 400 parcels in two orders; name all columns by one of them."
        )


def _check_once(given: Sequence[str], rois: Sequence[int], atlas: Atlas, where: str) -> None:
    """Refuse two names for one ROI."""
    columns: dict[int, list[str]] = {}
    for name, roi in zip(given, rois, strict=True):
        if roi >= 0:
            columns.setdefault(roi, []).append(name)
    repeated = [roi for roi, names in columns.items() if len(names) > 1]
    if repeated:
        written = tell(columns[repeated[0]])
        raise InputError(
            f"{where} has more than one column for {tell([atlas.labels[roi] for roi in repeated])}"
            f" (written {written}); a column a ROI was expected. Remove or rename the repeated "
            "ones."
        )


def _check_resolution(positions: NDArray[np.intp], atlas: Atlas, where: str) -> None:
    """Refuse names of a coarser Schaefer parcellation: they are all in the finer one as well."""
    cortical = seventeen_network_names()
    groups: dict[str, list[bool]] = {}
    for label, position in zip(_bare(atlas.labels), positions, strict=True):
        if label in cortical:
            groups.setdefault(label.rpartition("_")[0], []).append(bool(position >= 0))
    # Holes of missing parcels lie anywhere; a coarser table ends early in every group.
    cut = [group for group, there in groups.items() if any(there) and not all(there)]
    early = [group for group in cut if groups[group] == sorted(groups[group], reverse=True)]
    if len(early) >= _CUT_GROUPS and len(early) == len(cut):
        found = sum(map(sum, groups.values()))
        raise InputError(
            f"{where} names {found} of the {sum(map(len, groups.values()))} Schaefer parcels of "
            f"atlas {atlas.name!r}, and always the first few of a region ({', '.join(early[:3])}):"
            " these are the names of a coarser Schaefer parcellation, whose parcels are others "
            "under the same names. Extract the series with the parcellation of the atlas."
        )
