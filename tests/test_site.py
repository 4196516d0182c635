"""The site can be made without a warning, names all that is public, and its examples run."""

from __future__ import annotations

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import semantoks

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples/gallery").glob("plot_*.py"))


def test_site_is_made_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx_gallery", reason="the extra docs is not installed")
    for name in ("docs", "examples"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("_build", "gallery_*")
        )
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    words = ["--fail-on-warning", "--keep-going", "--quiet", "-D", "plot_gallery=0"]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words, tmp_path / "docs", tmp_path / "site"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (tmp_path / "site/reference/api").glob("*.html")}
    assert {f"semantoks.{name}" for name in semantoks.__all__} - pages == {"semantoks.__version__"}
    keys = (tmp_path / "site/reference/configuration.html").read_text(encoding="utf-8")
    assert "optimization.epochs" in keys
    assert "recipe" in (tmp_path / "site/cli.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(example: Path) -> None:
    runpy.run_path(str(example))
