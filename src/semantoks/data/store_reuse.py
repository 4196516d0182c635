"""Takes a store that is there for what an equal call would write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semantoks.data.atlas import Atlas
from semantoks.data.preprocessing import Preprocessing
from semantoks.data.refusals import Refusal
from semantoks.data.store import Store
from semantoks.data.store_layout import read_description
from semantoks.errors import InputError


class OtherStoreError(InputError):
    """A store is there, but other files or arguments were given when it was written."""


def find_equal_store(
    path: Path, atlas: Atlas, preprocessing: Preprocessing, request: Mapping[str, Any]
) -> Store | None:
    """Open the store at a place if it is what is asked for."""
    if not path.exists():
        return None
    try:
        store, written = Store.open(path), read_description(path).get("request")
    except InputError as error:
        raise OtherStoreError(str(error)) from error
    asked = json.loads(json.dumps(dict(request)))
    if (store.atlas, store.preprocessing, written) != (atlas, preprocessing, asked):
        raise OtherStoreError(
            f"{path} was written from other files or with other arguments. Give another place, or "
            "remove it if it is not needed."
        )
    return store


def read_refusals(store: Store) -> tuple[Refusal, ...]:
    """Return the scans that were left out of a store."""
    table = store.refused[["scan", "source", "reason", "category"]]
    return tuple(Refusal(*map(str, row)) for row in table.itertuples(index=False))
