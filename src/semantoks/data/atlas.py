"""An ordered list of regions of interest, each in one network, with a fingerprint of the order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.errors import InputError, nearest

if TYPE_CHECKING:
    import pandas as pd

_REFERENCE: Final = "schaefer400-tian3-buckner7.tsv"
BUILT_IN: Final = {
    "schaefer400-tian3-buckner7": (_REFERENCE, 457, "network"),
    "schaefer400-tian3": (_REFERENCE, 450, "network"),
    "schaefer400": (_REFERENCE, 400, "network"),
    "schaefer400-17networks-tian3-buckner7": (_REFERENCE, 457, "network17"),
    "schaefer400-17networks-tian3": (_REFERENCE, 450, "network17"),
    "schaefer400-17networks": (_REFERENCE, 400, "network17"),
    "cc200": ("cc200.tsv", 200, "network"),
}
"""Built-in atlases: name -> (table, number of its first rows that belong to the atlas, column of
the networks). Those with 17 networks have the ROIs of the others, in the same order and under the
same labels: only what is a network differs (source: PennLINC AtlasPack)."""

_REQUIRED = ("label", "network")
_MISSING = frozenset({"", "n/a", "na", "nan"})
_HEMISPHERES = {"L": "L", "R": "R", "LH": "L", "RH": "R", "LEFT": "L", "RIGHT": "R"}


@dataclass(frozen=True, eq=False)
class Atlas:
    """An ordered table of ROIs.

    The order is part of the atlas: row i of every series is ROI i. Networks are numbered in the
    order in which they first appear.

    Parameters
    ----------
    name : str
        Name of the atlas.
    labels : tuple of str
        One unique label a ROI.
    networks : tuple of str
        The network that each ROI belongs to.
    hemispheres : tuple of str
        "L", "R" or "" a ROI.
    coordinates : ndarray of shape (roi, 3)
        Centre of each ROI in MNI space, in mm; NaN where unknown.
    values : tuple of int
        The integer that stands for each ROI in a label volume; empty if unknown.

    Raises
    ------
    InputError
        If labels repeat, a ROI has no network, or lengths differ.

    See Also
    --------
    Atlas.load : Load a built-in atlas or a table.

    Examples
    --------
    >>> atlas = Atlas.load("schaefer400-tian3-buckner7")
    >>> len(atlas), len(atlas.network_names)
    (457, 9)
    >>> dict(zip(atlas.network_names, atlas.network_sizes))["Default"]
    91
    """

    name: str
    labels: tuple[str, ...]
    networks: tuple[str, ...]
    hemispheres: tuple[str, ...]
    coordinates: Float[NDArray[np.float64], "roi 3"]
    values: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n = len(self.labels)
        if n == 0:
            raise InputError(
                f"atlas {self.name!r} has no ROIs; a row a ROI, with a label and the network that "
                "it belongs to, was expected. Export the table again."
            )
        lengths = {len(self.networks), len(self.hemispheres), len(self.coordinates)}
        if lengths != {n} or len(self.values) not in (0, n):
            raise InputError(f"the columns of atlas {self.name!r} have different lengths.")
        repeated = sorted({x for x in self.labels if self.labels.count(x) > 1})
        if repeated:
            raise InputError(
                f"atlas {self.name!r} has ROI labels that occur more than once: "
                f"{', '.join(repeated[:5])}. Give every ROI a label of its own."
            )
        homeless = [x for x, network in zip(self.labels, self.networks, strict=True) if not network]
        if homeless:
            raise InputError(
                f"atlas {self.name!r} has {len(homeless)} ROI(s) without a network, the first is "
                f"{homeless[0]!r}. Name a network for every ROI, or drop these ROIs."
            )

    @classmethod
    def load(cls, name_or_table: str | Path) -> Atlas:
        """Load a built-in atlas by its name, or any atlas from a TSV or CSV file.

        Parameters
        ----------
        name_or_table : str or path
            "schaefer400-tian3-buckner7" (the reference), "schaefer400-tian3", "schaefer400", each
            with "-17networks" behind "schaefer400" too; "cc200"; or a file with the columns label
            and network and, if known, hemisphere, x, y, z (MNI, mm) and value.

        Returns
        -------
        Atlas
            The atlas, rows in the order of the table.

        Raises
        ------
        InputError
            If the name is unknown or the table cannot be used.

        Examples
        --------
        >>> Atlas.load("cc200").network_names[0]
        'Vis'
        """
        if str(name_or_table) in BUILT_IN:
            file, n, networks = BUILT_IN[str(name_or_table)]
            path = resources.files("semantoks.data") / "atlases" / file
            with path.open(encoding="utf-8") as stream:
                table = _read_table(stream, "\t").iloc[:n]
            return cls.from_table(table.assign(network=table[networks]), name=str(name_or_table))
        path = Path(name_or_table)
        if path.suffix not in {".tsv", ".csv"}:
            raise InputError(
                f"there is no atlas {str(name_or_table)!r}. Built in are {', '.join(BUILT_IN)}; "
                "any other atlas is a .tsv or .csv file with the columns label and network."
                + nearest(str(name_or_table), BUILT_IN)
            )
        if not path.is_file():
            raise InputError(f"atlas table {path} does not exist. Check its name and folder.")
        with path.open(encoding="utf-8-sig") as stream:
            table = _read_table(stream, "\t" if path.suffix == ".tsv" else ",")
        return cls.from_table(table, name=path.stem)

    @classmethod
    def from_table(cls, table: pd.DataFrame, *, name: str) -> Atlas:
        """Make an atlas from a data frame with a row a ROI.

        Parameters
        ----------
        table : DataFrame
            Columns label and network and, optionally, hemisphere, x, y, z (MNI, mm) and value.
        name : str
            Name of the atlas.

        Returns
        -------
        Atlas
            The atlas, rows in the order of the table.

        Raises
        ------
        InputError
            If a column is missing or a row has no network.
        """
        missing = [column for column in _REQUIRED if column not in table.columns]
        if missing:
            raise InputError(
                f"the table of atlas {name!r} lacks the column(s) {', '.join(missing)}; it has "
                f"{', '.join(map(str, table.columns))}. Each row is a ROI and needs a label and "
                "the network that it belongs to. Add them (columns of a .tsv are separated by "
                "tabs, those of a .csv by commas)."
            )
        n = len(table)
        labels = tuple(_text(table["label"]))
        hemispheres = (
            tuple(_HEMISPHERES.get(x.upper(), "") for x in _text(table["hemisphere"]))
            if "hemisphere" in table
            else tuple(_hemisphere_of(label) for label in labels)
        )
        coordinates = np.full((n, 3), np.nan)
        if {"x", "y", "z"} <= set(table.columns):
            coordinates = np.stack([_numbers(table[axis], name) for axis in "xyz"], axis=1)
        values: tuple[int, ...] = ()
        if "value" in table:
            numbers = _numbers(table["value"], name)
            if not (np.isfinite(numbers) & (numbers == np.round(numbers))).all():
                raise InputError(
                    f"column value of the table of atlas {name!r} has entries that are no whole "
                    "numbers. Give every ROI the integer of its label volume, or drop the column."
                )
            values = tuple(int(v) for v in numbers)
        return cls(name, labels, tuple(_text(table["network"])), hemispheres, coordinates, values)

    @classmethod
    def from_networks(cls, sizes: Mapping[str, int], *, name: str = "custom") -> Atlas:
        """Make an atlas of which only the size of each network is known.

        Parameters
        ----------
        sizes : mapping of str to int
            Number of ROIs of each network, in order.
        name : str
            Name of the atlas.

        Returns
        -------
        Atlas
            ROIs of one network stand together, labelled "<network>_1", "<network>_2", ...

        Examples
        --------
        >>> Atlas.from_networks({"Vis": 2, "Default": 1}).labels
        ('Vis_1', 'Vis_2', 'Default_1')
        """
        empty = [network for network, size in sizes.items() if size < 1]
        if empty:
            raise InputError(
                f"network(s) {', '.join(empty)} of atlas {name!r} have no ROIs; a network needs at "
                "least one."
            )
        labels = tuple(f"{net}_{i + 1}" for net, size in sizes.items() for i in range(size))
        networks = tuple(net for net, size in sizes.items() for _ in range(size))
        return cls(name, labels, networks, ("",) * len(labels), np.full((len(labels), 3), np.nan))

    def with_networks(self, networks: Sequence[str], *, name: str) -> Atlas:
        """Group the same ROIs otherwise.

        Parameters
        ----------
        networks : sequence of str
            The network of each ROI.
        name : str
            Name of the new atlas.

        Returns
        -------
        Atlas
            ROIs in the same order, under the same labels.

        Examples
        --------
        >>> atlas = Atlas.from_networks({"Vis": 2, "Default": 1})
        >>> atlas.with_networks(["a", "a", "a"], name="one").network_sizes
        (3,)
        """
        return replace(self, name=name, networks=tuple(networks))

    def __len__(self) -> int:
        return len(self.labels)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Atlas) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return (
            f"Atlas({self.name!r}, {len(self)} ROIs, {len(self.network_names)} networks, "
            f"fingerprint {self.fingerprint})"
        )

    def _repr_html_(self) -> str:
        return str(self.to_table().to_html(max_rows=10))

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with any label, network or order of ROIs."""
        text = json.dumps([self.labels, self.networks], ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def network_names(self) -> tuple[str, ...]:
        """Names of the networks in the order in which they first appear."""
        return tuple(dict.fromkeys(self.networks))

    @cached_property
    def network_indices(self) -> tuple[NDArray[np.intp], ...]:
        """For every network, the indices of its ROIs."""
        networks = np.array(self.networks)
        return tuple(np.flatnonzero(networks == name) for name in self.network_names)

    @property
    def network_sizes(self) -> tuple[int, ...]:
        """Number of ROIs of every network."""
        return tuple(len(indices) for indices in self.network_indices)

    def to_table(self) -> pd.DataFrame:
        """Return the atlas as a data frame with a row a ROI.

        Returns
        -------
        DataFrame
            Columns label, network, hemisphere, x, y, z (MNI, mm) and, if known, value.
        """
        import pandas as pd

        table = pd.DataFrame(
            {"label": self.labels, "network": self.networks, "hemisphere": self.hemispheres}
        )
        table[["x", "y", "z"]] = self.coordinates
        return table.assign(value=list(self.values)) if self.values else table

    def to_dict(self) -> dict[str, Any]:
        """Return the atlas as plain lists, for JSON.

        Returns
        -------
        dict
            What `Atlas.from_dict` reads; unknown coordinates are None.
        """
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "labels": list(self.labels),
            "networks": list(self.networks),
            "hemispheres": list(self.hemispheres),
            "coordinates": [
                row.tolist() if np.isfinite(row).all() else None for row in self.coordinates
            ],
            "values": list(self.values),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Atlas:
        """Make an atlas from what `to_dict` returned.

        Parameters
        ----------
        content : mapping
            Plain lists by name.

        Returns
        -------
        Atlas
            The same atlas.

        Raises
        ------
        InputError
            If a key is missing or the fingerprint is not that of the content.

        Examples
        --------
        >>> atlas = Atlas.load("cc200")
        >>> Atlas.from_dict(atlas.to_dict()) == atlas
        True
        """
        try:
            rows: Sequence[Sequence[float] | None] = content["coordinates"]
            atlas = cls(
                name=content["name"],
                labels=tuple(content["labels"]),
                networks=tuple(content["networks"]),
                hemispheres=tuple(content["hemispheres"]),
                coordinates=np.array([row or (np.nan,) * 3 for row in rows], dtype=np.float64),
                values=tuple(content["values"]),
            )
            written = content["fingerprint"]
        except KeyError as error:
            raise InputError(f"the description of an atlas lacks {error}.") from error
        if atlas.fingerprint != written:
            raise InputError(
                f"atlas {atlas.name!r} says its fingerprint is {written}, but its ROIs have "
                f"{atlas.fingerprint}: the description was changed. Use the unchanged file."
            )
        return atlas


def _read_table(stream: Any, separator: str) -> pd.DataFrame:
    """Read a table of ROIs; every cell stays text ('NA' may be a network)."""
    import pandas as pd

    try:
        return pd.read_csv(stream, sep=separator, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise InputError(
            f"atlas table {stream.name} cannot be read: {error}. It must be UTF-8 text with a "
            "header and one row a ROI."
        ) from error


def _text(column: pd.Series[Any]) -> list[str]:
    """Return a column as stripped text, missing values as empty text."""
    missing = column.isna()
    return ["" if gone else str(x).strip() for x, gone in zip(column, missing, strict=True)]


def _numbers(column: pd.Series[Any], name: str) -> NDArray[np.float64]:
    """Return a column as numbers, missing values as NaN."""
    texts = ["nan" if x.lower() in _MISSING else x for x in _text(column)]
    try:
        return np.array([float(x) for x in texts])
    except ValueError as error:
        raise InputError(
            f"column {column.name} of the table of atlas {name!r} must hold numbers, but: {error}. "
            "Correct it, or drop the column."
        ) from error


def _hemisphere_of(label: str) -> str:
    """Read the hemisphere out of a label such as LH_Vis_1 or HIP-head-m-rh."""
    parts = label.upper().replace("-", "_").split("_")
    found = {_HEMISPHERES[part] for part in parts if part in _HEMISPHERES}
    return found.pop() if len(found) == 1 else ""
