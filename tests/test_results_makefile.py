"""The make file of the results: every section's commands are understood, its files are there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from semantoks.benchmark.plan import read_plan
from semantoks.cli.application import app

ROOT = Path(__file__).parents[1]
MAKEFILE = ROOT / "benchmarks/results.mk"
SECTIONS = re.findall(r"^([a-z]+):.*##", MAKEFILE.read_text(encoding="utf-8"), flags=re.MULTILINE)
DOWNLOADED = (
    "ABIDE_pcp",
    "abide1_subjects.csv",
    "stages_schaefer400_7n_order_tr2.h5",
    "sofas_change_scores.txt",
    "bprs_change_scores.txt",
    "qtab",
    "shen293_networks.tsv",
)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def asked(section: str, folder: Path) -> list[str]:
    """Return the command lines that make would run, from nothing but what was downloaded."""
    for name in DOWNLOADED:
        (folder / name).touch()
    done = subprocess.run(
        ["make", "-n", "-f", MAKEFILE, section], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ").splitlines()


def test_the_results_name_every_section() -> None:
    pages = "".join(
        (ROOT / "docs" / name).read_text(encoding="utf-8")
        for name in ("results.md", "what-was-tried.md")
    )
    assert set(re.findall(r"results\.mk ([a-z]+)", pages)) == {*SECTIONS}
    assert len(SECTIONS) > 7


@pytest.mark.parametrize("section", SECTIONS)
def test_commands_are_understood(section: str, tmp_path: Path) -> None:
    found = [
        command.group(1)
        for line in asked(section, tmp_path)
        for command in re.finditer(r"\bsemantoks ([a-z][^;&|]*)", line)
    ]
    for command in found:
        app.parse_args(shlex.split(command), exit_on_error=False, print_error=False)
    assert found


@pytest.mark.parametrize("section", SECTIONS)
def test_plans_and_scripts_are_there(section: str, tmp_path: Path) -> None:
    text = "\n".join(asked(section, tmp_path))
    for plan in re.findall(r"cp (\S+\.yaml) ", text):
        read_plan(plan)
    for script in re.findall(r"(\S+\.py)\b", text):
        assert Path(script).exists(), script


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    courses = [f"abide-time-courses{end}/model" for end in ("", "-start", "-longer")]
    for folder in ("abide.store", "abide-run/model", *courses):
        (tmp_path / folder).mkdir(parents=True)
    text = "\n".join(asked("abide", tmp_path))
    assert "semantoks evaluate" in text
    assert "semantoks prepare" not in text
    assert "semantoks pretrain" not in text
    (tmp_path / "abide-run/config.yaml").touch()
    (tmp_path / "abide-run/model").rmdir()
    assert "--out abide-run --resume" in "\n".join(asked("abide", tmp_path))
