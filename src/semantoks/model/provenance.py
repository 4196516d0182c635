"""Who a model was trained on, without naming them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

_DIGITS: Final = 16


def hash_subjects(subjects: Iterable[str], *, salt: str) -> dict[str, Any]:
    """Hash the subjects of a cohort, so that others can tell whether a model has seen theirs.

    A hash is the first 16 hexadecimal digits of sha256(salt + subject), in UTF-8. The salt makes
    the hashes of two cohorts differ. It does not make subjects secret: whoever guesses an
    identifier can confirm it.

    Examples
    --------
    >>> hash_subjects(["sub-01"], salt="abc")["hashes"]
    ['a183199ba2f60abd']
    """
    hashes = sorted({_hash(str(subject), salt) for subject in subjects})
    algorithm = f"sha256(salt + subject), first {_DIGITS} hexadecimal digits"
    return {"algorithm": algorithm, "salt": salt, "hashes": hashes}


def seen_subjects(provenance: Mapping[str, Any], subjects: Iterable[str]) -> list[str]:
    """List the subjects whose identifiers are among those that a model was trained on.

    A person of another cohort may have the same identifier, and a person who was seen another one.

    Examples
    --------
    >>> provenance = {"subjects": hash_subjects(["sub-01", "sub-02"], salt="abc")}
    >>> seen_subjects(provenance, ["sub-02", "sub-03"])
    ['sub-02']
    """
    hashed = provenance.get("subjects")
    if not hashed:
        return []
    known = set(hashed["hashes"])
    return [subject for subject in subjects if _hash(str(subject), hashed["salt"]) in known]


def _hash(subject: str, salt: str) -> str:
    """Hash one identifier."""
    return hashlib.sha256((salt + subject).encode()).hexdigest()[:_DIGITS]
