"""The same architecture without pretraining: the baseline that pretraining must beat."""

from __future__ import annotations

import torch

from semantoks.model.encoder import SemantoksEncoder


def fresh_weights(encoder: SemantoksEncoder, seed: int = 0) -> SemantoksEncoder:
    """Make an encoder of the same architecture with untrained weights.

    Examples
    --------
    >>> from semantoks.data.atlas import Atlas
    >>> encoder = SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=1)
    >>> first, again = fresh_weights(encoder, 1), fresh_weights(encoder, 1)
    >>> bool((first.cls_token == again.cls_token).all()), first is encoder
    (True, False)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = SemantoksEncoder(encoder.atlas, **encoder.arguments)
    fresh.preprocessing = encoder.preprocessing
    return fresh.eval()
