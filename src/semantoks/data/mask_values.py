"""The ROIs that values in volumes of labels stand for, where files know values and no names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Final

from semantoks.data.atlas import Atlas
from semantoks.data.labels import seventeen_network_names

_SCHAEFER: Final = re.compile(r"schaefer(?:_?2018)?[^0-9]*(\d{3,4})", re.IGNORECASE)
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
    schaefer, tian = _SCHAEFER.search(name), _TIAN.search(name)
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
