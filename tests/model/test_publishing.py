"""Models of the hub, without a network: cache, fetching, pushing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard, constants

from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.model.checkpoint import load_encoder, push_encoder, save_encoder
from semantoks.model.encoder import SemantoksEncoder

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {"model.safetensors", "config.json", "README.md"}


class Hub:
    """A hub that writes down what it is asked."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.license = self.card = ""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        self.calls.append(("create_repo", {"repo_id": repo_id, "private": private}))

    def create_branch(self, repo_id: str, *, branch: str, exist_ok: bool) -> None:
        self.calls.append(("create_branch", {"branch": branch}))

    def upload_folder(
        self,
        *,
        repo_id: str,
        folder_path: Path,
        revision: str | None,
        allow_patterns: list[str],
        commit_message: str,
    ) -> SimpleNamespace:
        files = {p.name for p in folder_path.iterdir() if p.name in allow_patterns}
        self.calls.append(("upload_folder", {"files": files, "revision": revision}))
        self.license = load_encoder(folder_path).license  # loads, so its checksums hold
        self.card = (folder_path / "README.md").read_text()
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/{COMMIT}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    encoder = SemantoksEncoder(Atlas.from_networks({"a": 2}), dim=32, depth=0, head_dim=16)
    return save_encoder(encoder, tmp_path / "run" / "model")


@pytest.fixture
def cache(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay the model out as the hub's cache does, and cut the network."""
    cache = tmp_path / "cache"
    repository = cache / "models--someone--brains"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / COMMIT).symlink_to(folder, target_is_directory=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return cache


def test_cache_without_network(cache: Path, folder: Path) -> None:
    expected = load_encoder(folder).cls_token
    for revision in (None, "main", COMMIT):
        assert torch.equal(load_encoder("someone/brains", revision=revision).cls_token, expected)


def test_not_in_the_cache(cache: Path) -> None:
    with pytest.raises(InputError, match="no folder here, the hub cannot be reached"):
        load_encoder("someone/minds")
    with pytest.raises(InputError, match="not in the cache"):
        load_encoder("someone/brains", revision="v9")


def test_damage_in_the_cache(cache: Path, folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\7")
    with pytest.raises(InputError, match="is damaged"):
        load_encoder("someone/brains")


def test_fetched_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def fetch(**wanted: Any) -> str:
        asked.append(wanted)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert load_encoder("someone/brains", revision="v1").dim == 32
    (wanted,) = asked
    assert (wanted["repo_id"], wanted["revision"]) == ("someone/brains", "v1")
    assert set(wanted["allow_patterns"]) == FILES  # never a pickle


def test_paths_are_not_looked_for_on_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(**wanted: Any) -> str:
        raise AssertionError(wanted)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    monkeypatch.chdir(folder.parent.parent)
    assert load_encoder("run/model").dim == 32
    for path in ("run/modle", "../run", "nowhere", "a/b/c"):
        with pytest.raises(InputError, match=r"no model\.safetensors"):
            load_encoder(path)
    with pytest.raises(InputError, match="have no revisions"):
        load_encoder("run/model", revision="v1")


def test_push(folder: Path) -> None:
    hub = Hub()
    (folder / "secret.txt").write_text("not for others")
    address = push_encoder(folder.parent, "someone/brains", revision="v1", api=hub)  # type: ignore[arg-type]
    assert address.endswith(COMMIT)
    assert hub.calls == [
        ("create_repo", {"repo_id": "someone/brains", "private": True}),
        ("create_branch", {"branch": "v1"}),
        ("upload_folder", {"files": FILES, "revision": "v1"}),
    ]


def test_push_verb(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    assert run(["push", str(folder), "someone/brains", "--no-private"]) == 0
    assert COMMIT in capsys.readouterr().out
    assert hub.calls[0] == ("create_repo", {"repo_id": "someone/brains", "private": False})


def test_push_with_a_license(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    card = folder / "README.md"
    card.write_text(card.read_text() + "\n## Mine\n\nlicense: a line of my own\n")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(["push", str(folder), "someone/brains", "--license", "cc-by-4.0"]) == 0
    assert hub.license == "cc-by-4.0"
    assert ModelCard(hub.card).data.license == "cc-by-4.0"
    assert "## Licence\n\n`cc-by-4.0`\n" in hub.card
    assert "license: a line of my own" in hub.card  # what was written by hand stays
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert run(["push", str(folder), "someone/brains"]) == 0
    assert hub.license == "unknown"
    card.write_text("# No head\n\nlicense: none\n")
    capsys.readouterr()
    assert run(["push", str(folder), "someone/brains", "--license", "cc-by-4.0"]) == 1
    assert "names no license" in capsys.readouterr().err


def test_nothing_broken_is_pushed(folder: Path, tmp_path: Path) -> None:
    hub: Any = Hub()
    with pytest.raises(InputError, match="owner/name"):
        push_encoder(folder, "brains", api=hub)
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        push_encoder(tmp_path / "none", "someone/brains", api=hub)
    (folder / "README.md").unlink()
    with pytest.raises(InputError, match=r"lacks README\.md"):
        push_encoder(folder, "someone/brains", api=hub)
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match="damaged"):
        push_encoder(folder, "someone/brains", api=hub)
    assert hub.calls == []


def test_a_hub_that_refuses(folder: Path) -> None:
    class Closed(Hub):
        def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
            raise OSError("401 Client Error\nmore")

    closed: Any = Closed()
    with pytest.raises(InputError, match=r"did not take someone/brains: 401 Client Error\. Log in"):
        push_encoder(folder, "someone/brains", api=closed)
