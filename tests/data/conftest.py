"""What every malformed input must come to, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from semantoks.cli.application import run
from semantoks.data.store import Store

Checker = Callable[..., None]


@pytest.fixture
def check_malformed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Checker:
    """Return a function that prepares a malformed input, and checks all that must come of it.

    It takes what writes the input below a folder and returns the words of the command line, and
    regular expressions: what the message names, what it says was expected, and what to do. `kept`
    is how many good scans --keep-going keeps; None if the fault is not that of one scan.
    """

    def prepare(words: list[object]) -> tuple[int, str]:
        fixed = ["--out", tmp_path / "made" / "store", "--workers", 1, "--no-quality-page"]
        code = run([str(word) for word in ("prepare", *words, *fixed)])
        return code, capsys.readouterr().err.strip()

    def nothing_is_made() -> bool:
        return not list((tmp_path / "made").glob("*"))

    def check(
        arrange: Callable[[Path], list[object]],
        names: str,
        expected: str,
        remedy: str,
        *,
        kept: int | None = None,
        code: int = 1,
    ) -> None:
        words = arrange(tmp_path)
        found, message = prepare(words)
        assert found == code
        check_message(message, names, expected, remedy)
        assert nothing_is_made()
        found, message = prepare([*words, "--keep-going"])
        if kept is None:
            assert found == code
            assert nothing_is_made()
            return
        assert found == 0
        assert [path.name for path in (tmp_path / "made").glob("*")] == ["store"]
        assert len(Store.open(tmp_path / "made" / "store")) == kept
        refused = pd.read_csv(tmp_path / "made" / "store" / "refused.csv")
        assert len(refused) == 1
        assert re.search(names, refused["reason"][0])

    return check


def check_message(message: str, *parts: str) -> None:
    """Check that an error is one paragraph that names, expects and advises."""
    paragraph = message[message.rindex("error:") :]
    assert "\n" not in paragraph
    assert "Traceback" not in message
    assert len(paragraph) < 1500
    for part in parts:
        assert re.search(part, paragraph), f"{part!r} is not in: {paragraph}"
