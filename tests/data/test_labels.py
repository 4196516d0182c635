"""Names of ROIs as producers write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import Atlas
from semantoks.data.labels import match_labels, refuse_unknown, seventeen_network_names
from semantoks.errors import InputError

WHOLE = Atlas.load("schaefer400-tian3-buckner7")
CORTEX = Atlas.load("schaefer400")


@pytest.mark.parametrize(
    "spell",
    [
        lambda x: f"7Networks_{x}",
        lambda x: f"b'7Networks_{x}'",
        str.lower,
        str.upper,
        lambda x: x.replace("_", "-"),
        lambda x: x.replace("LH_", "lh-").replace("RH_", "rh-"),
        lambda x: f" {x[3:]}_{'left' if x[0] == 'L' else 'right'} ",
        lambda x: f"{x[0]} {x[3:]}",
        lambda x: x.replace("LH_", "Left.").replace("RH_", "Right."),
    ],
)
def test_spellings_of_schaefer(spell) -> None:
    order = np.random.default_rng(0).permutation(400)
    match = match_labels([spell(CORTEX.labels[i]) for i in order], CORTEX)
    np.testing.assert_array_equal(order[match.positions], np.arange(400))
    assert (match.unknown, match.naming) == ((), "respelled")


@pytest.mark.parametrize("atlas", [WHOLE, Atlas.load("cc200"), Atlas.load("schaefer400-tian3")])
def test_own_labels_are_exact(atlas: Atlas) -> None:
    match = match_labels(atlas.labels[::-1], atlas)
    np.testing.assert_array_equal(match.positions, np.arange(len(atlas))[::-1])
    assert match.naming == "exact"


@pytest.mark.parametrize("prefix", ["17Networks_", ""])
def test_names_of_17_networks(shared: Path, prefix: str) -> None:
    table = pd.read_csv(
        shared / "data" / "atlases" / "schaefer400_17networks_in_7network_order.csv"
    ).sort_values("position_in_17network_order")
    names = table.label_17networks.str.removeprefix("17Networks_")
    for atlas in (CORTEX, WHOLE, Atlas.load("schaefer400-17networks")):
        match = match_labels([prefix + name for name in names], atlas)
        assert (match.naming, match.n_found) == ("17-network", 400)
        np.testing.assert_array_equal(table.index0.to_numpy()[match.positions[:400]], range(400))
    assert list(seventeen_network_names().values()) == list(names)


def test_tian_and_buckner() -> None:
    tian = [label.replace("-", "_").upper() for label in WHOLE.labels[400:450]]
    assert match_labels(tian, WHOLE).positions[400:450].tolist() == list(range(50))
    for names in (
        [f"Network{i}" for i in range(1, 8)],
        [f"Buckner7_{i}" for i in range(1, 8)],
        [f"Cerebellum_Network_{i}" for i in range(1, 8)],
        ["Buckner_" + x for x in ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont")],
        ["cerebellar-" + x for x in WHOLE.network_names[:7]],
    ):
        found = match_labels(names, WHOLE).positions[450:]
        assert found.tolist() == [*range(len(names)), -1][:7]
    assert match_labels(["Network1", "Default"], CORTEX).n_found == 0
    others = ["Cerebellar_Region1", "Cerebellum_1", "cerebellum-2"]
    assert match_labels(others, WHOLE).unknown == tuple(others)
    assert match_labels(["Default", "Network8"], WHOLE).unknown == ("Default", "Network8")


def test_what_is_missing_and_what_is_unknown() -> None:
    match = match_labels(["CSF", *CORTEX.labels[5:], "LH-Pu"], CORTEX)
    assert match.unknown == ("CSF", "LH-Pu")
    assert match.positions[:6].tolist() == [-1] * 5 + [1]
    placed = match.place(np.arange(397.0)[:, None])
    assert np.isnan(placed[:5]).all()
    np.testing.assert_array_equal(placed[5:, 0], np.arange(1, 396))
    with pytest.raises(InputError, match=r"x.tsv: 2 of 397 columns are no ROI.*'CSF'.*'LH_Vis_1'"):
        refuse_unknown(match, ["CSF", *CORTEX.labels[5:], "LH-Pu"], CORTEX, where="x.tsv")
    assert match_labels([], CORTEX).naming == "none"


def test_mixtures_are_refused() -> None:
    names = list(seventeen_network_names().values())
    with pytest.raises(InputError, match=r"a.tsv mixes.*1 names of 7.*'LH_Vis_1'.*399 of 17"):
        match_labels(["LH_Vis_1", *names[1:]], CORTEX, where="a.tsv")


def test_two_names_for_one_roi_are_refused() -> None:
    with pytest.raises(InputError, match=r"more than one column for 'LH_Vis_1' \(written .*lh-vis"):
        match_labels(["LH_Vis_1", "lh-vis-1"], CORTEX)


def test_labels_that_only_spelling_tells_apart_are_matched_to_the_letter() -> None:
    atlas = Atlas.from_networks({"a": 1, "A": 1})
    assert match_labels(["A_1", "a_1"], atlas).positions.tolist() == [1, 0]
    assert match_labels(["A-1"], atlas).unknown == ("A-1",)


def test_a_coarser_parcellation_is_refused() -> None:
    # Schaefer-100 has 9 visual parcels a hemisphere, 6 somatomotor and so on, under like names.
    firsts = [x for x in CORTEX.labels if int(x.rpartition("_")[2]) <= 2]
    with pytest.raises(InputError, match="coarser Schaefer parcellation"):
        match_labels(firsts, CORTEX)
    holes = np.random.default_rng(0).random(400) < 0.4
    kept = [x for x, gone in zip(CORTEX.labels, holes, strict=True) if not gone]
    assert match_labels(kept, CORTEX).n_found == len(kept)
    limbic = [x for x in CORTEX.labels if "Limbic" not in x]
    assert match_labels(limbic, CORTEX).n_found == 374
