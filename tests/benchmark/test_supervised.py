"""BNT and BolT as rows of a study."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml

from semantoks.cli.application import run
from semantoks.data.store import Store


def test_plans_name_them(store: Store, tmp_path: Path) -> None:
    plan = {
        "store": str(store.path),
        "targets": ["diagnosis"],
        "splits": [{"kind": "random", "repeats": 3}, {"kind": "folds", "validation": 0}],
        "baselines": ["bnt", "bolt"],
        "peers": {"bnt": 1, "bolt": 1},
        "finetuning": {"splits": 2},
        "draws": 10,
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    words = ["evaluate", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]
    assert run(words) == 0
    scores = pd.read_csv(tmp_path / "out" / "scores.csv")
    found = scores[scores["method"].isin(["bnt", "bolt"])]
    assert set(found["split"]) == {"random"}  # folds have no validation part
    assert set(found["n_repeats"]) == {2}
    said = (tmp_path / "out" / "plan.json").read_text()
    assert "folds, bnt: it needs validation parts" in said
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan | {"peers": {"bnt": 0}}))
    assert run(words) == 2
