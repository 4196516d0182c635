"""Passing a model on through the hub."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from semantoks.errors import InputError
from semantoks.model.checkpoint import change_license, find_model, load_model
from semantoks.model.hub import FILES, HUB_ID, first_line

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def push_encoder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = True,
    revision: str | None = None,
    license: str | None = None,
    api: HfApi | None = None,
) -> str:
    """Push a model folder to the hub, after it was checked."""
    import huggingface_hub
    from httpx2 import HTTPError
    from huggingface_hub.errors import HFValidationError

    if not HUB_ID.fullmatch(repo_id):
        raise InputError(f"a repository of the hub is called owner/name, not {repo_id!r}.")
    folder = find_model(folder)
    load_model(folder)
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(
            f"{folder} was written by an older semantoks and lacks {', '.join(missing)}. Save it "
            "again first: save_encoder(load_encoder(FOLDER), NEW_FOLDER)."
        )
    api = huggingface_hub.HfApi() if api is None else api
    with tempfile.TemporaryDirectory() as beside:
        if license is not None:
            for name in FILES:
                shutil.copyfile(folder / name, Path(beside) / name)
            folder = Path(beside)
            change_license(folder, license)
        try:
            return _upload(api, folder, repo_id, private=private, revision=revision)
        except (OSError, HTTPError, HFValidationError) as error:
            raise InputError(
                f"the hub did not take {repo_id}: {first_line(error)}. Log in with `hf auth "
                "login`, and check the name and the connection."
            ) from error


def _upload(api: HfApi, folder: Path, repo_id: str, *, private: bool, revision: str | None) -> str:
    """Send the files of a model, and say where they are."""
    api.create_repo(repo_id, private=private, exist_ok=True)
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        revision=revision,
        allow_patterns=list(FILES),
        commit_message="Add an encoder of semantoks",
    )
    return str(commit.commit_url)
