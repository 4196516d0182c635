"""Fine-tuning finds what is planted, chooses on validation and leaves the rest alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, r2_score

from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation.estimator import TargetCoding
from semantoks.evaluation.finetuning import (
    TRAINING_VIEWS,
    EncoderClassifier,
    FineTuning,
    LabelledScans,
    WindowTraining,
    augment_windows,
    finetune_predictions,
    seeded,
    take_scans,
    train_on_windows,
    window_outputs,
)
from semantoks.evaluation.readout import scans_of
from semantoks.evaluation.splits import Split
from semantoks.model.encoder import SemantoksEncoder

QUICK = WindowTraining(learning_rate=3e-3, epochs=6, windows=3)


@pytest.fixture
def encoder(cohort) -> SemantoksEncoder:
    with seeded(0, torch.device("cpu")):
        return SemantoksEncoder(
            cohort.store.atlas, dim=16, depth=2, head_dim=8, window=20, patch=10
        )


def tuned(cohort, encoder, truth, kind="classification", splits=None, **options):
    return finetune_predictions(
        cohort.store,
        encoder,
        truth,
        splits or [cohort.split],
        kind=kind,
        subjects=cohort.subjects,
        device="cpu",
        **{"settings": QUICK, **options},
    )


def test_planted_class_is_found_and_the_encoder_stays(cohort, encoder):
    before = copy.deepcopy(encoder.state_dict())
    calls: list[tuple[int, int]] = []
    (fold,) = tuned(
        cohort, encoder, cohort.classes, progress=lambda done, of: calls.append((done, of))
    )
    truth = cohort.classes[cohort.split.test]
    assert balanced_accuracy_score(truth, fold.prediction) > 0.8
    assert fold.score.shape == (len(truth), 2)
    assert 1 <= fold.chosen["epoch"] <= 6
    assert calls == [(i, 6) for i in range(1, 7)]
    for name, value in encoder.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_values_are_predicted_in_their_unit(cohort, encoder):
    settings = QUICK._replace(epochs=10, batch_size=6)
    (fold,) = tuned(cohort, encoder, cohort.values, "regression", settings=settings)
    assert fold.score.shape[1] == 0
    assert r2_score(cohort.values[cohort.split.test], fold.prediction) > 0.4


def test_same_seed_same_numbers_whatever_others_draw(cohort, encoder):
    settings = QUICK._replace(epochs=2)
    first = tuned(cohort, encoder, cohort.classes, settings=settings)[0]
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again = tuned(cohort, encoder, cohort.classes, settings=settings)[0]
    assert torch.equal(torch.get_rng_state(), state)
    np.testing.assert_array_equal(first.score, again.score)
    other = tuned(cohort, encoder, cohort.classes, settings=settings._replace(seed=1))[0]
    assert np.abs(first.score - other.score).max() > 1e-4


def test_target_of_test_scans_is_not_looked_at(cohort, encoder):
    settings = QUICK._replace(epochs=3)
    hidden = cohort.classes.astype(float)
    hidden[cohort.split.test] = np.nan
    clean = tuned(cohort, encoder, cohort.classes, settings=settings)[0]
    poisoned = tuned(cohort, encoder, hidden, settings=settings)[0]
    np.testing.assert_array_equal(clean.score, poisoned.score)
    assert clean.chosen == poisoned.chosen
    for part in (cohort.split.train, cohort.split.validation):
        broken = cohort.values.copy()
        broken[part[0]] = np.nan
        with pytest.raises(InputError, match=r"the target of 1 of .* is not known"):
            tuned(cohort, encoder, broken, "regression")


def test_weights_are_those_of_the_epoch_that_was_best_on_validation(cohort, encoder):
    scans = scans_of(cohort.store, encoder)
    parts = [
        LabelledScans(scans, rows, cohort.classes[rows])
        for rows in (cohort.split.train, cohort.split.validation)
    ]
    coding = TargetCoding.of(cohort.classes, "classification")
    # So fast that later epochs are worse than the best one.
    settings = QUICK._replace(learning_rate=0.1, epochs=5)
    with seeded(0, torch.device("cpu")):
        model = EncoderClassifier(encoder, 2)
        history = train_on_windows(model, *parts, coding, settings)
    assert history.losses[history.best] == min(history.losses)
    outputs = window_outputs(model, scans, cohort.split.validation, settings)
    found = coding.losses(cohort.classes[cohort.split.validation], outputs[None])[0]
    assert found == history.losses[history.best]


def test_training_ends_when_validation_gets_no_better(cohort, encoder):
    settings = QUICK._replace(learning_rate=0.1, epochs=8, patience=1)
    probe = FineTuning(encoder, settings=settings, device="cpu")
    scans = scans_of(cohort.store, encoder)
    train, other = (take_scans(scans, p) for p in (cohort.split.train, cohort.split.validation))
    y = cohort.classes[cohort.split.validation]
    probe.fit(train, cohort.classes[cohort.split.train], validation=(other, y))
    history = probe.history_
    assert len(history.losses) == history.best + 2 < 8


def test_layers_learn_the_slower_the_deeper_down_to_the_tokenizer(encoder):
    model = EncoderClassifier(encoder, 2, layer_decay=0.9)
    groups = model.rates(1e-4)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    of_part = {
        "tokenizer": {rate[id(p)] for p in encoder.tokenizer.parameters()},
        "positions": {rate[id(encoder.network_position)], rate[id(encoder.cls_token)]},
        "first": {rate[id(p)] for p in encoder.blocks[0].parameters()},
        "last": {rate[id(p)] for p in encoder.blocks[1].parameters()},
        "head": {rate[id(p)] for p in model.head.parameters()},
    }
    expected = {"tokenizer": 3, "positions": 3, "first": 2, "last": 1, "head": 0}
    for part, power in expected.items():
        assert list(of_part[part]) == [pytest.approx(1e-4 * 0.9**power)]
    assert min(rate.values()) == min(of_part["tokenizer"])


def test_tokenizer_moves_and_moves_least(cohort, encoder):
    scans = scans_of(cohort.store, encoder)
    rows = cohort.split.train
    part = LabelledScans(scans, rows, cohort.classes[rows])
    start = copy.deepcopy(encoder.state_dict())
    model = EncoderClassifier(encoder, 2, layer_decay=0.1)
    coding = TargetCoding.of(part.truth, "classification")
    train_on_windows(model, part, part, coding, QUICK._replace(epochs=1))
    moved = {
        name: float((value - start[name]).abs().max())
        for name, value in encoder.state_dict().items()
    }
    tokenizer = max(m for name, m in moved.items() if name.startswith("tokenizer.networks"))
    last = max(m for name, m in moved.items() if name.startswith("blocks.1"))
    assert 0 < tokenizer < last / 5


def test_augmentation_draws_for_every_window_and_drops_no_roi():
    windows = torch.ones(5, 4, 50)
    out = augment_windows(windows, TRAINING_VIEWS, torch.Generator().manual_seed(0))
    assert out.shape == windows.shape
    assert torch.equal(windows, torch.ones(5, 4, 50))
    assert (out.mean(2) > 0.4).all()
    gains = out.amax((1, 2))
    assert len(gains.unique()) == 5
    again = augment_windows(windows, TRAINING_VIEWS, torch.Generator().manual_seed(0))
    assert torch.equal(out, again)


def test_outputs_of_a_scan_are_the_mean_over_its_windows(cohort, encoder):
    with seeded(3, torch.device("cpu")):
        model = EncoderClassifier(encoder, 2).train()
        torch.nn.init.normal_(model.head.weight)
    scans = scans_of(cohort.store, encoder)
    found = window_outputs(model, scans, np.array([7, 2]), QUICK)
    assert model.training
    with torch.no_grad():
        for row, scan in zip(found, (7, 2), strict=True):
            series = torch.from_numpy(cohort.store.series(scan))
            windows = torch.stack([series[:, s : s + 20] for s in (0, 20, 40)])
            valid = np.repeat(cohort.store.valid[[scan]], 3, axis=0)
            expected = model.eval()(windows, valid).mean(0).numpy()
            np.testing.assert_allclose(row, expected, atol=1e-5)


def test_face_of_scikit_learn_speaks_labels(cohort, encoder):
    labels = np.array(["control", "patient"])[cohort.classes]
    scans = scans_of(cohort.store, encoder)
    parts = (cohort.split.train, cohort.split.validation, cohort.split.test)
    train, validation, test = (take_scans(scans, part) for part in parts)
    model = FineTuning(encoder, settings=QUICK._replace(epochs=2), device="cpu")
    model.fit(train, labels[parts[0]], validation=(validation, labels[parts[1]]))
    assert list(model.classes_) == ["control", "patient"]
    scores = model.decision_function(test)
    assert set(model.predict(test)) <= {"control", "patient"}
    (fold,) = tuned(cohort, encoder, cohort.classes, settings=QUICK._replace(epochs=2))
    np.testing.assert_allclose(scores, fold.score, atol=1e-6)
    with pytest.raises(InputError, match="3 targets came with"):
        model.fit(train, labels[:3], validation=(validation, labels[parts[1]]))


def test_what_cannot_be_trained_is_refused(cohort, encoder):
    split = cohort.split
    bare = Split("mine", 0, "0", split.train, split.test)
    with pytest.raises(InputError, match=r"no validation part.*RandomSubjectSplits"):
        tuned(cohort, encoder, cohort.classes, splits=[bare])
    leaking = Split("mine", 0, "0", split.train, split.test, validation=split.test[:3])
    with pytest.raises(InputError):
        tuned(cohort, encoder, cohort.classes, splits=[leaking])
    with pytest.raises(InputError, match="say which rows"):
        tuned(cohort, encoder, cohort.classes[:10])
    with pytest.raises(ConfigurationError, match="layer_decay is 0"):
        tuned(cohort, encoder, cohort.classes, layer_decay=0)
    with pytest.raises(ConfigurationError, match="epochs is 0"):
        tuned(cohort, encoder, cohort.classes, settings=QUICK._replace(epochs=0))


def test_rows_of_the_store_are_those_that_are_named(cohort, encoder):
    rows = np.setdiff1d(np.arange(len(cohort.classes)), cohort.split.test[:4])
    place = {row: i for i, row in enumerate(rows)}
    parts = [
        np.array([place[r] for r in part if r in place])
        for part in (cohort.split.train, cohort.split.test, cohort.split.validation)
    ]
    split = Split("mine", 0, "0", parts[0], parts[1], validation=parts[2])
    settings = QUICK._replace(epochs=1)
    (some,) = finetune_predictions(
        cohort.store,
        encoder,
        cohort.classes[rows],
        [split],
        kind="classification",
        subjects=cohort.subjects[rows],
        rows=rows,
        settings=settings,
        device="cpu",
    )
    (whole,) = tuned(cohort, encoder, cohort.classes, settings=settings)
    np.testing.assert_allclose(some.score, whole.score[4:], atol=1e-6)
