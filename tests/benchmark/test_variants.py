"""Ablations and scaling: every cell a run folder, taken up where it was left."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from semantoks.benchmark.variants import ABLATIONS, PAPER, _variant, ablate, fit_power_law, scale
from semantoks.cli.application import run
from semantoks.data.preparation import prepare
from semantoks.data.selection import select_scans
from semantoks.data.simulation import simulate_cohort, write_cohort
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError
from semantoks.model.checkpoint import load_model, seen_subjects
from semantoks.model.encoder import SemantoksEncoder
from semantoks.training.config import Configuration, configure, tiny

QUICK = {
    "model.dim": 32,
    "model.depth": 1,
    "model.head_dim": 16,
    "model.projection_hidden_dim": 32,
    "model.projection_dim": 16,
    "optimization.epochs": 1,
    "optimization.warmup_epochs": 0,
    "optimization.batch_size": 4,
}


@pytest.fixture(scope="module")
def recipe() -> Configuration:
    return configure(tiny(), QUICK)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("variants")
    recordings = simulate_cohort(40, n_samples=130, seed=0)
    write_cohort(recordings, folder / "raw")
    prepare(folder / "raw", folder / "store", atlas=recordings[0].atlas)
    return Store.open(folder / "store")


def test_every_ablation_is_a_recipe(recipe: Configuration) -> None:
    changed = {name: configure(recipe, changes) for name, changes in ABLATIONS.items()}
    assert changed.pop("full") == recipe
    assert all(other != recipe for other in changed.values())


def test_ablations_of_the_paper_are_what_is_compared() -> None:
    asked = {"no-summary-term", "summary-term-throughout", "no-cls-term", "random-masks"}
    asked |= {"linear-tokenizer", "one-network", "max-pooling", "untrained", "full"}
    assert asked <= {*PAPER}
    assert {*PAPER} <= {*ABLATIONS}


def test_ablations_of_the_architecture_change_what_they_name(
    store: Store, recipe: Configuration
) -> None:
    built = {
        name: SemantoksEncoder(
            store.atlas, **configure(recipe, changes).model.encoder_arguments()
        ).eval()
        for name, changes in ABLATIONS.items()
        if any(key.startswith("model.") for key in changes) or name == "full"
    }
    series = torch.from_numpy(store.series(0)[None, :, :100])
    tokens = {name: encoder(series).tokens for name, encoder in built.items()}
    n_networks = tokens["full"].shape[1]
    assert {name: t.shape[1] for name, t in tokens.items()} == {
        "full": n_networks,
        "linear-tokenizer": n_networks,
        "one-network": 1,
        "max-pooling": n_networks,
        "attention-pooling": n_networks,
    }
    convolutions = {
        name: sum(isinstance(part, torch.nn.Conv1d) for part in encoder.modules())
        for name, encoder in built.items()
    }
    assert convolutions["linear-tokenizer"] == 0
    assert convolutions["one-network"] == 1
    assert convolutions["full"] == convolutions["max-pooling"] == n_networks
    weights = built["full"].state_dict()
    built["max-pooling"].load_state_dict(weights)  # same weights, another pooling, other tokens
    assert (built["max-pooling"](series).tokens - tokens["full"]).abs().max() > 1e-3
    assert not {*weights} >= {*built["attention-pooling"].state_dict()}


def test_ablation_is_paired_with_the_full_method_and_resumed(
    store: Store, recipe: Configuration, tmp_path: Path
) -> None:
    said: list[str] = []
    given = {"names": ("no-cls-term",), "n_folds": 3, "repeats": 1, "n_draws": 50}
    first = ablate(store, tmp_path / "out", recipe, ["diagnosis"], say=said.append, **given)
    assert {*first.table["method"]} == {"full", "no-cls-term", "connectivity", "site", "dummy"}
    row = first.table.set_index(["metric", "method"]).loc[("balanced_accuracy", "no-cls-term")]
    full = first.table.set_index(["metric", "method"]).loc[("balanced_accuracy", "full")]
    assert row["reference_difference"] == pytest.approx(row["value"] - full["value"])
    assert (tmp_path / "out" / "runs" / "no-cls-term" / "model").is_dir()
    assert sum(text.startswith("pretraining") for text in said) == 2
    said.clear()
    again = ablate(store, tmp_path / "out", recipe, ["diagnosis"], say=said.append, **given)
    assert not [text for text in said if text.startswith(("pretraining", "embedding"))]
    pd.testing.assert_frame_equal(first.table, again.table)


def test_a_folder_holds_one_study(store: Store, recipe: Configuration, tmp_path: Path) -> None:
    given = {"names": (), "n_folds": 3, "repeats": 1, "n_draws": 50}
    ablate(store, tmp_path / "out", recipe, ["diagnosis"], **given)
    other = configure(recipe, {"optimization.epochs": 2})
    with pytest.raises(InputError, match="was made with another recipe"):
        ablate(store, tmp_path / "out", other, ["diagnosis"], **given)
    part = select_scans(store, np.arange(30))
    with pytest.raises(InputError, match="was made with another store"):
        ablate(part, tmp_path / "out", recipe, ["diagnosis"], **given)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="holds something else"):
        ablate(store, tmp_path / "mine", recipe, ["diagnosis"], **given)


def test_unknown_ablations_are_refused(store: Store, recipe: Configuration, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no ablation 'no-cls'.*no-cls-term"):
        ablate(store, tmp_path / "out", recipe, ["diagnosis"], names=("no-cls",))
    assert not (tmp_path / "out").exists()


def test_scaling_is_nested_and_never_tests_whom_it_trained_on(
    store: Store, recipe: Configuration, tmp_path: Path
) -> None:
    scaling = scale(
        store,
        tmp_path / "out",
        recipe,
        ["diagnosis"],
        shares=(0.5, 1.0),
        n_folds=3,
        repeats=1,
        n_draws=50,
    )
    sizes = scaling.table.drop_duplicates("method").set_index("method")["n_pretraining"]
    assert sizes[["untrained", "10-subjects", "20-subjects"]].tolist() == [0, 10, 20]
    assert np.isnan(sizes["connectivity"])
    everyone = list(store.scans["subject"])
    seen = []
    for name in ("10-subjects", "20-subjects"):
        provenance = load_model(tmp_path / "out" / "runs" / name / "model").provenance
        seen.append({*seen_subjects(provenance, everyone)})
    assert seen[0] < seen[1]
    assert len(seen[1]) == 20
    tested = {*scaling.comparisons[0].predictions["subject"]}
    assert len(tested) == 20
    assert not tested & seen[1]
    # equal steps: half the people are seen twice as often
    steps = [
        pd.read_csv(tmp_path / "out" / "runs" / name / "metrics.csv")["step"].max()
        for name in ("10-subjects", "20-subjects")
    ]
    assert steps[0] in (steps[1], steps[1] - 1)  # whole batches


def test_equal_steps_have_an_equal_warm_up(store: Store, recipe: Configuration) -> None:
    """An eighth of the people is seen eight times as often, and warmed up over as many steps."""
    asked = configure(recipe, {"optimization.epochs": 12, "optimization.warmup_epochs": 3})
    people = np.arange(40)
    for share in (0.125, 0.25, 1.0):
        variant, size = _variant(store, people, asked, share, 0, "steps")
        optimization = variant.configuration.optimization
        assert size == 40 * share
        assert (optimization.epochs, optimization.warmup_epochs) == (12 / share, 3 / share)
        alike = _variant(store, people, asked, share, 0, "epochs")[0].configuration.optimization
        assert (alike.epochs, alike.warmup_epochs) == (12, 3)
    untrained, size = _variant(store, people, asked, 0.0, 0, "steps")
    assert (untrained.configuration.optimization.epochs, size) == (0, 0)


def test_power_law() -> None:
    sizes = np.array([20.0, 80, 320, 1280] * 3)
    rng = np.random.default_rng(0)
    scores = 0.3 * np.log(sizes) ** 0.4 * np.exp(0.01 * rng.standard_normal(len(sizes)))
    law = fit_power_law(sizes, scores)
    assert law.low < 0.4 < law.high
    assert law.high - law.low < 0.1
    assert law.scale == pytest.approx(0.3, rel=0.05)
    assert np.isnan(fit_power_law(sizes[:2], scores[:2]).exponent)
    assert np.isnan(fit_power_law(sizes, -scores).exponent)


def test_commands_write_a_page(store: Store, tmp_path: Path) -> None:
    common = ["--data", str(store.path), "--recipe", "tiny", "--target", "diagnosis"]
    common += ["--folds", "3", "--repeats", "1"]
    for key, value in QUICK.items():
        common += ["--set", f"{key}={value}"]
    ablation, scaling = tmp_path / "ablation", tmp_path / "scaling"
    assert run(["ablate", *common, "--only", "untrained", "--out", str(ablation), "--quiet"]) == 0
    assert run(["scale", *common, "--share", "1", "--out", str(scaling), "--quiet"]) == 0
    assert "minus full" in (ablation / "report.html").read_text()
    assert "Power law in the logarithm" in (scaling / "report.html").read_text()
