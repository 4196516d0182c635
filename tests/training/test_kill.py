"""Kill -9 at any moment, resume: the weights are bitwise those of an uninterrupted run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from semantoks.data.atlas import Atlas
from semantoks.data.recording import Recording
from semantoks.data.signal import Preprocessing
from semantoks.data.store_writer import StoreWriter
from semantoks.model.checkpoint import load_encoder
from semantoks.training.folder import load_checkpoint

# One process imports PyTorch; every life of the run is a fork of it, killed after a random number
# of steps and a random part of a step: in the computation, a row of a log, or a checkpoint.
DRIVER = """
import json, os, random, signal, sys, time
import torch
from semantoks.data.store import Store
from semantoks.training.config import configure, tiny
from semantoks.training.pretraining import pretrain

store, folder, epochs, kills, longest, seed = sys.argv[1:]
torch.set_num_threads(1)
dice = random.Random(int(seed))
settings = {"model.dim": 16, "model.head_dim": 8, "model.depth": 1,
            "optimization.epochs": int(epochs), "optimization.warmup_epochs": 1,
            "optimization.batch_size": 4, "logging.steps": 1,
            "logging.checkpoint_epochs": 1, "device": "cpu"}
recipe = configure(tiny(), settings)

def live(out, steps):
    '''Run in a fork; kill it after so many steps, or let it finish. Return its exit status.'''
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pretrain(Store.open(store), out, recipe, resume=os.path.exists(out),
                     progress=lambda row: os.write(writer, b"."))
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    if steps is not None:
        for _ in range(steps):
            if not os.read(reader, 1):
                break
        time.sleep(dice.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    return status

statuses = [live(folder + "/whole", None)]
done = 0
while done < int(kills):
    status = live(folder + "/run", dice.randint(0, int(longest)))
    if status == 0:  # it was faster than the kill
        break
    statuses.append(status)
    done += 1
statuses.append(live(folder + "/run", None))
print(json.dumps(statuses))
"""


def write_store(path: Path) -> None:
    atlas = Atlas.from_networks({"Vis": 3, "Cont": 2, "Default": 4})
    rng = np.random.default_rng(0)
    with StoreWriter(path, atlas, Preprocessing(), request={}) as writer:
        for i in range(12):
            series = rng.standard_normal((len(atlas), 130)).astype(np.float32)
            recording = Recording(series, 2.0, atlas, scan=f"scan-{i}", subject=f"{i}")
            writer.add(recording, np.ones(len(atlas), dtype=bool))
        writer.finish()


def logged(path: Path) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def kill_and_compare(folder: Path, *, epochs: int, kills: int, longest: int, seed: int) -> None:
    write_store(folder / "store")
    words = [sys.executable, "-c", DRIVER, str(folder / "store"), str(folder)]
    words += [str(number) for number in (epochs, kills, longest, seed)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    statuses = json.loads(done.stdout)
    assert statuses == [0, *[9] * kills, 0], done.stderr
    whole, run = folder / "whole", folder / "run"
    a, b = load_encoder(whole).state_dict(), load_encoder(run).state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    ends = [load_checkpoint(path).content for path in (whole, run)]
    assert all(torch.equal(v, ends[1]["model"][name]) for name, v in ends[0]["model"].items())
    states = [end["optimizer"]["state"] for end in ends]
    for i, state in states[0].items():
        assert all(torch.equal(v, states[1][i][name]) for name, v in state.items())
    for log in ("metrics", "health", "warnings"):
        assert logged(run / f"{log}.jsonl") == logged(whole / f"{log}.jsonl")
        # Beside the seconds, the tables for people are the same too.
        assert len((run / f"{log}.csv").read_text().splitlines()) == len(
            (whole / f"{log}.csv").read_text().splitlines()
        )
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    assert not list(run.rglob(".*.partial"))


def test_killed_twice(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, epochs=4, kills=2, longest=5, seed=1)


@pytest.mark.slow
def test_killed_at_twenty_random_moments(tmp_path: Path) -> None:
    kill_and_compare(tmp_path, epochs=20, kills=20, longest=6, seed=2)
