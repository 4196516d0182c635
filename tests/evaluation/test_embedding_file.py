"""Identities in a file of embeddings stay what they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from semantoks.evaluation.embedding import Embeddings, read_embeddings, write_embeddings


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_subjects_may_be_called_as_what_is_missing_elsewhere(tmp_path, suffix):
    names = ["NA", "null", "None", "007", "nan"]
    frame = pd.DataFrame({"scan": names, "subject": names, "site": [*names[:4], ""]})
    frame["mean_0000"] = [0.5, np.nan, 1.5, 2.0, 3.0]
    write_embeddings(Embeddings(frame), tmp_path / f"features{suffix}")
    found = read_embeddings(tmp_path / f"features{suffix}").frame
    for column in ("scan", "subject", "site"):
        assert found[column].tolist() == frame[column].tolist()
    np.testing.assert_array_equal(found["mean_0000"], frame["mean_0000"])


def test_missing_features_of_a_foreign_table_stay_missing(tmp_path):
    (tmp_path / "x.csv").write_text("scan,f\nNA,NA\nb,null\nc,1\n")
    found = read_embeddings(tmp_path / "x.csv")
    assert found.frame["scan"].tolist() == ["NA", "b", "c"]
    np.testing.assert_array_equal(found.features[:, 0], [np.nan, np.nan, 1])
