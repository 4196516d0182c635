"""What must not change when the house is rebuilt: numbers of a small job, public names, options.

unchanged.json holds the values of commit 37da5c6. Run this file as a script to write them again;
a change of a value is a change of behaviour, and belongs into CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import semantoks
from semantoks.cli.application import run

FILE = Path(__file__).with_name("unchanged.json")
SETTINGS = {
    "optimization.epochs": 3,
    "optimization.warmup_epochs": 1,
    "optimization.batch_size": 12,
    "logging.steps": 1,
    "device": "cpu",
}


def digest(*parts: Any) -> str:
    """Return a short digest of arrays and strings."""
    state = hashlib.sha256()
    for part in parts:
        content = part.tobytes() if isinstance(part, np.ndarray) else str(part).encode()
        state.update(content)
    return state.hexdigest()[:16]


def small_job(folder: Path) -> dict[str, Any]:
    """Run prepare, pretrain, embed and probe on 24 simulated scans; return what they computed."""
    recordings = semantoks.simulate_cohort(24, seed=3)
    semantoks.write_cohort(recordings, folder / "in", atlas_file=folder / "atlas.tsv")
    words = ["--atlas", str(folder / "atlas.tsv"), "--out", str(folder / "store")]
    assert run(["prepare", str(folder / "in"), *words, "--quiet"]) == 0
    store = semantoks.Store.open(folder / "store")
    recipe = semantoks.configure(semantoks.tiny(), SETTINGS)
    semantoks.pretrain(store, folder / "run", recipe)
    log = pd.read_json(folder / "run" / "metrics.jsonl", lines=True)
    encoder = semantoks.load_encoder(folder / "run")
    features = semantoks.embed(store, encoder).features
    words = ["--data", str(folder / "store"), "--model", str(folder / "run")]
    assert run(["embed", *words, "--out", str(folder / "features.parquet"), "--quiet"]) == 0
    words = ["--data", str(folder / "store"), "--embeddings", str(folder / "features.parquet")]
    words += ["--target", "diagnosis", "--folds", "3", "--repeats", "2", "--quiet"]
    assert run(["probe", *words, "--out", str(folder / "probe")]) == 0
    scores = pd.read_csv(folder / "probe" / "scores.csv")
    truth = store.scans["diagnosis"]
    splits = [
        *semantoks.SubjectFolds(3, seed=5).splits(store.scans, truth),
        *semantoks.RandomSubjectSplits(2, seed=5).splits(store.scans, truth),
        *semantoks.LeaveOneSiteOut().splits(store.scans, truth),
    ]
    return {
        "store": store.fingerprint,
        "series": digest(*(store.series(i) for i in range(len(store)))),
        "splits": digest(*(part for s in splits for part in (s.train, s.validation, s.test))),
        "losses": log["total"].tolist(),
        "features": features[:, ::16].round(9).tolist(),
        "scores": {
            f"{row.method} {row.metric}": [row.value, row.low, row.high]
            for row in scores.itertuples()
        },
    }


def public_face() -> dict[str, Any]:
    """Name what users call: public names with their parameters, verbs with their options."""
    from semantoks.cli.application import app

    names = {}
    for name in semantoks.__all__:
        thing = getattr(semantoks, name)
        plain = not callable(thing) or (isinstance(thing, type) and issubclass(thing, Exception))
        names[name] = [] if plain else list(inspect.signature(thing).parameters)
    verbs = {}
    for verb in app:
        if verb.startswith("-"):
            continue
        arguments = app[verb].assemble_argument_collection()
        verbs[verb] = sorted({name for argument in arguments for name in argument.names})
    return {"names": names, "verbs": verbs}


def frozen() -> dict[str, Any]:
    """Read the values that must not change."""
    content: dict[str, Any] = json.loads(FILE.read_text())
    return content


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return small_job(tmp_path_factory.mktemp("unchanged"))


@pytest.mark.parametrize("what", ["store", "series", "splits"])
def test_data_are_unchanged_to_the_bit(job: dict[str, Any], what: str) -> None:
    assert job[what] == frozen()[what]


@pytest.mark.parametrize("what", ["losses", "features"])
def test_numbers_are_unchanged(job: dict[str, Any], what: str) -> None:
    np.testing.assert_allclose(job[what], frozen()[what], rtol=1e-4, atol=1e-5)


def test_scores_are_unchanged(job: dict[str, Any]) -> None:
    added = job["scores"].keys() - frozen()["scores"].keys()
    assert frozen()["scores"].keys() <= job["scores"].keys()
    assert all(name.startswith("site ") or name.endswith("_within_site") for name in added)
    for name, expected in frozen()["scores"].items():
        np.testing.assert_allclose(job["scores"][name], expected, atol=1e-6, err_msg=name)


def test_public_names_and_options_remain() -> None:
    now, then = public_face(), frozen()
    for name, parameters in then["names"].items():
        assert set(parameters) <= set(now["names"][name]), name
    for verb, options in then["verbs"].items():
        assert set(options) <= set(now["verbs"][verb]), verb


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        values = small_job(Path(temporary)) | public_face()
    FILE.write_text(json.dumps(values, indent=1) + "\n")
    sys.stdout.write(f"wrote {FILE.name}\n")
