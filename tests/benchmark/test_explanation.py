"""Where a score comes from, on cohorts whose answer is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

import semantoks as sk
from semantoks.benchmark.baselines import connectivity_features
from semantoks.benchmark.explanation import Explanation, _only, explain, write_explanation
from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.images import paint_rois
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import embed
from semantoks.evaluation.finetuning import take_scans
from semantoks.evaluation.probe import cross_validated_predictions, score_predictions
from semantoks.evaluation.readout import Scans, encode_scans, scans_of
from semantoks.evaluation.splits import subjects_of
from semantoks.evaluation.splitters import SubjectFolds
from semantoks.model.checkpoint import save_encoder
from semantoks.model.components import fit_read_out
from semantoks.model.encoder import SemantoksEncoder

QUICK: dict[str, Any] = {"permutations": 30, "deletions": 1, "n_draws": 200}


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """In patients the network Default moves otherwise, and couples less with Cont."""
    base = tmp_path_factory.mktemp("planted")
    people = sk.simulate_cohort(100, seed=11)
    sk.write_cohort(people, base / "recordings")
    sk.prepare(base / "recordings", base / "store", atlas=people[0].atlas)
    return Store.open(base / "store")


@pytest.fixture(scope="module")
def encoder(planted: Store) -> SemantoksEncoder:
    """Not trained: it has seen nobody."""
    torch.manual_seed(0)
    model = SemantoksEncoder(planted.atlas, dim=64, depth=1)
    model.preprocessing = planted.preprocessing.to_dict()
    return model.eval()


@pytest.fixture(scope="module")
def found(planted: Store) -> Explanation:
    return explain(planted, "connectivity", "diagnosis", **QUICK)


def test_the_planted_network_is_first_in_connectivity(found: Explanation) -> None:
    first = found.networks.iloc[0]
    assert first["network"] == "Default"
    assert first["low"] > 0
    assert first["p"] < 0.05
    assert first["alone"] == found.networks["alone"].max() > 0.6
    assert (found.networks["p"].iloc[1:] > 0.05).all()
    assert found.believable
    both = set(map(tuple, found.pairs.loc[:2, ["network_a", "network_b"]].to_numpy()))
    assert both >= {("Cont", "Default"), ("Default", "Default")}  # the planted pairs


@pytest.mark.parametrize("features", ["mean+cls", "networks", "components"])
def test_the_planted_network_is_first_in_a_model(
    planted: Store, encoder: SemantoksEncoder, features: str
) -> None:
    if features == "components":
        encoder.components = fit_read_out(planted)
    told: list[str] = []
    known = explain(
        planted, encoder, "diagnosis", features=features, windows=4, say=told.append,
        **QUICK | {"permutations": 20},
    )  # fmt: skip
    encoder.components = None
    assert known.networks["network"].iloc[0] == "Default"
    assert known.settings["features"] == features
    assert "descriptions of 100 scans, about" in told[0]
    assert ("fresh weights" in set(known.checks["check"])) == (features != "components")


def test_drops_are_those_of_a_probe_that_stays(planted: Store, found: Explanation) -> None:
    edges = connectivity_features(planted).astype(np.float64)
    truth = (planted.scans["diagnosis"] == "patient").to_numpy().astype(int)
    named = np.array(["control", "patient"])[truth]
    splits = SubjectFolds(5, 1).splits(planted.scans, named, kind="classification")
    row, column = np.tril_indices(len(planted.atlas), -1)
    owner = np.array(planted.atlas.networks)
    known = {"kind": "classification", "subjects": subjects_of(planted.scans)}
    ones = np.ones((1, len(truth)))
    values = []
    for without in (None, "Default"):
        gone = (owner[row] == without) | (owner[column] == without)
        folds = []
        for split in splits:
            tested = np.where(gone, 0, edges)
            mixed = edges.copy()
            mixed[split.test] = tested[split.test]  # learned with it, tested without
            folds += cross_validated_predictions(mixed, truth, [split], scaling="center", **known)
        scores = score_predictions(folds, truth, ones, kind="classification")
        values.append(scores["auc"].value)
    drop = found.networks.set_index("network").loc["Default", "drop"]
    assert drop == pytest.approx(values[0] - values[1], abs=1e-6)


def test_patterns_are_correlations_within_folds(planted: Store, found: Explanation) -> None:
    edges = connectivity_features(planted).astype(np.float64)
    truth = (planted.scans["diagnosis"] == "patient").to_numpy().astype(int)
    named = np.array(["control", "patient"])[truth]
    splits = SubjectFolds(5, 1).splits(planted.scans, named, kind="classification")
    known = {"kind": "classification", "subjects": subjects_of(planted.scans)}
    folds = cross_validated_predictions(edges, truth, splits, scaling="center", **known)
    row, column = np.tril_indices(len(planted.atlas), -1)
    owner = np.array(planted.atlas.networks)
    inside = (owner[row] == "Default") & (owner[column] == "Default")
    x, s = [], []
    for fold in folds:
        mean = edges[fold.split.test][:, inside].mean(axis=1)
        score = fold.score[:, 1] - fold.score[:, 0]
        x.append(mean - mean.mean())
        s.append(score - score.mean())
    wanted = np.corrcoef(np.concatenate(x), np.concatenate(s))[0, 1]
    pair = found.pairs.set_index(["network_a", "network_b"]).loc[("Default", "Default")]
    assert pair["value"] == pytest.approx(wanted, abs=1e-6)
    assert pair["low"] < wanted < pair["high"]


@pytest.mark.parametrize("features", ["mean+cls", "networks"])
def test_gradients_find_the_planted_network_and_are_complete(
    planted: Store, encoder: SemantoksEncoder, features: str
) -> None:
    few = QUICK | {"deletions": 0, "permutations": 0, "untrained": False, "windows": 4}
    known = explain(planted, encoder, "diagnosis", features=features, gradients=60, **few)
    first = known.gradients.iloc[0]
    assert first["network"] == "Default"
    assert first["low"] > 0
    others = known.gradients.set_index("network")["against_others"]
    assert others.idxmax() == "Default"
    (check,) = known.checks[known.checks["check"] == "gradients are complete"].to_dict("records")
    assert check["value"] < 0.01
    assert check["passed"]
    of_rois = known.roi_gradients.groupby("network")["value"].sum()
    np.testing.assert_allclose(
        known.gradients.set_index("network")["value"], of_rois[known.gradients["network"]]
    )


def test_gradients_are_refused_where_there_are_none(
    planted: Store, encoder: SemantoksEncoder
) -> None:
    with pytest.raises(InputError, match="gradients are of an encoder"):
        explain(planted, "connectivity", "diagnosis", gradients=10, **QUICK)
    with pytest.raises(InputError, match="two classes, or of values; site has 3"):
        explain(planted, encoder, "site", gradients=10, **QUICK)
    with pytest.raises(ConfigurationError, match="fewer than 10 people say nothing"):
        explain(planted, encoder, "diagnosis", gradients=1, **QUICK)
    with pytest.raises(ConfigurationError, match="not of second-order; leave gradients out"):
        explain(planted, encoder, "diagnosis", features="second-order", gradients=10, **QUICK)


def test_hidden_networks_are_those_that_a_scan_lacks(
    planted: Store, encoder: SemantoksEncoder
) -> None:
    rows = np.arange(6)
    scans = take_scans(scans_of(planted, encoder), rows)
    everything = np.ones(len(planted.atlas), dtype=bool)
    np.testing.assert_allclose(
        encode_scans(encoder, _only(scans, everything)),
        embed(planted, encoder).features[:6].astype(np.float32),
        atol=1e-5,
    )
    there = everything.copy()
    there[planted.atlas.network_indices[1]] = False
    lacking = Scans(scans.lengths, scans.valid & there, scans.read, scans.name)
    np.testing.assert_allclose(
        encode_scans(encoder, _only(scans, there)), encode_scans(encoder, lacking), atol=1e-6
    )


def test_noise_is_not_explained(planted: Store) -> None:
    with pytest.raises(InputError, match=r"handedness is not told above chance: auc .* nothing to"):
        explain(planted, "connectivity", "handedness", **QUICK)


def test_a_map_of_motion_is_told(tmp_path: Path) -> None:
    atlas = Atlas.from_networks({"Vis": 4, "Cont": 4, "Default": 4}, name="tiny")
    random = np.random.default_rng(3)
    with StoreWriter(tmp_path / "store", atlas, Preprocessing(min_samples=50), {}) as writer:
        for person in range(60):
            motion = float(random.uniform(0.1, 1.0))
            series = random.standard_normal((12, 80))
            series[:6] += 1.5 * motion * random.standard_normal(80)  # what moves is seen in these
            name, moves = f"{person:03d}", "much" if motion > 0.55 else "little"
            recording = Recording(
                series.astype(np.float32), 2.0, atlas, name, name,
                motion=motion if person else None, phenotypes={"moves": moves},
            )  # fmt: skip
            writer.add(recording, np.ones(12, dtype=bool))
        store = writer.finish(())
    known = explain(store, "connectivity", "moves", **QUICK)
    (check,) = known.checks[known.checks["check"] == "not motion"].to_dict(orient="records")
    assert check["value"] > 0.5
    assert not check["passed"]
    assert not known.believable
    with pytest.raises(InputError, match="not told above chance"):  # nothing else is in it
        explain(store, "connectivity", "moves", confounds=["motion"], **QUICK)


def test_what_confounds_do_is_taken_out_before_the_probe(planted: Store) -> None:
    known = explain(planted, "connectivity", "diagnosis", confounds=["site", "motion"], **QUICK)
    assert known.networks["network"].iloc[0] == "Default"
    assert known.settings["confounds"] == ["site", "motion"]
    (check,) = known.checks[known.checks["check"] == "not motion"].to_dict(orient="records")
    assert abs(check["value"]) < 0.35  # of edges without motion, motion has no map but noise


@pytest.mark.parametrize("permutations", [0, 10])
def test_too_few_permutations_do_not_fail_a_map(planted: Store, permutations: int) -> None:
    few = QUICK | {"permutations": permutations, "deletions": 0}
    known = explain(planted, "connectivity", "diagnosis", **few)
    (check,) = known.checks[known.checks["check"] == "labels given to others"].to_dict("records")
    assert check["passed"] is None
    assert known.networks["p"].isna().all() == (permutations == 0)
    assert known.believable


def test_random_sets_of_equal_size_lose_less_than_the_planted_network(planted: Store) -> None:
    few = QUICK | {"deletions": 0, "permutations": 0}
    known = explain(planted, "connectivity", "diagnosis", random_sets=5, **few)
    first = known.networks.iloc[0]
    assert first["network"] == "Default"
    assert first["random_drop"] < 0.5 * first["drop"]
    assert known.networks["random_drop"].iloc[1:].between(-0.1, first["drop"]).all()


def test_an_explanation_draws_itself(found: Explanation, planted: Store) -> None:
    lost, alone = found.plot_networks().axes
    assert lost.get_yticklabels()[0].get_text().startswith("Default (")
    assert "alone" in alone.get_xlabel()
    matrix = found.plot_pairs().axes[0].images[0].get_array()
    assert matrix.shape == (len(planted.atlas.network_names),) * 2
    with pytest.raises(InputError, match=r"does not say where its ROIs lie; give .* x, y and z"):
        found.plot_brain()
    placed = found.rois.assign(x=np.linspace(-60, 60, len(found.rois)), y=0.0, z=10.0)
    assert len(replace(found, rois=placed).plot_brain().axes) >= 4


def test_three_classes_have_drops_and_no_patterns(planted: Store, tmp_path: Path) -> None:
    known = explain(planted, "connectivity", "site", **QUICK)
    assert len(known.networks) == 5
    assert known.pairs.empty
    folder = write_explanation(known, tmp_path / "out")
    assert not (folder / "pairs.tsv").exists()
    for plot in (known.plot_pairs, known.plot_brain):
        with pytest.raises(InputError, match="no pattern of ROIs"):
            plot()
    assert known.plot_networks().axes
    with pytest.raises(InputError, match="no pattern of ROIs"):
        known.to_nifti(tmp_path / "nothing.nii", planted.atlas)


def test_from_the_command_line(
    planted: Store, encoder: SemantoksEncoder, tmp_path: Path, capsys: Any
) -> None:
    save_encoder(encoder, tmp_path / "model")
    words = ["explain", "--data", planted.path, "--model", tmp_path / "model", "--target"]
    more = ["--permutations", 20, "--deletions", 0, "--windows", 2, "--no-untrained"]
    more += ["--gradients", 20, "--random-sets", 1]
    out = tmp_path / "out"
    assert run([str(x) for x in [*words, "diagnosis", "--out", out, *more, "--json"]]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["networks"][0]["network"] == "Default"
    table = pd.read_csv(out / "importance_networks.tsv", sep="\t")
    assert list(table.columns) == [
        "network", "n_roi", "drop", "low", "high", "p", "refit_drop", "alone", "fold_sd",
        "random_drop",
    ]  # fmt: skip
    assert table["drop"].is_monotonic_decreasing
    page = (out / "explain.html").read_text(encoding="utf-8")
    assert len(page) < 1_000_000
    assert "May I believe it?" in page
    assert "random ROIs" in page
    names = {path.name for path in out.iterdir()}
    assert {"pairs.tsv", "edges.tsv", "explain.json", "networks.svg", "pairs.png"} <= names
    assert {"gradients_networks.tsv", "gradients_rois.tsv"} <= names
    assert run([str(x) for x in [*words, "diagnosis", "--out", out, *more]]) == 1
    assert run([str(x) for x in [*words, "handedness", "--out", tmp_path / "no", *more]]) == 1
    assert not (tmp_path / "no").exists()


def test_values_are_painted_into_their_rois(tmp_path: Path) -> None:
    atlas = Atlas("two", ("a", "b"), ("X", "Y"), ("", ""), np.full((2, 3), np.nan), values=(7, 3))
    labels = np.zeros((3, 3, 3), dtype=np.int16)
    labels[0], labels[1], labels[2, 0] = 3, 7, 9
    nib.save(nib.Nifti1Image(labels, np.diag([2.0, 2, 2, 1])), tmp_path / "atlas.nii.gz")
    painted = paint_rois(tmp_path / "atlas.nii.gz", atlas, np.array([0.5, -0.25]))
    values = painted.get_fdata()
    assert (values[0] == -0.25).all()
    assert (values[1] == 0.5).all()
    assert not values[2].any()
    np.testing.assert_array_equal(painted.affine, np.diag([2.0, 2, 2, 1]))
