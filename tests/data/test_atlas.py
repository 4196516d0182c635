"""Atlases: the built-in ones, tables, and every way in which a table can be wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.data.atlas import BUILT_IN, Atlas
from semantoks.errors import InputError

NETWORKS = ("Vis", "SomMot", "DorsAttn", "SalVentAttn", "Limbic", "Cont", "Default")
SIZES = (61, 77, 46, 47, 26, 52, 91)


def small(**changes: object) -> Atlas:
    content: dict[str, object] = {
        "name": "small",
        "labels": ("a", "b", "c"),
        "networks": ("x", "y", "x"),
        "hemispheres": ("L", "R", ""),
        "coordinates": np.array([[1.0, 2, 3], [4, 5, 6], [np.nan] * 3]),
        "values": (3, 5, 9),
    }
    return Atlas(**(content | changes))  # type: ignore[arg-type]


# Built in


def test_reference_atlas() -> None:
    atlas = Atlas.load("schaefer400-tian3-buckner7")
    assert len(atlas) == 457
    assert atlas.network_names[:7] == NETWORKS
    assert atlas.network_sizes == (*SIZES, 50, 7)
    assert atlas.labels[0].startswith("7Networks_LH_Vis") or "Vis" in atlas.labels[0]
    assert set(atlas.hemispheres[:200]) == {"L"}
    assert set(atlas.hemispheres[200:400]) == {"R"}


@pytest.mark.parametrize(
    ("name", "n_rois", "n_networks"), [("schaefer400-tian3", 450, 8), ("schaefer400", 400, 7)]
)
def test_parts_of_the_reference_atlas(name: str, n_rois: int, n_networks: int) -> None:
    whole, part = Atlas.load("schaefer400-tian3-buckner7"), Atlas.load(name)
    assert len(part) == n_rois
    assert part.labels == whole.labels[:n_rois]
    assert part.network_names == whole.network_names[:n_networks]
    assert part.fingerprint != whole.fingerprint


def test_order_is_that_of_the_published_labels(shared: Path) -> None:
    file = shared / "data" / "atlases" / "Schaefer2018_400Parcels_7Networks_order.txt"
    published = [line.split("\t")[1] for line in file.read_text().splitlines()]
    labels = Atlas.load("schaefer400").labels
    assert [name.removeprefix("7Networks_") for name in published] == [
        name.removeprefix("7Networks_") for name in labels
    ]


def test_cc200() -> None:
    atlas = Atlas.load("cc200")
    assert len(atlas) == len(atlas.values) == len(set(atlas.values)) == 200
    assert np.isfinite(atlas.coordinates).all()


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_atlases_are_whole(name: str) -> None:
    atlas = Atlas.load(name)
    assert atlas.name == name
    assert len(atlas) == BUILT_IN[name][1] == sum(atlas.network_sizes)
    assert atlas.coordinates.shape == (len(atlas), 3)
    # Millimetres of MNI space, not voxels.
    assert np.nanmin(atlas.coordinates) < -50
    assert np.nanmax(np.abs(atlas.coordinates)) < 120
    everywhere = np.concatenate(atlas.network_indices)
    assert sorted(everywhere) == list(range(len(atlas)))


# Fingerprint and equality


def test_fingerprint_changes_with_order_labels_and_networks() -> None:
    reference = small()
    turned = small(labels=("b", "a", "c"), networks=("y", "x", "x"))
    renamed = small(labels=("a", "b", "d"))
    moved = small(networks=("x", "y", "y"))
    assert len({atlas.fingerprint for atlas in (reference, turned, renamed, moved)}) == 4


def test_fingerprint_knows_nothing_of_name_and_coordinates() -> None:
    other = small(name="other", coordinates=np.zeros((3, 3)), values=(), hemispheres=("",) * 3)
    assert other.fingerprint == small().fingerprint
    assert other == small()
    assert len({other, small()}) == 1


def test_fingerprint_stays_the_same_for_ever() -> None:
    # Stores and models keep it: a change here makes every one of them unusable.
    assert Atlas.from_networks({"Vis": 2, "Default": 1}).fingerprint == FINGERPRINT
    assert Atlas.load("schaefer400").fingerprint == FINGERPRINT_SCHAEFER


FINGERPRINT = "4967f6ec806060b9"
FINGERPRINT_SCHAEFER = "f8c774b6a61097ab"


def test_labels_that_look_alike_when_joined_are_told_apart() -> None:
    one = small(labels=("a", "b,c", "d"), networks=("x", "x", "x"))
    two = small(labels=("a,b", "c", "d"), networks=("x", "x", "x"))
    assert one.fingerprint != two.fingerprint


def test_an_atlas_is_not_its_name() -> None:
    assert small() != "small"


def test_networks_are_numbered_as_they_appear() -> None:
    atlas = small()
    assert atlas.network_names == ("x", "y")
    assert [indices.tolist() for indices in atlas.network_indices] == [[0, 2], [1]]
    assert atlas.network_sizes == (2, 1)


# Tables


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(
            stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ","
        )
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".tsv", ".csv"])
def test_any_table_with_labels_and_networks(tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, object]] = [
        {"network": "NA", "label": "LH_one", "note": "kept out"},
        {"network": " Vis ", "label": "RH-two", "note": ""},
        {"network": "Vis", "label": "7", "note": ""},
    ]
    atlas = Atlas.load(write_table(tmp_path / f"mine{suffix}", rows))
    assert (atlas.name, atlas.labels) == ("mine", ("LH_one", "RH-two", "7"))
    assert atlas.networks == ("NA", "Vis", "Vis")
    assert atlas.hemispheres == ("L", "R", "")
    assert np.isnan(atlas.coordinates).all()
    assert atlas.values == ()


def test_table_with_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text("label,network\na,x\n", encoding="utf-8-sig")
    assert Atlas.load(path).labels == ("a",)


def test_columns_that_are_known() -> None:
    table = pd.DataFrame(
        {
            "label": ["a", "b"],
            "network": ["x", "y"],
            "hemisphere": ["LH", "right"],
            "x": [-10, 20],
            "y": [0.5, 1],
            "z": [3, 4],
            "value": [7, 9],
        }
    )
    atlas = Atlas.from_table(table, name="known")
    assert atlas.hemispheres == ("L", "R")
    np.testing.assert_array_equal(atlas.coordinates, [[-10, 0.5, 3], [20, 1, 4]])
    assert atlas.values == (7, 9)


@pytest.mark.parametrize("atlas", [small(), small(values=()), Atlas.load("cc200")])
def test_table_and_back(atlas: Atlas, tmp_path: Path) -> None:
    atlas.to_table().to_csv(tmp_path / "same.tsv", sep="\t", index=False)
    same = Atlas.load(tmp_path / "same.tsv")
    assert same == atlas
    assert (same.hemispheres, same.values) == (atlas.hemispheres, atlas.values)
    np.testing.assert_array_equal(same.coordinates, atlas.coordinates)


@pytest.mark.parametrize("atlas", [small(), Atlas.load("schaefer400-tian3")])
def test_json_and_back(atlas: Atlas) -> None:
    text = json.dumps(atlas.to_dict(), allow_nan=False)
    same = Atlas.from_dict(json.loads(text))
    assert same == atlas
    assert (same.name, same.hemispheres, same.values) == (
        *(atlas.name, atlas.hemispheres, atlas.values),
    )
    np.testing.assert_array_equal(same.coordinates, atlas.coordinates)


# Errors


def test_unknown_name_names_the_nearest_and_the_known() -> None:
    with pytest.raises(InputError, match=r"no atlas 'schaefer40'.*cc200.*Did you mean"):
        Atlas.load("schaefer40")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.tsv does not exist"):
        Atlas.load(tmp_path / "none.tsv")


def test_table_without_networks(tmp_path: Path) -> None:
    path = write_table(tmp_path / "bare.tsv", [{"label": "a", "x": 1}])
    with pytest.raises(InputError, match=r"lacks the column\(s\) network; it has label, x"):
        Atlas.load(path)


def test_roi_without_a_network(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"label": "a", "network": "x"},
        {"label": "b", "network": ""},
        {"label": "c", "network": " "},
    ]
    path = write_table(tmp_path / "gap.csv", rows)
    with pytest.raises(InputError, match=r"2 ROI\(s\) without a network, the first is 'b'"):
        Atlas.load(path)


def test_table_without_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("label,network\n")
    with pytest.raises(InputError, match="'empty' has no ROIs"):
        Atlas.load(tmp_path / "empty.csv")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"broken\.csv cannot be read: No columns"),
        (b"label,network\n\xff\xfe,x\n", r"broken\.csv cannot be read: .*utf-8"),
        (b'label,network\n"a', r"broken\.csv cannot be read"),
        (b"label,network,x,y,z\na,v,left,1,2\n", "column x .* must hold numbers, but: .*left"),
        (b"label,network,value\na,v,1\nb,v,\n", "column value .* no whole numbers"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "broken.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        Atlas.load(tmp_path / "broken.csv")


def test_coordinates_that_are_not_known(tmp_path: Path) -> None:
    (tmp_path / "some.csv").write_text("label,network,x,y,z\na,v,n/a,n/a,n/a\nb,v,1,2,3\n")
    coordinates = Atlas.load(tmp_path / "some.csv").coordinates
    assert np.isnan(coordinates[0]).all()
    assert coordinates[1].tolist() == [1, 2, 3]


def test_repeated_labels() -> None:
    with pytest.raises(InputError, match="more than once: a"):
        small(labels=("a", "b", "a"))


@pytest.mark.parametrize(
    "changes",
    [{"networks": ("x",)}, {"coordinates": np.zeros((2, 3))}, {"values": (1, 2)}],
)
def test_columns_of_different_lengths(changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="different lengths"):
        small(**changes)


def test_network_without_rois() -> None:
    with pytest.raises(InputError, match=r"network\(s\) Limbic of atlas 'custom' have no ROIs"):
        Atlas.from_networks({"Vis": 3, "Limbic": 0})
    with pytest.raises(InputError, match="has no ROIs"):
        Atlas.from_networks({})


def test_description_that_lacks_a_key() -> None:
    content = small().to_dict()
    del content["networks"]
    with pytest.raises(InputError, match="lacks 'networks'"):
        Atlas.from_dict(content)


def test_description_that_was_changed() -> None:
    content = small().to_dict()
    content["networks"][0] = "y"
    with pytest.raises(InputError, match="the description was changed"):
        Atlas.from_dict(content)
