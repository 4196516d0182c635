"""Methods on the same splits, with connectivity beside them; bad input is refused by name."""

from __future__ import annotations

import copy
import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score, r2_score, roc_auc_score

from semantoks.benchmark.comparison import Comparison, compare, comparison_table, write_comparison
from semantoks.data.selection import select_scans
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.embedding import Embeddings
from semantoks.evaluation.metrics import bootstrap_weights, interval
from semantoks.evaluation.split_files import splits_record

QUICK = {"repeats": 2, "n_draws": 200}


@pytest.fixture(scope="module")
def planted(store) -> Embeddings:
    random = np.random.default_rng(1)
    features = random.standard_normal((len(store), 5))
    features[:, 0] += 2 * (store.scans["diagnosis"] == "patient")
    frame = pd.DataFrame(features, columns=list("abcde")).assign(scan=store.scans["scan"])
    return Embeddings(frame)


@pytest.fixture(scope="module")
def comparison(store, planted) -> Comparison:
    return compare(store, {"planted": planted}, "diagnosis", **QUICK)


def row(comparison: Comparison, method: str, metric: str) -> pd.Series:
    table = comparison.table
    return table[(table["method"] == method) & (table["metric"] == metric)].iloc[0]


def with_frame(embeddings: Embeddings, frame: pd.DataFrame) -> Embeddings:
    return replace(embeddings, frame=frame)


def test_planted_signal_is_found_in_connectivity_and_features(comparison):
    assert row(comparison, "connectivity", "balanced_accuracy")["low"] > 0.6
    assert row(comparison, "planted", "auc")["low"] > 0.6
    assert list(comparison.table["method"].unique()) == ["planted", "connectivity", "site", "dummy"]
    assert (comparison.table["n_scans"] == 80).all()
    assert (comparison.table["n_subjects"] == 60).all()


def test_dummy_is_exactly_at_chance(comparison):
    for metric in ("balanced_accuracy", "auc"):
        dummy = row(comparison, "dummy", metric)
        assert (dummy["value"], dummy["low"], dummy["high"]) == (0.5, 0.5, 0.5)


def test_knowing_the_site_gains_nothing_within_sites(store, noise):
    tilted = select_scans(store, np.arange(len(store)))
    sites = tilted.scans["site"].to_numpy().astype(str)
    lucky = np.random.default_rng(0).random(len(sites)) < np.where(sites == "Oslo", 0.9, 0.2)
    by_person = dict(zip(tilted.scans["subject"], lucky, strict=True))
    tilted.scans["lucky"] = [str(by_person[x]) for x in tilted.scans["subject"]]
    of_tilted = Embeddings(noise.frame)
    found = compare(tilted, {"noise": of_tilted}, "lucky", **QUICK)
    assert row(found, "site", "auc")["low"] > 0.6
    within = row(found, "site", "auc_within_site")
    assert (within["value"], within["low"], within["high"]) == (0.5, 0.5, 0.5)
    tables = found.predictions[found.predictions["method"] == "noise"]
    pairs = concordant = 0.0
    areas = []
    for _, repeat in tables.groupby("repeat"):
        where = tilted.scans.set_index("scan")["site"].loc[repeat["scan"]].to_numpy()
        for _, part in repeat.groupby([repeat["fold"].to_numpy(), where]):
            positive = (part["truth"] == "True").to_numpy()
            if 0 < positive.sum() < len(positive):
                count = positive.sum() * (~positive).sum()
                concordant += roc_auc_score(positive, part["score_True"]) * count
                pairs += count
        areas.append(concordant / pairs)
        pairs = concordant = 0.0
    assert row(found, "noise", "auc_within_site")["value"] == pytest.approx(np.mean(areas))


def test_sites_that_are_the_target_or_unknown_are_no_method(store, planted):
    bonn = select_scans(store, np.arange(len(store)))
    bonn.scans["home"] = "at " + bonn.scans["site"].astype(str)
    found = compare(bonn, {"planted": planted}, "home", **QUICK).table
    assert set(found["metric"]) == {"balanced_accuracy", "auc", "f1"}
    assert "site" not in set(found["method"])


def test_closed_forms_are_methods_where_they_are_asked_for(store, planted):
    both = ("log-connectivity", "components")
    found = compare(store, {"planted": planted}, "diagnosis", baselines=both, **QUICK)
    for name in both:
        assert row(found, name, "balanced_accuracy")["low"] > 0.6
    assert found.settings["methods"]["components"]["n_features"] == 36
    with pytest.raises(ConfigurationError, match="no baseline 'tangents'"):
        compare(store, {"planted": planted}, "diagnosis", baselines=("tangents",), **QUICK)


def test_unplanted_target_is_at_chance(store, noise):
    found = compare(store, {"noise": noise}, "coin", **QUICK).table
    learned = found[~found["method"].isin(["dummy", "site"])]
    assert (learned["low"] < 0.5).all()
    assert (learned["high"] > 0.5).all()


def test_table_can_be_computed_from_the_predictions_that_it_comes_with(comparison):
    for method in ("planted", "connectivity"):
        rows = comparison.predictions[comparison.predictions["method"] == method]
        accuracy, area = [], []
        for _, part in rows.groupby("repeat"):
            assert sorted(part["scan"]) == sorted(set(part["scan"]))
            assert len(part) == 80
            accuracy.append(balanced_accuracy_score(part["truth"], part["prediction"]))
            pairs = concordant = 0.0
            for _, fold in part.groupby("fold"):
                positive = (fold["truth"] == "patient").to_numpy()
                pairs += positive.sum() * (~positive).sum()
                of_fold = roc_auc_score(positive, fold["score_patient"])
                concordant += of_fold * positive.sum() * (~positive).sum()
            area.append(concordant / pairs)
        value = row(comparison, method, "balanced_accuracy")["value"]
        assert value == pytest.approx(np.mean(accuracy))
        assert row(comparison, method, "auc")["value"] == pytest.approx(np.mean(area))


def test_difference_to_connectivity_is_paired(store, planted):
    """The same draws of subjects weigh both methods, so that the interval is that of one list."""
    comparison = compare(store, {"planted": planted}, "diagnosis", repeats=2, n_draws=30)
    rows = comparison.predictions
    scans = list(rows["scan"].unique())
    subjects = [scan.split("_")[0] for scan in sorted(scans)]
    weights = bootstrap_weights(subjects, 30, 0)
    draws = {}
    for method in ("planted", "connectivity"):
        each = []
        for repeat in range(2):
            part = rows[(rows["method"] == method) & (rows["repeat"] == repeat)]
            part = part.sort_values("scan")
            each.append(
                [
                    balanced_accuracy_score(part["truth"], part["prediction"], sample_weight=w)
                    for w in weights
                ]
            )
        draws[method] = np.concatenate(each)
    found = row(comparison, "planted", "balanced_accuracy")
    expected = interval(draws["planted"] - draws["connectivity"])
    assert (found["difference_low"], found["difference_high"]) == pytest.approx(expected)
    reference = row(comparison, "connectivity", "balanced_accuracy")
    assert found["difference"] == pytest.approx(found["value"] - reference["value"])
    assert np.isnan(
        reference[["difference", "difference_low", "difference_high"]].astype(float)
    ).all()


def test_same_features_under_two_names_do_not_differ(store, planted):
    table = compare(store, {"a": planted, "b": planted}, "diagnosis", **QUICK).table
    a, b = (table[table["method"] == m].reset_index(drop=True) for m in "ab")
    pd.testing.assert_frame_equal(a.drop(columns="method"), b.drop(columns="method"))


def test_order_of_rows_of_an_embedding_does_not_matter(store, planted, comparison):
    shuffled = with_frame(planted, planted.frame.sample(frac=1, random_state=3))
    again = compare(store, {"planted": shuffled}, "diagnosis", **QUICK)
    pd.testing.assert_frame_equal(again.table, comparison.table)


def test_regression_has_true_r2_and_counts_missing_values(store, noise):
    found = compare(store, {"noise": noise}, "age", **QUICK)
    assert found.settings["kind"] == "regression"
    assert found.settings["n_missing"] == 8
    assert (found.table["n_scans"] == 72).all()
    rows = found.predictions[found.predictions["method"] == "noise"]
    expected = [r2_score(part["truth"], part["prediction"]) for _, part in rows.groupby("repeat")]
    assert row(found, "noise", "r2")["value"] == pytest.approx(np.mean(expected))
    assert set(found.table["metric"]) == {"r2", "mae", "pearson_r", "pearson_r_within_site"}


def test_one_site_is_left_out_at_a_time(store, planted):
    found = compare(store, {"planted": planted}, "diagnosis", splits="site", **QUICK)
    assert set(found.predictions["fold"]) == {"Bonn", "Oslo", "Rome"}
    sites = store.scans.set_index("scan")["site"]
    assert (sites[found.predictions["scan"]].to_numpy() == found.predictions["fold"]).all()
    assert row(found, "connectivity", "auc")["value"] > 0.8
    assert row(found, "connectivity", "auc")["low"] > 0.5
    assert found.settings["resampling"] == "folds, then subjects"
    with pytest.raises(InputError, match="target 'site' is the site itself"):
        compare(store, {}, "site", splits="site")
    with pytest.raises(InputError, match="no column 'centre'"):
        compare(store, {}, "diagnosis", splits="site", site_column="centre")


def test_logistic_classifier_finds_the_same_signal(store, planted):
    found = compare(
        store, {"planted": planted}, "diagnosis", classifier="logistic", n_folds=3, repeats=1
    )
    assert row(found, "connectivity", "auc")["low"] > 0.6
    assert found.settings["classifier"] == "logistic"


def test_result_is_the_same_every_time_and_follows_the_seed(store, planted, comparison):
    again = compare(store, {"planted": planted}, "diagnosis", **QUICK)
    pd.testing.assert_frame_equal(again.predictions, comparison.predictions)
    pd.testing.assert_frame_equal(again.table, comparison.table)
    other = compare(store, {}, "diagnosis", seed=1, **QUICK)
    assert other.settings["splits_sha256"] != comparison.settings["splits_sha256"]


def test_embeddings_of_other_scans_are_refused(store, noise):
    frame = noise.frame
    cases = {
        r"lack scans of the store: 2, such as": frame.iloc[2:],
        r"name scans more than once: 1, such as": pd.concat([frame, frame.iloc[:1]]),
        r"does not have: 1, such as stranger": pd.concat(
            [frame, frame.iloc[:1].assign(scan="stranger")]
        ),
    }
    for message, changed in cases.items():
        with pytest.raises(InputError, match=f"'mine' .*{message}"):
            compare(store, {"mine": with_frame(noise, changed)}, "diagnosis")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_features_are_refused_with_scan_and_feature(store, noise, value):
    frame = noise.frame.copy()
    frame.loc[frame["scan"] == "004_0", "mean_0003"] = value
    with pytest.raises(InputError, match=r"the first is '004_0' \(feature 'mean_0003'"):
        compare(store, {"mine": with_frame(noise, frame)}, "diagnosis")


def test_embeddings_of_another_store_are_refused(store, noise, other_store):
    with pytest.raises(InputError, match=f"another store .fingerprint {store.fingerprint}"):
        compare(other_store, {"mine": noise}, "diagnosis")


def test_unusable_targets_are_refused(store):
    for target, message in {
        "diagnosys": "mean 'diagnosis'",
        "same": "same value",
        "empty": "missing in all",
        "rare": r"'yes' \(3\)",
    }.items():
        with pytest.raises(InputError, match=message):
            compare(store, {}, target)


def test_unknown_options_are_refused(store, noise):
    with pytest.raises(ConfigurationError, match="'connectivity': this is the name of a baseline"):
        compare(store, {"connectivity": noise}, "diagnosis")
    with pytest.raises(ConfigurationError, match="not 'family'"):
        compare(store, {}, "diagnosis", splits="family")
    with pytest.raises(ConfigurationError, match="not 'svm'"):
        compare(store, {}, "diagnosis", classifier="svm")
    with pytest.raises(InputError, match="connectivity of 3 scans"):
        compare(store, {}, "diagnosis", connectivity=np.zeros((3, 28)))


def test_written_comparison_is_complete(comparison, tmp_path):
    folder = write_comparison(comparison, tmp_path / "deep" / "probe")
    assert sorted(p.name for p in folder.iterdir()) == [
        "predictions.parquet",
        "scores.csv",
        "scores.parquet",
        "settings.json",
        "splits.json",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["probe"]
    scores = pd.read_csv(folder / "scores.csv")
    pd.testing.assert_frame_equal(scores, comparison.table, check_dtype=False)
    pd.testing.assert_frame_equal(
        pd.read_parquet(folder / "predictions.parquet"), comparison.predictions, check_dtype=False
    )
    settings = json.loads((folder / "settings.json").read_text())
    splits = json.loads((folder / "splits.json").read_text())
    assert settings["splits_sha256"] == splits["sha256"]
    assert splits == splits_record(comparison.splits)
    assert settings["classes"] == {"control": 40, "patient": 40}


def test_existing_folder_is_not_touched(comparison, tmp_path):
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        write_comparison(comparison, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_full_disk_leaves_nothing_behind(comparison, tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(InputError, match="No space left on device"):
        write_comparison(comparison, tmp_path / "probe")
    assert list(tmp_path.iterdir()) == []


def test_terminal_table_fits_80_columns_and_says_it_all(store, planted, comparison):
    for shown in (comparison, compare(store, {"planted": planted}, "age", **QUICK)):
        stream = io.StringIO()
        Console(file=stream, width=80).print(comparison_table(shown))
        text = stream.getvalue()
        assert "…" not in text
        for _, line in shown.table.iterrows():
            assert line["method"] in text
            number = f"{line['value']:.3f} [{line['low']:.3f}, {line['high']:.3f}]"
            assert (number if np.isfinite(line["value"]) else "not defined") in text
    assert "mae (lower is better)" in text
    assert "72 scans of 54 subjects, 8 without the target" in text


def printed(comparison: Comparison) -> str:
    stream = io.StringIO()
    Console(file=stream, width=80).print(comparison_table(comparison))
    return stream.getvalue()


def test_terminal_table_says_how_subjects_were_divided(store, planted, comparison):
    assert "diagnosis (classification, folds of subjects)" in printed(comparison)
    assert "95 % interval over subjects and splits" in printed(comparison)
    assert "One division" not in printed(comparison)
    once = compare(store, {"planted": planted}, "diagnosis", repeats=1, n_draws=50)
    assert "One division only: the interval is over folds, then subjects" in printed(once)
    site = compare(store, {"planted": planted}, "diagnosis", splits="site", n_draws=50)
    assert "One division only: the interval is over sites, then subjects" in printed(site)


def test_one_division_has_wider_intervals_than_drawing_subjects_alone(store, planted):
    found = compare(store, {"planted": planted}, "diagnosis", repeats=1, n_draws=400)
    rows = found.predictions[found.predictions["method"] == "planted"]
    drawn = bootstrap_weights(rows["subject"], 400, 0)
    hit = (rows["truth"] == rows["prediction"]).to_numpy(float)
    low, high = interval((drawn @ hit) / drawn.sum(axis=1))
    mine = row(found, "planted", "balanced_accuracy")
    assert mine["high"] - mine["low"] > 1.1 * (high - low)


def test_embeddings_whose_encoder_saw_the_tested_scans_are_named(store, planted, noise):
    said = {"store": {"fingerprint": store.fingerprint}, "trained_on": store.fingerprint}
    seen, fresh = replace(planted, provenance=said), replace(noise, provenance={"trained_on": None})
    found = compare(store, {"seen": seen, "fresh": fresh}, "diagnosis", **QUICK)
    assert found.settings["transductive"] == ["seen"]
    assert "Pretraining saw these scans, without labels: seen." in printed(found)
    other = replace(planted, provenance={"trained_on": "of another store"})
    found = compare(store, {"other": other}, "diagnosis", **QUICK)
    assert found.settings["transductive"] == []
    assert "Pretraining" not in printed(found)


def test_area_that_is_not_defined_is_said_so(store, planted):
    """Every site holds one class only, so that no pair of scans can be compared."""
    table = store.scans.assign(group=np.where(store.scans["site"] == "Rome", "x", "y"))
    table.loc[table["subject"].isin(["000", "001"]), "site"] = "Ghent"
    table.loc[table["subject"].isin(["004", "005"]), "site"] = "Paris"
    table["group"] = np.where(table["site"].isin(["Rome", "Paris"]), "x", "y")
    changed = copy.copy(store)
    changed.__dict__["scans"] = table
    found = compare(changed, {"planted": planted}, "group", splits="site", n_draws=50)
    assert np.isnan(row(found, "planted", "auc")[["value", "low", "high"]].astype(float)).all()
    assert "not defined" in printed(found)
    assert row(found, "planted", "balanced_accuracy")["value"] >= 0


def test_progress_counts_methods(store, planted):
    calls: list[tuple[int, int]] = []
    compare(
        store,
        {"planted": planted},
        "diagnosis",
        progress=lambda done, of: calls.append((done, of)),
        **QUICK,
    )
    assert calls == [(1, 2), (2, 2)]


def test_relatives_stay_together_and_are_drawn_together(store, planted):
    kin = select_scans(store, np.arange(len(store)))
    number = kin.scans["subject"].astype(int)
    kin.scans["family"] = [f"f{i // 4}" for i in number]  # two patients and two controls
    found = compare(
        kin, {"planted": Embeddings(planted.frame)}, "diagnosis", family_column="family", **QUICK
    )
    family = kin.scans.set_index("scan")["family"]
    rows = found.predictions[found.predictions["method"] == "planted"]
    together = rows.assign(family=family.loc[rows["scan"]].to_numpy())
    assert (together.groupby(["repeat", "family"])["fold"].nunique() == 1).all()
    assert found.settings["family_column"] == "family"
    alone = compare(kin, {"planted": Embeddings(planted.frame)}, "diagnosis", **QUICK)
    assert (alone.predictions.groupby(["repeat", "scan", "method"]).size() == 1).all()
    with pytest.raises(InputError, match="no column 'kin'"):
        compare(
            kin, {"planted": Embeddings(planted.frame)}, "diagnosis", family_column="kin", **QUICK
        )
