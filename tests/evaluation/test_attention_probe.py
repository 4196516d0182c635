"""Attention finds a signal that stands in one token, which the mean of all tokens drowns."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import balanced_accuracy_score, r2_score

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.attention_probe import (
    ATTENTION,
    AttentionProbe,
    _loss,
    _Probes,
    attention_probe_predictions,
    scan_outputs,
)
from semantoks.evaluation.splits import Split
from semantoks.evaluation.windows import WindowTokens

N, WINDOWS = 90, 3
SUBJECTS = np.arange(N).astype(str)
CLASSES = np.arange(N) % 2
SPLIT = Split("mine", 0, "0", np.arange(54), np.arange(70, N), validation=np.arange(54, 70))
QUICK = ATTENTION._replace(epochs=25, rates=(0.03, 0.003))


def tokens_of(shift: np.ndarray, seed: int = 0) -> WindowTokens:
    """Token (0, 1) is marked by one number and tells the class by another; the rest is noise."""
    random = np.random.default_rng(seed)
    scan = np.arange(N).repeat(WINDOWS)
    tokens = random.standard_normal((len(scan), 3, 4, 8))
    tokens[:, 0, 1, 0] += 8
    tokens[:, 0, 1, 1] += shift[scan]
    return WindowTokens(tokens.astype(np.float16), scan)


def probed(tokens, truth, kind="classification", settings=QUICK, **options):
    return attention_probe_predictions(
        tokens, truth, [SPLIT], kind=kind, subjects=SUBJECTS, settings=settings, **options
    )[0]


@pytest.mark.parametrize("queries", [1, 2])
def test_class_in_one_token_is_found(queries):
    fold = probed(tokens_of(3.0 * (2 * CLASSES - 1)), CLASSES, queries=queries)
    assert balanced_accuracy_score(CLASSES[SPLIT.test], fold.prediction) > 0.85
    assert fold.score.shape == (20, 2)
    assert fold.chosen["learning_rate"] in QUICK.rates
    assert 1 <= fold.chosen["epoch"] <= QUICK.epochs


def test_value_in_one_token_is_found_in_its_unit():
    age = np.random.default_rng(0).uniform(20, 80, N)
    fold = probed(tokens_of((age - 50) / 6), age, "regression")
    assert r2_score(age[SPLIT.test], fold.prediction) > 0.4


def test_labels_that_mean_nothing_are_at_chance():
    random = np.random.default_rng(1)
    tokens = tokens_of(3.0 * (2 * CLASSES - 1))
    settings = QUICK._replace(epochs=4)
    scores = []
    for _ in range(5):
        truth = random.permutation(CLASSES)
        fold = probed(tokens, truth, settings=settings)
        scores.append(balanced_accuracy_score(truth[SPLIT.test], fold.prediction))
    assert abs(np.mean(scores) - 0.5) < 0.15


def test_rates_that_train_together_are_those_that_train_alone():
    tokens, settings = tokens_of(1.0 * CLASSES), QUICK._replace(epochs=3)
    alone = [
        probed(tokens, CLASSES, settings=settings._replace(rates=(rate,))) for rate in QUICK.rates
    ]
    together = probed(tokens, CLASSES, settings=settings)
    same = alone[QUICK.rates.index(together.chosen["learning_rate"])]
    assert together.chosen == same.chosen
    np.testing.assert_allclose(together.score, same.score, atol=1e-5)


def test_what_is_frozen_reads_as_the_probe_did():
    torch.manual_seed(0)
    place = (torch.randn(8), torch.rand(8) + 0.5)
    probes = _Probes(8, 2, 3, (0.1, 0.01), place)
    optimizer = torch.optim.AdamW(probes.groups(), weight_decay=0.0)
    tokens = torch.randn(16, 12, 8)
    for _ in range(3):
        loss = _loss(probes(tokens), np.arange(16) % 3, np.ones(16), "classification")
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    probes.eval()
    for i in range(2):
        frozen = probes.freeze(i, (0.0, 0.0), 1).read(tokens)[0]
        torch.testing.assert_close(frozen, probes(tokens)[i].detach(), atol=1e-5, rtol=1e-5)


def test_outputs_of_a_scan_are_the_mean_over_its_windows():
    tokens = tokens_of(1.0 * CLASSES)
    found = scan_outputs(lambda batch: batch.flatten(1)[None, :, :5], tokens, np.array([7, 2]))
    expected = [tokens.tokens[tokens.scan == scan].mean(axis=0).ravel()[:5] for scan in (7, 2)]
    np.testing.assert_allclose(found[0], expected, atol=2e-2)  # stored in half precision


def test_nothing_of_the_test_part_reaches_training_or_choice():
    tokens, hidden = tokens_of(1.0 * CLASSES), CLASSES.astype(float)
    hidden[SPLIT.test] = np.nan
    settings = QUICK._replace(epochs=4)
    clean = probed(tokens, CLASSES, settings=settings)
    np.testing.assert_array_equal(probed(tokens, hidden, settings=settings).score, clean.score)
    poisoned = tokens.tokens.copy()
    poisoned[np.isin(tokens.scan, SPLIT.test[1:])] = 1000
    found = probed(WindowTokens(poisoned, tokens.scan), hidden, settings=settings)
    np.testing.assert_allclose(found.score[0], clean.score[0], atol=1e-6)
    assert found.chosen == clean.chosen


def test_what_cannot_be_probed_is_refused():
    tokens = tokens_of(1.0 * CLASSES)
    with pytest.raises(ConfigurationError, match="queries is 0"):
        probed(tokens, CLASSES, queries=0)
    with pytest.raises(InputError, match="tokens are of 5 scans"):
        probed(tokens.take(range(5)), CLASSES)
    broken = tokens.tokens.copy()
    broken[7, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="tokens of scan 2 are not finite"):
        probed(WindowTokens(broken, tokens.scan), CLASSES)
    bare = Split("mine", 0, "0", SPLIT.train, SPLIT.test)
    with pytest.raises(InputError, match="no validation part"):
        attention_probe_predictions(
            tokens, CLASSES, [bare], kind="classification", subjects=SUBJECTS
        )


def test_estimator_is_what_the_splits_give_and_clones():
    tokens, named = tokens_of(3.0 * (2 * CLASSES - 1)), np.array(["m", "w"])[CLASSES]
    settings = QUICK._replace(epochs=4)
    probe = clone(AttentionProbe(queries=2, rates=QUICK.rates, epochs=4))
    assert probe.get_params()["queries"] == 2
    parts = [(tokens.take(rows), named[rows]) for rows in (SPLIT.train, SPLIT.validation)]
    assert probe.fit(*parts[0], validation=parts[1]) is probe
    fold = probed(tokens, CLASSES, settings=settings, queries=2)
    test = tokens.take(SPLIT.test)
    np.testing.assert_allclose(probe.decision_function(test), fold.score, atol=1e-5)
    assert probe.predict(test).tolist() == np.array(["m", "w"])[fold.prediction].tolist()
    assert {"learning_rate": probe.rate_, "epoch": probe.epoch_} == fold.chosen
    with pytest.raises(InputError, match="the probe has learned 8"):
        probe.predict(WindowTokens(test.tokens[..., :5], test.scan))
    with pytest.raises(ConfigurationError, match="patience 0"):
        AttentionProbe(patience=0).fit(*parts[0], validation=parts[1])


def test_estimator_of_a_value_is_what_the_splits_give():
    age = np.random.default_rng(0).uniform(20, 80, N)
    tokens, settings = tokens_of((age - 50) / 6), QUICK._replace(epochs=3)
    probe = AttentionProbe("regression", rates=QUICK.rates, epochs=3)
    parts = [(tokens.take(rows), age[rows]) for rows in (SPLIT.train, SPLIT.validation)]
    with pytest.raises(NotFittedError):
        probe.predict(parts[0][0])
    found = probe.fit(*parts[0], validation=parts[1]).predict(tokens.take(SPLIT.test))
    fold = probed(tokens, age, "regression", settings)
    np.testing.assert_allclose(found, fold.prediction, rtol=1e-5)
