"""Series of a smaller atlas among the ROIs of a larger one."""

from __future__ import annotations

import numpy as np
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.labels import place_rois, roi_positions
from semantoks.errors import InputError

BRAIN = Atlas.from_networks({"Vis": 2, "Default": 2, "Subcortex": 1}, name="brain")


def test_rois_are_placed_by_label_whatever_their_order() -> None:
    turned = Atlas.from_networks({"Default": 2, "Vis": 2}, name="cortex")
    series = np.arange(8.0).reshape(4, 2)
    placed = place_rois(series, turned, BRAIN)
    np.testing.assert_array_equal(placed[[2, 3, 0, 1]], series)
    assert np.isnan(placed[4]).all()


def test_cortex_of_the_reference_is_found() -> None:
    whole = Atlas.load("schaefer400-tian3-buckner7")
    np.testing.assert_array_equal(
        roi_positions(Atlas.load("schaefer400"), whole), np.arange(400, dtype=np.intp)
    )


def test_roi_that_the_larger_atlas_lacks_is_named() -> None:
    other = Atlas.from_networks({"Vis": 3}, name="other")
    with pytest.raises(InputError, match=r"1 of its ROIs are not there, such as 'Vis_3'"):
        roi_positions(other, BRAIN)


def test_networks_may_be_others() -> None:
    one = BRAIN.with_networks(["all"] * 5, name="one")
    np.testing.assert_array_equal(roi_positions(BRAIN, one), np.arange(5))


def test_coarser_parcellation_with_the_same_labels_is_refused() -> None:
    fine = Atlas.load("schaefer400").to_table()
    coarse = fine.groupby("network", sort=False).head(10)
    # Without coordinates, a part of a network may be anything.
    blind = Atlas.from_table(coarse[["label", "network"]], name="coarse")
    with pytest.raises(InputError, match=r"only 10 of the 61 ROIs of network 'Vis'"):
        roi_positions(blind, Atlas.load("schaefer400"))
    same = Atlas.from_table(coarse, name="coarse")
    np.testing.assert_array_equal(roi_positions(same, Atlas.load("schaefer400")), coarse.index)
    elsewhere = Atlas.from_table(coarse.assign(x=coarse["x"].astype(float) + 20), name="coarse")
    with pytest.raises(InputError, match="lies 20 mm away"):
        roi_positions(elsewhere, Atlas.load("schaefer400"))


def test_series_of_another_atlas_are_refused() -> None:
    with pytest.raises(InputError, match=r"5 ROIs of atlas 'brain' .* shape \(4, 2\)"):
        place_rois(np.zeros((4, 2)), BRAIN, BRAIN)
