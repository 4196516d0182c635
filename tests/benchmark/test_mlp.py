"""The perceptron finds what is plain to see, and nothing where nothing is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from semantoks.benchmark.baselines import MLP_TRAINING, RoiMlp, mlp_predictions
from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.splits import Split

CLASSES = np.arange(60) % 2
QUICK = MLP_TRAINING._replace(learning_rate=1e-2, epochs=20, windows=2, batch_size=6)
SPLIT = Split("mine", 0, "0", np.arange(36), np.arange(46, 60), validation=np.arange(36, 46))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """In one class, the first ROI rises where the others do not."""
    atlas = Atlas.from_networks({"Vis": 2, "Default": 3}, name="tiny")
    random = np.random.default_rng(0)
    path: Path = tmp_path_factory.mktemp("mlp") / "store"
    with StoreWriter(path, atlas, Preprocessing(min_samples=20), {}) as writer:
        for i, patient in enumerate(CLASSES):
            series = 0.3 * random.standard_normal((5, 24))
            series[0] += patient * np.linspace(-2, 2, 24)
            series = (series - series.mean(1, keepdims=True)) / series.std(1, keepdims=True)
            who = Recording(series.astype(np.float32), 2.0, atlas, str(i), str(i))
            writer.add(who, np.ones(5, dtype=bool))
        return writer.finish(())


def predicted(store: Store, truth: np.ndarray, **options):
    return mlp_predictions(
        store,
        truth,
        [SPLIT],
        kind="classification",
        subjects=np.arange(60).astype(str),
        device="cpu",
        **{
            "window": 20,
            "settings": QUICK,
            "roi_dim": 4,
            "hidden_dim": 16,
            "dropout": 0.1,
            **options,
        },
    )[0]


def test_planted_class_is_found_and_test_labels_are_not_looked_at(store):
    fold = predicted(store, CLASSES)
    assert balanced_accuracy_score(CLASSES[SPLIT.test], fold.prediction) > 0.8
    hidden = CLASSES.astype(float)
    hidden[SPLIT.test] = np.nan
    np.testing.assert_array_equal(predicted(store, hidden).score, fold.score)


def test_every_roi_goes_through_the_same_layer():
    torch.manual_seed(0)
    mlp = RoiMlp(3, 10, 2, roi_dim=4).eval()
    series = torch.randn(2, 3, 10)
    each = mlp.each(series)
    torch.testing.assert_close(each[:, [2, 0, 1]], mlp.each(series[:, [2, 0, 1]]))
    torch.testing.assert_close(mlp(series, np.ones((2, 3), bool)), mlp.all(each.flatten(1)))


def test_impossible_sizes_are_refused(store):
    with pytest.raises(ConfigurationError, match="dropout of 1"):
        predicted(store, CLASSES, dropout=1)
    with pytest.raises(InputError, match=r"shorter than the window of 30 .*'0' with 24"):
        predicted(store, CLASSES, window=30)
