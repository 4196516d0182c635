"""ROI labels: spelling, network names, atlas values, and placement of ROIs in a larger atlas."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
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
    _check_release([name for name in given if name not in exact and _key(name) not in plain], where)
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


def _check_release(unknown: Sequence[str], where: str) -> None:
    """Refuse the names that the Schaefer parcels had before 2019-09 (CBIG v0.14.3).

    Of 400 parcels, 58 had names that are gone, and 8 names now mean the next parcel.
    """
    old = [name for name in unknown if _key(name) in _keys_before_2019()]
    if len(old) >= _FEW:
        raise InputError(
            f"{where} has the names of an older release of the Schaefer atlas, from before "
            f"2019-09 (CBIG v0.14.3): {tell(old)}. Other names of that release mean the next "
            "parcel today. Write the labels of the current release instead: the parcels have kept "
            "their order, so that line i of the old table is line i of the new one."
        )


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


_FEW: Final = 10


@cache
def _keys_before_2019() -> frozenset[_Key]:
    """Return the spellings of the names that 58 of 400 parcels of 7 networks had before 2019-09."""
    runs = {
        "LH_SalVentAttn_FrOper": range(1, 10),
        "LH_Cont_PFCl": range(9, 10),
        "LH_Default_Temp": range(11, 18),
        "LH_Default_PCC": range(1, 12),
        "RH_SalVentAttn_FrOper": range(1, 9),
        "RH_Default_PFCm": range(1, 14),
        "RH_Default_PCC": range(1, 10),
    }
    return frozenset(_key(f"{name}_{i}") for name, numbers in runs.items() for i in numbers)


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


_SCHAEFER_LABEL: Final = re.compile(
    r"(?:(?:7|17)networks_)?[lr]h_(?:vis|sommot|dorsattn|salventattn|limbic|cont|default|temppar)",
    re.IGNORECASE,
)


class Group(NamedTuple):
    """A list of names that is used."""

    name: str
    match: LabelMatch


def choose_groups(
    groups: Mapping[str, Sequence[str]], atlas: Atlas, *, where: str
) -> tuple[Group, ...]:
    """Choose the lists of names that hold the ROIs of an atlas.

    The list that holds most of them comes first; others are added where they hold further ROIs
    and none that is there already, as the Tian atlas beside Schaefer's.

    Examples
    --------
    >>> atlas = Atlas.load("schaefer400-tian3")
    >>> lists = {"a": atlas.labels[:400], "b": atlas.labels[400:], "c": ("CSF",)}
    >>> [group.name for group in choose_groups(lists, atlas, where="three lists")]
    ['a', 'b']
    """
    fitting: list[Group] = []
    reasons: list[str] = []
    for name, labels in groups.items():
        found = _match(name, labels, atlas)
        if isinstance(found, Group):
            fitting.append(found)
        else:
            reasons.append(found)
    if not fitting:
        raise InputError(
            f"{where}: nothing holds ROIs of atlas {atlas.name!r} (named such as "
            f"{tell(atlas.labels)}): {'; '.join(reasons[:6])}{'; ...' if len(reasons) > 6 else ''}."
            " Give the atlas that the series were extracted with."
        )
    fitting.sort(key=lambda group: -group.match.n_found)
    chosen: list[Group] = []
    for group in fitting:
        taken = [other for other in chosen if _overlap(group, other)]
        if not taken:
            chosen.append(group)
        elif group.match.n_found == taken[0].match.n_found:
            raise InputError(
                f"{where}: {taken[0].name} and {group.name} hold the same {group.match.n_found} "
                f"ROIs of atlas {atlas.name!r}. Keep the one to use, and move the other away."
            )
    return tuple(chosen)


def _match(name: str, labels: Sequence[str], atlas: Atlas) -> Group | str:
    """Match one list; return why not if it is of another parcellation."""
    try:
        match = match_labels(labels, atlas, where=name)
    except InputError as error:
        return str(error).partition(". ")[0]
    if match.n_found == 0:
        return f"{name} holds {tell(labels)}"
    finer = [label for label in match.unknown if _SCHAEFER_LABEL.match(label.strip())]
    if finer and match.n_found > 0:
        return (
            f"{name} is of another Schaefer parcellation: it names {tell(finer)}, which atlas "
            f"{atlas.name!r} does not have"
        )
    return Group(name, match)


def _overlap(one: Group, other: Group) -> bool:
    """Say whether two lists have a ROI in common."""
    return bool(((one.match.positions >= 0) & (other.match.positions >= 0)).any())


_SCHAEFER_SIZE: Final = re.compile(r"schaefer(?:_?2018)?[^0-9]*(\d{3,4})", re.IGNORECASE)
_TIAN: Final = re.compile(r"tian.*?S(\d)", re.IGNORECASE)
_SEVENTEEN: Final = re.compile(r"(?<!\d)17[ _-]?n", re.IGNORECASE)
_LEAST_SHARE: Final = 0.9
"""Fewer of the values of an atlas are those of another, coarser one."""


def labels_of_values(name: str, values: Collection[str], atlas: Atlas) -> Mapping[str, str]:
    """Say which ROIs the values in a volume of labels stand for.

    Examples
    --------
    >>> atlas = Atlas.load("schaefer400-tian3")
    >>> name = "Schaefer2018_400Parcels_17Networks_order_FSLMNI152_2mm.nii"
    >>> labels_of_values(name, [], atlas)["1"]
    'LH_Vis_3'
    >>> len(labels_of_values("Schaefer2018_200Parcels_7Networks_order.nii", [], atlas))
    0
    """
    labels: list[str] = []
    schaefer, tian = _SCHAEFER_SIZE.search(name), _TIAN.search(name)
    if tian and tian[1] == "3":
        # In the published combinations with Schaefer's parcels, the subcortex comes first.
        networks = zip(atlas.labels, atlas.networks, strict=True)
        labels += [label for label, network in networks if network == "Subcortical"]
    if schaefer and schaefer[1] == "400":
        seventeen = list(seventeen_network_names())
        order = seventeen if _SEVENTEEN.search(name) else atlas.labels
        labels += [x for x in order if x in set(seventeen) & set(atlas.labels)]
    if schaefer or tian:
        known = {str(value): label for value, label in enumerate(labels, start=1)}
    else:
        known = dict(zip(map(str, atlas.values), atlas.labels, strict=False))
    fits = set(values) <= set(known) and len(set(values)) >= _LEAST_SHARE * len(known)
    return known if fits or not values else {}


_MAX_DISTANCE: Final = 5.0
"""How far apart in mm two tables may put the centre of the same ROI."""


def place_rois(
    series: Float[NDArray[np.floating[Any]], "roi time"], atlas: Atlas, onto: Atlas
) -> NDArray[np.float64]:
    """Place the ROIs of a recording into a larger atlas.

    Parameters
    ----------
    series : ndarray of shape (roi, time)
        Series, ROIs in the order of `atlas`.
    atlas : Atlas
        Atlas that the series were extracted with, such as "schaefer400".
    onto : Atlas
        Atlas that holds all of its ROIs and more, such as "schaefer400-tian3-buckner7".

    Returns
    -------
    ndarray of float64, shape (roi of `onto`, time)
        Series in the order of `onto`; ROIs that the recording lacks are NaN, which is how
        `preprocess` knows them as missing.

    Raises
    ------
    InputError
        If the series are not of `atlas`, `atlas` has a ROI that `onto` lacks, or its ROIs are
        others under the same labels.

    Examples
    --------
    >>> cortex = Atlas.from_networks({"Vis": 1, "Default": 1})
    >>> brain = Atlas.from_networks({"Default": 1, "Subcortex": 1, "Vis": 1})
    >>> place_rois(np.array([[1.0, 2.0], [3.0, 4.0]]), cortex, brain)
    array([[ 3.,  4.],
           [nan, nan],
           [ 1.,  2.]])
    """
    if series.ndim != 2 or len(series) != len(atlas):
        raise InputError(
            f"series of shape (roi, time) with the {len(atlas)} ROIs of atlas {atlas.name!r} were "
            f"expected, but came with shape {series.shape}."
        )
    placed = np.full((len(onto), series.shape[1]), np.nan)
    placed[roi_positions(atlas, onto)] = series
    return placed


def roi_positions(atlas: Atlas, onto: Atlas) -> NDArray[np.intp]:
    """Find the ROIs of an atlas in a larger one by their labels.

    Examples
    --------
    >>> whole = Atlas.load("schaefer400-tian3-buckner7")
    >>> roi_positions(Atlas.load("schaefer400"), whole)[:3]
    array([0, 1, 2])
    """
    position = {label: i for i, label in enumerate(onto.labels)}
    unknown = [label for label in atlas.labels if label not in position]
    if unknown:
        raise InputError(
            f"atlas {atlas.name!r} ({len(atlas)} ROIs) cannot be placed into {onto.name!r} "
            f"({len(onto)} ROIs): {len(unknown)} of its ROIs are not there, such as "
            f"{', '.join(map(repr, unknown[:3]))}.{nearest(unknown[0], onto.labels)} ROIs are "
            "matched by label: use the same labels, and leave out what the model does not know."
        )
    found = np.array([position[label] for label in atlas.labels], dtype=np.intp)
    _check_same_rois(atlas, onto, found)
    return found


def _check_same_rois(atlas: Atlas, onto: Atlas, found: NDArray[np.intp]) -> None:
    """Refuse equal labels of other ROIs: finer and coarser parcellations share many labels."""
    distance = np.linalg.norm(atlas.coordinates - onto.coordinates[found], axis=1)
    if np.isfinite(distance).all():
        if distance.max() > _MAX_DISTANCE:
            far = int(distance.argmax())
            raise InputError(
                f"ROI {atlas.labels[far]!r} of atlas {atlas.name!r} lies {distance[far]:.0f} mm "
                f"away from the one in {onto.name!r}: equal labels, other ROIs. Extract the series "
                "with the model's parcellation."
            )
        return
    for name, rois in zip(onto.network_names, onto.network_indices, strict=True):
        there = int(np.isin(rois, found).sum())
        if 0 < there < len(rois):
            raise InputError(
                f"atlas {atlas.name!r} has only {there} of the {len(rois)} ROIs of network "
                f"{name!r} of {onto.name!r}, and no coordinates that tell whether these are the "
                "same ROIs (a coarser parcellation has the same labels). Give coordinates in both "
                "tables, or all ROIs of the network with NaN for those that are missing."
            )
