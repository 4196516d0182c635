"""BNT and BolT as probes: their protocols, chosen on validation, the test part touched once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import semantoks
from semantoks.errors import ConfigurationError, InputError
from semantoks.evaluation import supervised_peers
from semantoks.evaluation.splits import Split
from semantoks.evaluation.supervised_peers import (
    SupervisedPeer,
    scans_from,
    supervised_predictions,
)
from semantoks.peers import bnt, bolt

FAMILIES = ("bnt", "bolt")


@pytest.fixture(scope="module")
def people() -> Any:
    """Ninety people; in every second one two halves of the ROIs go together."""
    random = np.random.default_rng(0)
    classes = np.arange(90) % 2
    scans = random.standard_normal((90, 10, 80))
    scans[classes == 1, 5:] += 1.5 * random.standard_normal((45, 1, 80))
    return scans.astype(np.float32), classes


SPLIT = Split("mine", 0, "0", np.arange(50), np.arange(70, 90), validation=np.arange(50, 70))
KNOWN: dict[str, Any] = {"kind": "classification", "subjects": np.arange(90).astype(str)}


@pytest.mark.parametrize(("family", "epochs"), [("bnt", 40), ("bolt", 15)])
def test_what_is_planted_is_learned(people: Any, family: Any, epochs: int) -> None:
    scans, classes = people
    (fold,) = supervised_predictions(
        family, scans_from(scans), classes, [SPLIT], epochs=epochs, **KNOWN
    )
    assert (fold.prediction == classes[SPLIT.test]).mean() >= 0.8
    assert 1 <= fold.chosen["epoch"] <= epochs


@pytest.mark.parametrize("family", FAMILIES)
def test_labels_of_the_test_part_reach_nothing(people: Any, family: Any) -> None:
    scans, classes = people
    other = classes.copy()
    other[SPLIT.test] = 1 - other[SPLIT.test]
    first, second = (
        supervised_predictions(family, scans_from(scans), truth, [SPLIT], epochs=2, **KNOWN)[0]
        for truth in (classes, other)
    )
    np.testing.assert_array_equal(first.score, second.score)
    third = supervised_predictions(
        family, scans_from(scans), classes, [SPLIT], epochs=2, seed=1, **KNOWN
    )[0]
    assert not np.array_equal(first.score, third.score)


def test_bnt_reads_whole_scans_and_drops_the_last_batch(people: Any, monkeypatch: Any) -> None:
    scans, classes = people
    rates: list[tuple[int, int]] = []
    monkeypatch.setattr(
        bnt, "learning_rate", lambda step, steps: rates.append((step, steps)) or 1e-4
    )
    supervised_predictions("bnt", scans_from(scans), classes, [SPLIT], epochs=2, **KNOWN)
    assert rates == [(step, 8) for step in range(1, 7)]  # 3 of 4 batches an epoch
    read = supervised_peers._Bnt(scans_from(scans), torch.device("cpu")).connectivity
    wanted = bnt.connectivity(torch.from_numpy(scans), "fisher_shrunk")
    torch.testing.assert_close(read, wanted)


def test_bolt_crops_where_it_learns_and_reads_all_where_it_is_tested(
    people: Any, monkeypatch: Any
) -> None:
    scans, classes = people
    lengths: set[tuple[bool, int]] = set()
    read = bolt.BolT.read

    def watch(self: Any, series: torch.Tensor) -> Any:
        lengths.add((self.training, series.shape[2]))
        return read(self, series)

    monkeypatch.setattr(bolt.BolT, "read", watch)
    supervised_predictions("bolt", scans_from(scans), classes, [SPLIT], epochs=1, **KNOWN)
    assert lengths == {(True, 60), (False, 80)}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_predicted_in_their_unit(people: Any, family: Any) -> None:
    scans, classes = people
    ages = 40 + 10.0 * classes + np.linspace(0, 1, 90)
    probe = SupervisedPeer(family, "regression", epochs=3)
    probe.fit(scans[:50], ages[:50], validation=(scans[50:70], ages[50:70]))
    found = probe.predict(scans[70:])
    assert found.shape == (20,)
    assert 30 < found.mean() < 60
    assert len(probe.history_.losses) == 3


def test_missing_rois_are_read_as_nothing(cohort: Any) -> None:
    probe = SupervisedPeer("bnt", epochs=1)
    labels = cohort.classes
    parts = (cohort.split.train, cohort.split.validation)
    arrays = [cohort.store.series(i) for i in range(60)]
    train, chosen = ([arrays[i] for i in part] for part in parts)
    probe.fit(train, labels[parts[0]], validation=(chosen, labels[parts[1]]))
    assert np.isfinite(probe.decision_function(cohort.store)).all()
    x = supervised_peers._Bnt(scans_from(cohort.store), torch.device("cpu")).connectivity
    assert not x[3, 3:5].any()  # scan 3 has no network Cont


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"family": "brainnet"}, "'brainnet' is no model that is trained"),
        ({"epochs": 0}, "epochs is 0"),
        ({"validation": np.empty(0, dtype=int)}, "no validation part"),
    ],
)
def test_what_cannot_be_trained_is_refused(people: Any, changes: Any, said: str) -> None:
    scans, classes = people
    validation = changes.pop("validation", SPLIT.validation)
    split = Split("mine", 0, "0", SPLIT.train, SPLIT.test, validation=validation)
    asked = {"family": "bnt", "epochs": 1, **changes}
    with pytest.raises((ConfigurationError, InputError), match=said):
        supervised_predictions(
            scans=scans_from(scans), truth=classes, splits=[split], **asked, **KNOWN
        )


def test_scans_must_fit_each_other(people: Any) -> None:
    scans, classes = people
    probe = SupervisedPeer("bnt", epochs=1)
    with pytest.raises(InputError, match="10 ROIs, those to choose on 9"):
        probe.fit(scans[:20], classes[:20], validation=(scans[20:30, :9], classes[20:30]))
    probe.fit(scans[:20], classes[:20], validation=(scans[20:30], classes[20:30]))
    with pytest.raises(InputError, match="9 ROIs came; the model has learned from 10"):
        probe.predict(scans[:2, :9])
    with pytest.raises(InputError, match="19 targets came with 20 scans"):
        probe.fit(scans[:20], classes[:19], validation=(scans[20:30], classes[20:30]))
    with pytest.raises(InputError, match=r"shape \(roi, time\)"):
        probe.predict(scans[0])
    broken = scans[:3].copy()
    broken[1, 0, 0] = np.nan
    with pytest.raises(InputError, match="array 1 of 3 holds values that are not finite"):
        probe.predict(broken)
    assert semantoks.SupervisedPeer is SupervisedPeer
