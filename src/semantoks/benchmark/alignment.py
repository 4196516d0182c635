"""Embeddings brought into the order of a store, and refused if they are not of its scans."""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding_file import Embeddings


def align(
    store: Store, name: str, embeddings: Embeddings
) -> Float[NDArray[np.float64], "scan feature"]:
    """Return the features of embeddings in the order of the scans of a store."""
    made_from = embeddings.provenance.get("store", {}).get("fingerprint")
    if made_from not in (None, store.fingerprint):
        raise InputError(
            f"embeddings {name!r} were made from another store (fingerprint {made_from}) than "
            f"this one ({store.fingerprint}, {store.path}). Embed this store, or name the other."
        )
    wanted = pd.Index(store.scans["scan"].astype(str))
    given = pd.Index(embeddings.frame["scan"].astype(str))
    problems = {
        "name scans more than once": given[given.duplicated()].unique(),
        "lack scans of the store": wanted.difference(given, sort=False),
        "have scans that the store does not have": given.difference(wanted, sort=False),
    }
    for problem, found in problems.items():
        if len(found):
            raise InputError(
                f"embeddings {name!r} {problem}: {len(found)}, such as {', '.join(found[:5])}. "
                "Embed this store again."
            )
    features: NDArray[np.float64] = embeddings.features[given.get_indexer(wanted)]
    broken = np.argwhere(~np.isfinite(features))
    if len(broken):
        scan, feature = broken[0]
        raise InputError(
            f"embeddings {name!r} are not finite in {len(np.unique(broken[:, 0]))} scan(s), the "
            f"first is {wanted[scan]!r} (feature {embeddings.feature_names[feature]!r} is "
            f"{features[scan, feature]}). Embed this store again, or leave these scans out."
        )
    return features
