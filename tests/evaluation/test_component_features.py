"""The closed form inside a model: learned by pretrain, applied by embed to whole scans."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from semantoks.benchmark.comparison import compare
from semantoks.cli.application import run
from semantoks.data.selection import select_scans
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import Embeddings, embed, read_embeddings
from semantoks.evaluation.features import SemantoksFeatures
from semantoks.evaluation.probe import cross_validated_predictions
from semantoks.evaluation.splitters import subject_folds
from semantoks.model.checkpoint import load_encoder, save_encoder
from semantoks.model.components import fit_components, fit_read_out, log_connectivity
from semantoks.model.encoder import SemantoksEncoder, fresh_weights
from semantoks.training.config import configure, tiny
from semantoks.training.pretraining import pretrain


@pytest.fixture(scope="module")
def folder(cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the first forty people, from the command line."""
    base = tmp_path_factory.mktemp("components")
    (base / "first").write_text("\n".join(f"{i:03d}" for i in range(40)))
    words = ["pretrain", "--data", cohort.store.path, "--recipe", "components"]
    words += ["--subjects", base / "first", "--out", base / "run"]
    assert run([str(word) for word in words]) == 0
    return base / "run"


def rows_of(store: Store, scans: range) -> np.ndarray:
    """Fill what a scan lacks with the mean of those of the first forty that have it."""
    known = [~np.isnan(with_gaps(store, i)) for i in range(40)]
    rows = np.array([with_gaps(store, i) for i in range(40)])
    mean = np.nansum(rows, axis=0) / np.sum(known, axis=0)
    wanted = np.array([with_gaps(store, i) for i in scans])
    return np.where(np.isnan(wanted), mean, wanted)


def with_gaps(store: Store, scan: int) -> np.ndarray:
    row = log_connectivity(store.series(scan), store.valid[scan])
    whole = store.valid[scan][:, None] & store.valid[scan]
    return np.where(whole[np.tril_indices(9)], row, np.nan)


def test_scores_are_those_of_the_closed_form(cohort, folder: Path) -> None:
    components, own = fit_components(rows_of(cohort.store, range(40)))
    found = embed(cohort.store, load_encoder(folder)).features
    signs = np.sign((own * found[:40]).sum(axis=0))
    np.testing.assert_allclose(found[:40], own * signs, atol=1e-4)
    others = components.transform(rows_of(cohort.store, range(40, 60))) * signs
    np.testing.assert_allclose(found[40:], others, atol=1e-4)


def test_embed_reads_them_by_default_and_says_so(cohort, folder: Path, tmp_path: Path) -> None:
    words = ["embed", "--data", cohort.store.path, "--model", folder, "--out"]
    assert run([str(word) for word in [*words, tmp_path / "one.parquet"]]) == 0
    assert run([str(x) for x in [*words, tmp_path / "two.parquet", "--workers", 2]]) == 0
    one, two = (read_embeddings(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert one.feature_names == [f"components_{i:04d}" for i in range(22)]
    assert one.provenance["features"] == "components"
    assert one.provenance["model"]["components"] == {"numbers": 22, "scans": 40}
    np.testing.assert_array_equal(one.features, two.features)


def test_the_card_says_what_the_model_holds_of_people(folder: Path) -> None:
    card = (folder / "model" / "README.md").read_text(encoding="utf-8")
    assert "sums of the connectivity of the people" in card


def test_taper_and_scales_stand_in_the_configuration(cohort, folder: Path) -> None:
    said = json.loads((folder / "model" / "config.json").read_text(encoding="utf-8"))["components"]
    rows = rows_of(cohort.store, range(40))
    _, s, _ = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    values = s**2
    np.testing.assert_allclose(said["taper"], (values[:22] - values[22]) / values[:22], atol=1e-3)
    noise = values[12:39].mean()
    wanted = np.maximum(1 - noise / values[:22], 0.05)
    np.testing.assert_allclose(said["shrink_of_those_who_made_it"], wanted, atol=1e-3)
    assert said["share_of_correlation"] == 0.7


def test_the_other_features_of_an_untrained_encoder_are_refused(cohort, folder: Path) -> None:
    encoder = load_encoder(folder)
    with pytest.raises(ConfigurationError, match=r"never trained.*components"):
        embed(cohort.store, encoder, features="components+mean")
    control = embed(cohort.store, fresh_weights(encoder))
    assert control.provenance["features"] == "mean+cls"
    with pytest.raises(ConfigurationError, match="recipe components"):
        embed(cohort.store, fresh_weights(encoder), features="components")


def test_arrays_that_are_shorter_than_a_window_are_described(cohort, tmp_path: Path) -> None:
    encoder = SemantoksEncoder(cohort.store.atlas, dim=64, depth=0, window=100)
    encoder.components = fit_read_out(cohort.store)
    again = load_encoder(save_encoder(encoder, tmp_path / "model"))
    arrays = [cohort.store.series(i) for i in (1, 2)]
    found = SemantoksFeatures(again, t_r=2.0).fit(arrays)
    assert found.transform(arrays).shape == (2, 33)
    assert list(found.get_feature_names_out())[:1] == ["components_0000"]
    with pytest.raises(InputError, match="60 sample"):
        SemantoksFeatures(again, features="cls", t_r=2.0).fit_transform(arrays)
    with pytest.raises(InputError, match="20 are needed"):
        SemantoksFeatures(again, t_r=2.0).fit_transform([array[:, :19] for array in arrays])


def test_components_stand_beside_what_is_trained(cohort, tmp_path: Path) -> None:
    sizes = {"model.window": 20, "optimization.epochs": 1, "optimization.warmup_epochs": 0}
    plain = pretrain(cohort.store, tmp_path / "plain", configure(tiny(), sizes))
    both = pretrain(
        cohort.store, tmp_path / "both", configure(tiny(), {**sizes, "model.components": 5})
    )
    first, second = load_encoder(plain.folder), load_encoder(both.folder)
    np.testing.assert_array_equal(
        embed(cohort.store, first).features,
        embed(cohort.store, second, features="mean+cls").features,
    )
    assert embed(cohort.store, second).features.shape == (60, 5)
    assert "components" not in first.arguments
    joined = embed(cohort.store, second, features="components+cls").features
    np.testing.assert_array_equal(joined[:, :5], embed(cohort.store, second).features)
    np.testing.assert_array_equal(
        joined[:, 5:], embed(cohort.store, first, features="cls").features
    )


def test_a_missing_roi_says_nothing(cohort) -> None:
    made = fit_read_out(cohort.store)
    series = cohort.store.series(0).copy()
    series[2] = 0
    valid = np.arange(9) != 2
    expected = with_gaps_of(series, valid)
    entries = np.where(np.isnan(expected), made.mean.numpy(), expected) - made.mean.numpy()
    np.testing.assert_allclose(
        made.describe(series, np.ones(9, dtype=bool)), entries @ made.basis.numpy(), atol=1e-4
    )


def with_gaps_of(series: np.ndarray, valid: np.ndarray) -> np.ndarray:
    row = log_connectivity(series, valid)
    return np.where((valid[:, None] & valid)[np.tril_indices(9)], row, np.nan)


def test_probes_keep_their_spread(cohort, folder: Path) -> None:
    store = select_scans(cohort.store, np.arange(60))
    found: Embeddings = embed(store, load_encoder(folder))
    store.scans["group"] = np.array(["a", "b"])[cohort.classes]
    splits = subject_folds(
        store.scans, store.scans["group"], kind="classification", n_folds=5, repeats=1
    )
    wanted = cross_validated_predictions(
        found.features, cohort.classes, splits, kind="classification",
        subjects=cohort.subjects, scaling="center",
    )  # fmt: skip
    compared = compare(store, {"floor": found}, "group", n_folds=5, repeats=1, n_draws=10)
    table = compared.predictions.query("method == 'floor'").set_index("scan")
    for fold in wanted:
        names = store.scans["scan"].iloc[fold.split.test]
        np.testing.assert_allclose(table.loc[names, "score_b"], fold.score[:, 1], atol=1e-6)


def test_a_handful_of_scans_is_refused_before_anything_is_trained(store, tmp_path: Path) -> None:
    few = select_scans(store, np.arange(3))
    with pytest.raises(InputError, match="at least 4 scans"):
        pretrain(few, tmp_path / "run", configure(tiny(), {
            "model.components": 2, "model.window": 20, "optimization.batch_size": 2,
        }))  # fmt: skip
    assert not (tmp_path / "run").exists()
