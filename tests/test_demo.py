"""The main job, end to end, against the known answer of the simulated cohort."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from semantoks.cli.application import run
from semantoks.cli.demo import run_demo


def test_demo_finds_what_was_planted_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my demo"  # with a blank
    assert run(["demo", str(folder), "--subjects", "200", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    planted = answer["above_chance"]["diagnosis"]
    assert planted["components"]
    assert planted["connectivity"]
    verdicts = {row["against"]: row for row in answer["verdicts"]}
    assert verdicts["untrained, ridge"]["verdict"] == "better"
    assert verdicts["connectivity"]["difference"] > 0
    assert not any(answer["above_chance"]["handedness"].values())
    page = Path(answer["report"]).read_text()
    assert "diagnosis" in page
    assert run(["info", str(folder / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "finished"
    assert run(["demo", str(folder)]) == 1
    assert "exists" in capsys.readouterr().err


def test_demo_stops_where_a_command_fails(tmp_path: Path) -> None:
    called: list[str] = []

    def call(words: object) -> int:
        called.append(words[0])  # type: ignore[index]
        return 130 if called[-1] == "pretrain" else 0

    code, answer = run_demo(tmp_path / "demo", 40, 0, call=call, say=lambda line: None)
    assert code == 130
    assert called == ["prepare", "pretrain"]
    assert "pretrain" in answer["stopped_at"]
