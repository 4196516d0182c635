"""What the package promises at its door: quick import, everyday names, and a README that runs."""

from __future__ import annotations

import ast
import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpydoc.validate import validate

import semantoks
from semantoks.cli.application import app, run
from semantoks.cli.application import app as cli_app
from semantoks.errors import InputError

README = Path(__file__).resolve().parents[1] / "README.md"


def test_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(README), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert found.attempted >= 12
    assert found.failed == 0


def test_every_name_can_be_imported() -> None:
    assert all(getattr(semantoks, name) is not None for name in semantoks.__all__)
    assert set(semantoks.__all__) <= set(dir(semantoks))
    with pytest.raises(AttributeError, match="has no attribute 'Atlass'"):
        _ = semantoks.Atlass


def test_type_checkers_and_python_see_the_same_names() -> None:
    tree = ast.parse(Path(semantoks.__file__).read_text())
    blocks = [node for node in tree.body if isinstance(node, ast.If)]
    imports = [n for block in blocks for n in block.body if isinstance(n, ast.ImportFrom)]
    seen = {alias.name: node.module for node in imports for alias in node.names}
    assert seen == semantoks._MODULES


def test_importing_and_help_load_no_heavy_library() -> None:
    code = (
        "import sys, semantoks.cli; semantoks.cli.run(['--help']); "
        "print(sorted({'torch', 'pandas', 'sklearn', 'matplotlib', 'nilearn'} & set(sys.modules)))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert printed.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    "verb", ["", *["demo", "prepare", "info", "pretrain", "embed", "probe", "report"]]
)
def test_help(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert ("Example: semantoks" in text) == bool(verb)


def test_help_lists_verbs_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    run(["--help"])
    text = capsys.readouterr().out
    places = [text.index(f"│ {name} ") for name in ("demo", "prepare", "info", "pretrain", "embed")]
    assert places == sorted(places)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == semantoks.__version__
    assert app.name == ("semantoks",)


def public_objects() -> list[str]:
    """Name what users can call: the everyday names, and the methods of the classes among them."""
    found = []
    for name, module in semantoks._MODULES.items():
        thing = getattr(semantoks, name)
        found.append(f"{module}.{name}")
        if isinstance(thing, type):
            methods = (key for key, value in vars(thing).items() if callable(value))
            found += [f"{module}.{name}.{key}" for key in methods if not key.startswith("_")]
    verbs = [cli_app[verb].default_command for verb in cli_app if not verb.startswith("-")]
    return found + [f"{verb.__module__}.{verb.__qualname__}" for verb in verbs if verb is not None]


# Whole and in numpydoc's form: summary, parameters, returns, yields, with types and descriptions.
CHECKS = {"GL03", "GL06", "GL07", "GL08", "SS01", "SS02", "SS03", "SS04", "PR01", "PR02", "PR03"}
CHECKS |= {"PR04", "PR05", "RT01", "RT03", "YD01"}


@pytest.mark.parametrize("name", public_objects())
def test_public_docstrings_are_whole(name: str) -> None:
    found = [error for error in validate(name)["errors"] if error[0] in CHECKS]
    assert not found


# A room that grows beyond this is a reason to look what can go, not to raise the number.
CEILINGS = {
    "benchmark": 6_050,
    "cli": 2_700,
    "data": 10_370,
    "evaluation": 10_010,
    "interpretation": 2_815,
    "model": 2_985,
    "objective": 620,
    "peers": 4_500,
    "training": 2_800,
}


@pytest.mark.parametrize("room", CEILINGS)
def test_rooms_stay_small(room: str) -> None:
    folder = Path(semantoks.__file__).parent / room
    lines = sum(len(path.read_text().splitlines()) for path in folder.rglob("*.py"))
    assert lines <= CEILINGS[room], f"{room} has {lines} lines"


def test_objects_say_briefly_what_they_are(tmp_path: Path) -> None:
    people = semantoks.simulate_cohort(3)
    semantoks.write_cohort(people, tmp_path / "recordings")
    atlas = people[0].atlas
    semantoks.prepare(tmp_path / "recordings", tmp_path / "store", atlas=atlas)
    encoder = semantoks.SemantoksEncoder(atlas, dim=64, depth=0)
    made = semantoks.embed(tmp_path / "store", encoder)  # a path will do
    assert repr(made) == "Embeddings(3 scans, 128 features: mean+cls)"
    assert repr(people[0]).startswith("Recording('sub-001' of 'sub-001', 40 ROIs, 220 samples at 2")
    for shown in (made, atlas, semantoks.Store.open(tmp_path / "store")):
        assert "<table" in shown._repr_html_()


def test_what_beginners_try_is_answered_in_a_sentence(tmp_path: Path) -> None:
    atlas = semantoks.simulate_cohort(1)[0].atlas
    encoder = semantoks.SemantoksEncoder(atlas, dim=64, depth=0)
    tried = (  # without the checks of types that tests have
        "import numpy as np, semantoks as sk; atlas = sk.simulate_cohort(1)[0].atlas;"
        "sk.SemantoksEncoder(atlas, dim=64, depth=0)(np.zeros((1, 40, 100)))"
    )
    done = subprocess.run([sys.executable, "-c", tried], capture_output=True, text=True)
    assert "give torch.from_numpy(series)" in done.stderr
    with pytest.raises(InputError, match="kind='regression'"):
        semantoks.ClosedFormProbe().fit(np.eye(6), np.linspace(20.5, 80, 6))
    nameless = semantoks.Recording(np.zeros((40, 100)), 2.0, atlas)
    with pytest.raises(InputError, match="without a name"):
        semantoks.write_cohort([nameless], tmp_path / "out")
    with pytest.raises(InputError, match="nothing-there"):
        semantoks.embed(tmp_path / "nothing-there", encoder)
