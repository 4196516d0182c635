"""Models of the hub: fetched, or taken from the cache where there is no network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, TypedDict

from semantoks.errors import InputError

FILES: Final = ("model.safetensors", "config.json", "README.md")
"""What a model on the hub consists of; nothing else is fetched or pushed."""
HUB_ID: Final = re.compile(r"[\w.-]+/[\w.-]+")


class _Wanted(TypedDict):
    """What is asked of the hub."""

    repo_id: str
    revision: str | None
    allow_patterns: list[str]


def looks_like_hub_id(name: str) -> bool:
    """Say whether a name that is no folder may be a repository of the hub.

    Examples
    --------
    >>> looks_like_hub_id("someone/brain-semantoks"), looks_like_hub_id("../run")
    (True, False)
    """
    owner = Path(name).parts[:1]
    return bool(HUB_ID.fullmatch(name)) and name[0] != "." and not Path(*owner).is_dir()


def fetch_model(repo_id: str, *, revision: str | None = None) -> Path:
    """Fetch a model from the hub, or find it in the hub's cache."""
    import huggingface_hub
    from httpx2 import HTTPError  # the hub's client lets errors of a proxy through
    from huggingface_hub.errors import (
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    wanted = _Wanted(repo_id=repo_id, revision=revision, allow_patterns=list(FILES))
    try:
        return Path(huggingface_hub.snapshot_download(**wanted))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise InputError(
            f"{repo_id!r} is neither a folder here nor a model on the hub{at}, or you may not see "
            "it. Give the folder of a model or of a run, or log in with `hf auth login`."
        ) from error
    except (OSError, HTTPError, HFValidationError) as error:
        return _cached(wanted, error)


def _cached(wanted: _Wanted, reason: Exception) -> Path:
    """Find a model in the cache after the hub could not be asked."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.snapshot_download(**wanted, local_files_only=True))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{wanted['repo_id']!r} is no folder here, the hub cannot be reached "
            f"({first_line(reason)}), and the model is not in the cache. Fetch it once where "
            "there is a network, or copy its folder here."
        ) from error


def first_line(error: Exception) -> str:
    """Return the first line of an error's message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
