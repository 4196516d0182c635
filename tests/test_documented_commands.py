"""Commands of the documentation: all are understood; the worked example begins as it says."""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

from semantoks.cli.application import app, run

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """Return the command lines of a page: lines of code, and code in tables."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    code = "\n".join(re.findall(r"^```.*?^```", text, flags=re.MULTILINE | re.DOTALL))
    found = re.findall(r"^(?:\$ )?semantoks ([a-z].*)$", code, flags=re.MULTILINE)
    found += re.findall(r"\| `semantoks ([^`]*)`", text)
    return [shlex.split(line, comments=True) for line in found]


def test_there_are_commands() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_are_understood(page: Path) -> None:
    for words in commands(page):
        app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_files_of_the_worked_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["make", str(tmp_path / "study"), "--subjects", "6"])
    runpy.run_path(str(ROOT / "examples/make_fmriprep_tree.py"), run_name="__main__")
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs/formats/worked-example.md"
    (words,) = [words for words in commands(page) if words[0] == "prepare"]
    assert run([*words, "--workers", "1", "--no-quality-page", "--quiet"]) == 0
    coverage = pd.read_csv(tmp_path / "study.store/coverage.csv", keep_default_na=False)
    assert coverage["category"].tolist() == ["short", *[""] * 5]
    assert coverage["masked"].tolist() == ["", "", "Vis", "", "", ""]
    quality = pd.read_parquet(tmp_path / "study.store/quality.parquet")
    assert quality["motion"].idxmax() == 1
    scans = pd.read_parquet(tmp_path / "study.store/scans.parquet")
    assert set(scans["diagnosis"]) == {"patient", "control"}
