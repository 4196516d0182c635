"""Simulated blocks are decoded, shuffled ones are not, and the delay matters."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from semantoks.benchmark.decoding import Decoding, decode_blocks, decoding_table, write_decoding
from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.preparation import prepare
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.simulation import (
    simulate_cohort,
    simulate_task_cohort,
    write_cohort,
    write_events,
)
from semantoks.data.store import Store
from semantoks.data.store_writer import StoreWriter
from semantoks.errors import InputError
from semantoks.evaluation.events import BlockWindows, block_windows, find_events
from semantoks.model.checkpoint import save_encoder
from semantoks.model.encoder import SemantoksEncoder

PATCH = 5  # 10 s, as long as a block


class Task(NamedTuple):
    folder: Path
    store: Store
    encoder: SemantoksEncoder
    events: dict[int, pd.DataFrame]


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("task")
    cohort = simulate_task_cohort(16, block=10, rest=10, strength=0.35, seed=1)
    write_cohort(list(cohort.recordings), folder / "recordings")
    write_events(cohort, folder / "events")
    atlas = cohort.recordings[0].atlas
    store = Store.open(prepare(folder / "recordings", folder / "store", atlas=atlas).path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = SemantoksEncoder(atlas, dim=64, depth=1, patch=PATCH, window=5 * PATCH)
    encoder.preprocessing = store.preprocessing.to_dict()
    return Task(folder, store, encoder, find_events(store, folder / "events"))


def accuracy(decoding: Decoding) -> dict[str, float]:
    rows = decoding.table[decoding.table["metric"] == "balanced_accuracy"]
    return dict(zip(rows["method"], rows["value"], strict=True))


def decode(task: Task, windows: BlockWindows) -> Decoding:
    return decode_blocks(
        task.store, task.encoder, windows, features="networks", repeats=1, n_draws=50
    )


@pytest.fixture(scope="module")
def decoded(task: Task) -> Decoding:
    return decode(task, block_windows(task.store, task.events, length=PATCH))


def test_blocks_are_decoded_far_above_chance_in_new_people(decoded):
    found = accuracy(decoded)
    assert found["encoder"] > 0.75
    assert found["roi means"] > 0.85
    assert found["dummy"] == 0.5
    rows = decoded.table.query("method == 'encoder' and metric == 'balanced_accuracy'").iloc[0]
    assert rows["low"] > 0.65
    assert rows["difference_low"] > 0.1  # windows are centred, so that connectivity says little
    assert (rows["n_windows"], rows["n_subjects"]) == (192, 16)


def test_without_the_delay_less_is_decoded(task, decoded):
    early = accuracy(decode(task, block_windows(task.store, task.events, length=PATCH, delay=0.0)))
    right = accuracy(decoded)
    assert early["encoder"] < right["encoder"] - 0.05
    assert early["roi means"] < right["roi means"] - 0.05


def test_shuffled_labels_are_at_chance(task, decoded):
    windows = block_windows(task.store, task.events, length=PATCH)
    random = np.random.default_rng(0)
    found = []
    for _ in range(3):
        label = windows.label.copy()
        for scan in np.unique(windows.scan):
            own = np.flatnonzero(windows.scan == scan)
            label[own] = label[random.permutation(own)]
        found.append(accuracy(decode(task, dataclasses.replace(windows, label=label))))
    # A single shuffle of 192 windows deviates by .05 and more: what is strong in the features is
    # one direction, which the labels of the people left out contradict.
    for method in ("encoder", "roi means"):
        values = [one[method] for one in found]
        assert abs(np.mean(values) - 0.5) < 0.07
        assert max(values) < 0.65
        assert accuracy(decoded)[method] > max(values) + 0.1


def test_no_subject_is_in_two_parts_and_every_window_is_tested_once(decoded):
    subject = decoded.windows["subject"].to_numpy()
    for _, rows in decoded.predictions.groupby("method"):
        assert sorted(rows["window"]) == list(range(len(subject)))
        assert (subject[rows["window"]] == rows["subject"]).all()
    for fold in decoded.splits["folds"]:
        people = [{name.split("_")[0] for name in fold[part]} for part in ("train", "test")]
        assert not people[0] & people[1]


def test_what_is_decoded_is_written_whole(decoded, tmp_path):
    folder = write_decoding(decoded, tmp_path / "out")
    assert {file.name for file in folder.iterdir()} == {
        "scores.csv",
        "predictions.parquet",
        "windows.csv",
        "splits.json",
        "settings.json",
    }
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["splits_sha256"] == json.loads((folder / "splits.json").read_text())["sha256"]
    assert settings["delay"] == 5.0
    with pytest.raises(InputError, match="exists already"):
        write_decoding(decoded, folder)


def test_the_table_shows_methods_beside_connectivity(decoded):
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(decoding_table(decoded))
    shown = console.export_text()
    assert "faces 96, shapes 96 (windows of 10 s)" in shown
    assert "192 windows of 16 subjects, 5 s after onset." in shown
    (line,) = [line for line in shown.splitlines() if "roi means" in line][:1]
    assert "*" in line


def test_windows_that_hold_no_whole_patches_are_refused(task):
    windows = block_windows(task.store, task.events, length=PATCH - 1)
    with pytest.raises(InputError, match="do not hold whole patches of 5"):
        decode(task, windows)


def test_a_task_without_strength_is_the_resting_cohort():
    resting = simulate_cohort(2, n_samples=93)
    idle = simulate_task_cohort(2, blocks=2, block=30, strength=0.0)
    assert np.array_equal(resting[1].series, idle.recordings[1].series)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conditions": ["faces"]}, "at least two different conditions"),
        ({"conditions": ["faces", "faces"]}, "at least two different conditions"),
        ({"conditions": list("abcdef")}, "6 conditions do not fit into 5 networks"),
        ({"blocks": 0}, "0 block"),
        ({"block": 0.0}, "blocks of 0.0 s"),
        ({"t_r": 0.0}, "must be positive"),
    ],
)
def test_impossible_tasks_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        simulate_task_cohort(2, **options)


def test_the_command_decodes_and_writes(task, tmp_path, capsys):
    save_encoder(task.encoder, tmp_path / "model")
    words = ["decode", "--data", str(task.store.path), "--model", str(tmp_path / "model")]
    words += ["--events", str(task.folder / "events"), "--features", "networks", "--folds", "2"]
    out = tmp_path / "decoded"
    options = ["--out", str(out), "--repeats", "1", "--json"]
    assert run([*words, "--conditions", "faces", "shapes", *options]) == 0
    scores = json.loads(capsys.readouterr().out)["scores"]
    values = {row["method"]: row["value"] for row in scores if row["metric"] == "balanced_accuracy"}
    assert values["encoder"] > 0.75
    assert json.loads((out / "settings.json").read_text())["share_that_passes"] > 0.9
    assert run([*words, *options]) == 1
    assert "exists" in capsys.readouterr().err
    assert run([*words, "--out", str(tmp_path / "b"), "--conditions", "face"]) == 1
    assert "Did you mean 'faces'" in capsys.readouterr().err


# Blocks that were not learned from


def stimuli_cohort(folder: Path, *, n_subjects: int = 12) -> tuple[Store, dict[int, pd.DataFrame]]:
    """Every block has a pattern of its own, the same in all subjects; conditions have none."""
    random = np.random.default_rng(0)
    atlas = Atlas.from_networks({"Vis": 8, "Cont": 8})
    labels = ["a", "b", "b", "a", "a", "b", "a", "b"]
    patterns = random.standard_normal((len(labels), 16))
    rows = []
    with StoreWriter(folder, atlas, Preprocessing(min_samples=50), {}) as writer:
        for person in range(n_subjects):
            series = random.standard_normal((16, 80)).astype(np.float32)
            for block, pattern in enumerate(patterns):
                series[:, 10 * block : 10 * block + 5] += pattern[:, None]
            recording = Recording(
                series, 2.0, atlas, scan=f"s{person}", subject=f"s{person}",
                phenotypes={"family": f"f{person // 2}"},
            )  # fmt: skip
            writer.add(recording, np.ones(16, dtype=bool))
        store = writer.finish()
    for block, label in enumerate(labels):
        rows.append({"onset": 20.0 * block, "duration": 10.0, "trial_type": label})
    return store, dict.fromkeys(range(n_subjects), pd.DataFrame(rows))


def test_seen_stimuli_are_told_from_conditions(tmp_path: Path) -> None:
    store, events = stimuli_cohort(tmp_path / "store")
    windows = block_windows(store, events, length=5, delay=0.0)
    encoder = SemantoksEncoder(store.atlas, dim=16, depth=1, head_dim=8, patch=5, window=25)
    encoder.preprocessing = store.preprocessing.to_dict()
    options = {"repeats": 1, "n_folds": 4, "n_draws": 20, "family_column": "family"}
    seen = decode_blocks(store, encoder, windows, **options)
    unseen = decode_blocks(store, encoder, windows, unseen="blocks", **options)
    assert seen.settings["shared_order"] == 1
    assert accuracy(seen)["roi means"] > 0.9
    assert accuracy(unseen)["roi means"] < 0.7
    families = store.scans["family"].to_numpy()
    time = windows.onset
    for fold in unseen.splits["folds"]:
        names = {part: [x.split("@") for x in fold[part]] for part in ("train", "test")}
        who = {part: {families[int(x[0][1:])] for x in names[part]} for part in names}
        when = {part: {x[1] for x in names[part]} for part in names}
        assert not who["train"] & who["test"]
        assert not when["train"] & when["test"]
    assert len(np.unique(time)) == 8


def test_unseen_blocks_need_several_of_each_condition(tmp_path: Path) -> None:
    store, events = stimuli_cohort(tmp_path / "store")
    few = {scan: table.iloc[[0, 1, 2]] for scan, table in events.items()}
    windows = block_windows(store, few, length=5, delay=0.0)
    encoder = SemantoksEncoder(store.atlas, dim=16, depth=1, head_dim=8, patch=5, window=25)
    encoder.preprocessing = store.preprocessing.to_dict()
    with pytest.raises(InputError, match="blocks at two times or more"):
        decode_blocks(store, encoder, windows, unseen="blocks", repeats=1, n_draws=20)
