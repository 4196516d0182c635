"""What a store that is being written says of itself: a line a scan, so that writing can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from semantoks.data.refusals import Refusal
from semantoks.data.store_table import plain

JOURNAL_VERSION: Final = 2
"""Raised when lines change their meaning; what was begun with another version is started over."""


def line_of_scan(
    row: Mapping[str, Any],
    valid: NDArray[np.bool_],
    content: bytes,
    raw_digest: str,
    quality: Mapping[str, Any] | None,
) -> bytes:
    """Say of a scan that it is written."""
    entry = {
        "row": row,
        "valid": np.packbits(valid).tobytes().hex(),
        "digest": digest_of(content, valid),
        "raw": raw_digest,
        "quality": _plain_row(quality),
    }
    return line_of(entry)


def line_of_refusal(refusal: Refusal, quality: Mapping[str, Any] | None) -> bytes:
    """Say of a scan that it is left out."""
    return line_of({"refused": vars(refusal), "quality": _plain_row(quality)})


def line_of(entry: Mapping[str, Any]) -> bytes:
    """Write an entry as a line."""
    return json.dumps(entry).encode() + b"\n"


def valid_of(entry: Mapping[str, Any], n_rois: int) -> NDArray[np.bool_]:
    """Read which ROIs of a scan carry signal."""
    packed = np.frombuffer(bytes.fromhex(entry["valid"]), dtype=np.uint8)
    return np.unpackbits(packed, count=n_rois).astype(np.bool_)


def digest_of(samples: bytes, valid: NDArray[np.bool_]) -> str:
    """Condense the values of a scan."""
    return hashlib.sha256(samples + np.packbits(valid).tobytes()).hexdigest()


class Journal:
    """The lines of a store that is being written; they are read anew each time, and not kept."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def lines(self) -> Iterator[tuple[dict[str, Any], int]]:
        """Read all lines up to where the journal was cut short."""
        with self.file.open("rb") as stream:
            for line in stream:
                entry = _parse(line)
                if entry is None:
                    return
                yield entry, len(line)

    def written(self) -> Iterator[dict[str, Any]]:
        """Read what is said of the scans that are written."""
        return (entry for entry, _ in self.lines() if "row" in entry)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Read the rows of the table of scans."""
        return (entry["row"] for entry in self.written())

    def valid(self, n_scans: int, n_rois: int) -> NDArray[np.bool_]:
        """Read which ROIs carry signal."""
        valid = np.empty((n_scans, n_rois), dtype=np.bool_)
        for scan, entry in zip(valid, self.written(), strict=True):
            scan[:] = valid_of(entry, n_rois)
        return valid

    def identities(self) -> list[tuple[str, str, str]]:
        """Read what makes a store this one: scan, subject and digest of every scan."""
        return [
            (entry["row"]["scan"], entry["row"]["subject"], entry["digest"])
            for entry in self.written()
        ]

    def quality(self) -> Iterator[dict[str, Any]]:
        """Read the rows of the table of quality."""
        for entry, _ in self.lines():
            if entry.get("quality") is not None:
                about = entry.get("refused") or entry["row"] | {"category": "", "reason": ""}
                named = {name: about[name] for name in ("scan", "source", "category", "reason")}
                yield named | entry["quality"]


def _plain_row(quality: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Turn measures into what JSON can hold."""
    return None if quality is None else {name: plain(value) for name, value in quality.items()}


def _parse(line: bytes) -> dict[str, Any] | None:
    """Read a line; None if it was cut short."""
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None
