"""Which of several lists of names hold the ROIs of an atlas: files, or parts of one file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from semantoks.data.atlas import Atlas
from semantoks.data.labels import LabelMatch, match_labels, tell
from semantoks.errors import InputError

_SCHAEFER: Final = re.compile(
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
    finer = [label for label in match.unknown if _SCHAEFER.match(label.strip())]
    if finer and match.n_found > 0:
        return (
            f"{name} is of another Schaefer parcellation: it names {tell(finer)}, which atlas "
            f"{atlas.name!r} does not have"
        )
    return Group(name, match)


def _overlap(one: Group, other: Group) -> bool:
    """Say whether two lists have a ROI in common."""
    return bool(((one.match.positions >= 0) & (other.match.positions >= 0)).any())
