"""Any two methods of a study are compared as each is with connectivity, and marked for both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from semantoks.benchmark.plan import StudyPlan
from semantoks.benchmark.study import Study, run_study, study_differences
from semantoks.data.store import Store
from semantoks.errors import InputError

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "scores_table.py"
PAIRS = [("temporal", "connectivity"), ("dummy", "connectivity")]
SAME = ["difference", "difference_low", "difference_high", "t_low", "t_high", "p"]


@pytest.fixture(scope="module")
def study(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Study:
    plan = StudyPlan(
        store=store.path,
        targets=("diagnosis", "age"),
        splits=({"kind": "random", "repeats": 5}, {"kind": "site"}),
        baselines=("temporal",),
        draws=50,
    )
    return run_study(plan, tmp_path_factory.mktemp("pairs") / "study")


def test_a_pair_with_connectivity_is_the_row_of_the_study(study: Study) -> None:
    before = {path: path.read_bytes() for path in study.folder.rglob("*.*")}
    found = study_differences(study.folder, PAIRS)
    assert {path: path.read_bytes() for path in study.folder.rglob("*.*")} == before
    where = ["method", "target", "split", "metric"]
    expected = study.scores[study.scores["method"] != "connectivity"].set_index(where)
    assert len(found) == len(expected)  # two targets, two ways of splitting, three metrics
    found = found.set_index(where)
    pd.testing.assert_frame_equal(found[SAME], expected.loc[found.index, SAME])
    back = study_differences(study.folder, [("connectivity", "temporal")]).set_index(where)
    own = found.xs("temporal")["difference"]
    np.testing.assert_allclose(back.xs("connectivity")["difference"], -own)
    np.testing.assert_allclose(back["p_corrected"], back["p"])  # one pair is one look


def test_what_is_not_there_is_said(study: Study, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no method 'temporl'.*Did you mean 'temporal'"):
        study_differences(study.folder, [("temporl", "dummy")])
    with pytest.raises(InputError, match="is no study that can be read"):
        study_differences(tmp_path, PAIRS)
    copy = tmp_path / "study"
    shutil.copytree(study.folder, copy)
    for path in (copy / "cells").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"\.npz, which held \w+, is gone. Run evaluate again"):
        study_differences(copy, PAIRS)
    shutil.copytree(study.folder / "cells", copy / "cells", dirs_exist_ok=True)
    for path in (copy / "cells").iterdir():
        path.write_bytes(b"PK")
    with pytest.raises(InputError, match=r"\.npz, which holds \w+, is damaged"):
        study_differences(copy, PAIRS)
    about = json.loads((copy / "plan.json").read_text())
    del about["cells"]
    (copy / "plan.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="of an earlier version, run evaluate again"):
        study_differences(copy, PAIRS)


def test_both_inferences_are_marked(study: Study, tmp_path: Path) -> None:
    words = [sys.executable, SCRIPT, study.folder, "--metric", "balanced_accuracy"]
    words += ["--against", "temporal=dummy"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=True)
    rows = study.scores[study.scores["metric"] == "balanced_accuracy"]
    row = rows[(rows["method"] == "dummy") & (rows["split"] == "random")].iloc[0]
    assert row["difference_high"] < 0
    assert row["p_corrected"] < 0.05  # the diagnosis is planted in connectivity
    lines = {line.split(" | ")[0]: line for line in done.stdout.splitlines()}
    cells = lines["| dummy"].split(" | ")
    assert cells[1].endswith(f"({row['difference']:+.3f} * †)")
    assert cells[2].rstrip(" |").endswith(" *)")  # three sites are too few for a t-test
    assert "**balanced accuracy, differences**" in lines
    assert "| temporal minus dummy" in lines
