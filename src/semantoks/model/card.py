"""A model's card: what a person must know before using it, in the hub's format."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from typing import Any, Final

import yaml

from semantoks.errors import InputError

_TAGS: Final = ["fmri", "neuroimaging", "brain", "foundation-model", "self-supervised-learning"]
_LIMITS: Final = """\
- The features describe a recording, they diagnose nobody. They are for research.
- They hold what shapes a recording: site, scanner, motion and preprocessing as well as the brain.
  Compare them with plain connectivity on the same splits (`semantoks probe` does so), and leave
  sites out one at a time before a claim about people.
- Order of the ROIs, repetition time and filter must be those above. `semantoks embed` refuses a
  store whose atlas, repetition time or band differ; an array that is given to the encoder directly
  is checked for its shape only.
- A subject of the training data must not be a test subject. `semantoks.model.provenance`
  says which subjects a model has seen, if the model carries their hashes.
"""


def model_card(config: Mapping[str, Any]) -> str:
    """Write the card of a model."""
    head = {
        "license": config["license"],
        "library_name": "semantoks",
        "pipeline_tag": "feature-extraction",
        "tags": _TAGS,
    }
    sections = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        "# Brain-Semantoks encoder",
        _wrapped(
            "An encoder of parcellated functional MRI: windows of BOLD series (batch, roi, time) "
            "in, a summary and one token a brain network and patch out. Method: Gijsen, Schulz, "
            "Ritter, *Brain-Semantoks*, ICLR 2026, arXiv 2512.11582."
        ),
        "## How to use it\n\n" + _usage(config),
        "## What goes in\n\n" + _rows(_input(config)),
        "## Architecture\n\n" + _rows(config["arguments"] | config["weights"]),
        "## Training data and recipe\n\n" + _rows(_training(config["provenance"])),
        "## Licence\n\n" + _licence(config["license"]),
        "## Limits\n\n" + _LIMITS,
    ]
    return "\n\n".join(section.rstrip() for section in sections) + "\n"


def relicensed(card: str, old: str, new: str) -> str:
    """Name another licence in a card, and leave the rest as it is."""
    head = re.match(r"---\n.*?^---$", card, flags=re.DOTALL | re.MULTILINE)
    line = yaml.safe_dump({"license": new}).strip()
    text, found = re.subn(
        r"^license:.*$", lambda _: line, head[0] if head else "", count=1, flags=re.MULTILINE
    )
    if head is None or not found:
        raise InputError(
            "the head of the model's card README.md (between its two lines '---') names no "
            "license; write one there, such as 'license: unknown'."
        )
    section = "## Licence\n\n"
    return text + card[head.end() :].replace(section + _licence(old), section + _licence(new), 1)


def _usage(config: Mapping[str, Any]) -> str:
    """Show how to load the model."""
    window, rois = config["arguments"]["window"], len(config["atlas"]["labels"])
    return (
        "```python\n"
        "import torch\n"
        "from semantoks import load_encoder\n\n"
        'encoder = load_encoder("FOLDER_OR_HUB_ID")\n'
        f"series = torch.zeros(1, {rois}, {window})  # your windows: (batch, roi, time), z-scored\n"
        "summary, tokens = encoder(series)\n"
        "```\n\n"
        "On a whole cohort: `semantoks embed --data STORE --model FOLDER --out features.parquet`."
    )


def _input(config: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the model expects of series."""
    atlas, preprocessing = config["atlas"], config["preprocessing"]
    networks = list(dict.fromkeys(atlas["networks"]))
    rows = {
        "atlas": f"{atlas['name']}: {len(atlas['labels'])} ROIs, fingerprint "
        f"{atlas['fingerprint']}; labels and order in config.json",
        "networks": ", ".join(networks),
        "standardization": "z-score per ROI over the whole scan",
    }
    return rows | (preprocessing or {"preprocessing": "unknown"})


def _training(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Say what the model was trained on, without what only machines read."""
    if not provenance:
        return {"provenance": "unknown"}
    rows = {key: value for key, value in provenance.items() if key not in {"recipe", "subjects"}}
    if subjects := provenance.get("subjects"):
        rows["subjects"] = f"{len(subjects['hashes'])}, hashed in config.json"
    if "recipe" in provenance:
        rows["recipe"] = "in config.json"
    return rows


def _licence(name: str) -> str:
    """Say what a licence that nobody named means."""
    if name != "unknown":
        return f"`{name}`"
    return _wrapped(
        "Nobody has named one yet. Weights can carry the terms of the data that they were trained "
        "on: clear these before you pass the model on, and name the licence above."
    )


def _rows(values: Mapping[str, Any]) -> str:
    """Write names and values as a table."""
    lines = ["| | |", "|---|---|"]
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = ", ".join(f"{name}: {part}" for name, part in value.items())
        text = str(value).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {key} | {text} |")
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    """Break lines."""
    return textwrap.fill(text, 100)
