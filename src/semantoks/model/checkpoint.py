"""Model folders: weights, configuration, card and provenance; saving and loading."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import re
import shutil
import tempfile
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np
import safetensors.torch
import torch
import yaml
from safetensors import SafetensorError
from torch import Tensor

from semantoks import __version__
from semantoks.data.atlas import Atlas
from semantoks.errors import InputError
from semantoks.files import new_folder
from semantoks.model.encoder import SemantoksEncoder
from semantoks.model.hub import FILES, HUB_ID, fetch_model, first_line, looks_like_hub_id

if TYPE_CHECKING:
    from huggingface_hub import HfApi


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


_TAGS: Final = ["fmri", "neuroimaging", "brain", "foundation-model", "self-supervised-learning"]
_LIMITS: Final = """\
- The features describe a recording, they diagnose nobody. They are for research.
- They hold what shapes a recording: site, scanner, motion and preprocessing as well as the brain.
  Compare them with plain connectivity on the same splits (`semantoks probe` does so), and leave
  sites out one at a time before a claim about people.
- Order of the ROIs, repetition time and filter must be those above. `semantoks embed` refuses a
  store whose atlas, repetition time or band differ; an array that is given to the encoder directly
  is checked for its shape only.
- A subject of the training data must not be a test subject. `semantoks.model.checkpoint`
  says which subjects a model has seen, if the model carries their hashes.
"""
_COMPONENTS: Final = """\
- Its components are sums of the connectivity of the people it was made from; of a small cohort they
  hold more than half of it. Pass the model on only where connectivity may be passed on.
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
        "## Limits\n\n" + _LIMITS + _COMPONENTS * ("components" in config["arguments"]),
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


_TESTED: Final = 16
"""Features that the self-test of a model folder holds, about."""
FORMAT_VERSION: Final = 2
_FIELDS: Final = {"arguments", "atlas", "preprocessing", "provenance"}
_SINCE_2: Final = {"license", "weights", "checksum"}
# How version 1 called the parts of a network's tokenizer.
_VERSION_1: Final = {
    ".dense.": ".branches.0.",
    ".long.": ".branches.1.long.",
    ".project.": ".branches.1.project.",
}


class SavedModel(NamedTuple):
    """A model folder as read."""

    encoder: SemantoksEncoder
    preprocessing: dict[str, Any]
    provenance: dict[str, Any]


def save_encoder(
    encoder: SemantoksEncoder,
    folder: str | Path,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
    license: str | None = None,
) -> Path:
    """Write an encoder to a new folder, whole or not at all.

    Parameters
    ----------
    encoder : SemantoksEncoder
        What to save.
    folder : str or Path
        Where to; it must not exist.
    preprocessing : mapping, optional
        How series must be prepared for it; by default what the encoder was loaded with.
    provenance : mapping, optional
        What it was trained on and how; anything that JSON can hold. By default what the encoder was
        loaded with.
    license : str, optional
        The hub's identifier of the licence of the weights, such as "cc-by-4.0"; by default that
        which the encoder was loaded with, or "unknown".

    Returns
    -------
    Path
        The folder, with ``model.safetensors``, ``config.json`` and the card ``README.md``.

    Raises
    ------
    InputError
        If the folder exists.
    """
    folder = Path(folder)
    weights = {name: value.contiguous().cpu() for name, value in encoder.state_dict().items()}
    # Written here, since safetensors lets only the owner read the files that it writes.
    content = safetensors.torch.save(weights, metadata={"format": "pt"})
    try:
        with new_folder(folder) as beside:
            (beside / "model.safetensors").write_bytes(content)
            config = {
                "format_version": FORMAT_VERSION,
                "semantoks_version": __version__,
                "arguments": encoder.arguments,
                "atlas": encoder.atlas.to_dict(),
                "preprocessing": dict(
                    encoder.preprocessing if preprocessing is None else preprocessing
                ),
                "provenance": dict(encoder.provenance if provenance is None else provenance),
                "license": encoder.license if license is None else license,
                "weights": {
                    "parameters": sum(p.numel() for p in encoder.parameters()),
                    "sha256": _sha256(content),
                },
                "self_test": _self_test(encoder),
            }
            if encoder.components is not None:
                config["components"] = encoder.components.describe_scales()
            (beside / "config.json").write_text(_with_checksum(config), encoding="utf-8")
            (beside / "README.md").write_text(model_card(config), encoding="utf-8")
    except FileExistsError as error:
        raise InputError(f"{folder} exists; choose another folder or remove it.") from error
    return folder


@torch.no_grad()
def _self_test(encoder: SemantoksEncoder) -> list[float]:
    """Compute a few features of a window that a formula gives, on the CPU in float32."""
    first = next(encoder.parameters())
    plain = (first.device.type, first.dtype, encoder.training) == ("cpu", torch.float32, False)
    tested = encoder if plain else copy.deepcopy(encoder).to("cpu", torch.float32).eval()
    n_rois, length = len(encoder.atlas), encoder.window
    time = torch.arange(length, dtype=torch.float64)
    pace = 0.05 + 0.2 * torch.arange(n_rois, dtype=torch.float64)[:, None] / n_rois
    window = torch.sin(2 * math.pi * pace * time).float()
    encoding = tested(window[None])
    features = torch.cat([encoding.summary[0], encoding.tokens.flatten(0, 2).mean(0)])
    chosen = features[:: max(1, len(features) // _TESTED)]
    return [round(float(value), 6) for value in chosen]


def _check_features(encoder: SemantoksEncoder, expected: list[float] | None, folder: Path) -> None:
    """Compare the features of the self-test with those of the encoder that was saved."""
    if expected is None:  # an older version wrote the folder
        return
    found = np.array(_self_test(encoder))
    if found.shape != np.shape(expected) or not np.allclose(
        found, expected, rtol=1e-2, atol=1e-3, equal_nan=True
    ):
        raise InputError(
            f"the encoder loaded from {folder} does not compute what it did when it was saved: its "
            f"self-test gives {found[:3].tolist()}..., {expected[:3]}... were expected. The "
            "weights were not really loaded, or the libraries here compute otherwise: load it with "
            "the versions in constraints.txt, and report this."
        )


def load_encoder(folder_or_hub_id: str | Path, *, revision: str | None = None) -> SemantoksEncoder:
    """Load an encoder from a folder or from the hub.

    Parameters
    ----------
    folder_or_hub_id : str or Path
        A folder that `save_encoder` wrote, a run that `pretrain` finished, or ``owner/name`` on the
        hub; without a network, the hub's cache is looked up.
    revision : str, optional
        Branch, tag or commit on the hub.

    Returns
    -------
    SemantoksEncoder
        The encoder, in evaluation mode, on the CPU.

    Raises
    ------
    InputError
        If a file is missing, damaged, or does not fit the other.

    Examples
    --------
    >>> import tempfile
    >>> from semantoks.data.atlas import Atlas
    >>> encoder = SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=1)
    >>> folder = save_encoder(encoder, Path(tempfile.mkdtemp()) / "model")
    >>> load_encoder(folder).dim
    64
    """
    return load_model(folder_or_hub_id, revision=revision).encoder


def load_model(folder_or_hub_id: str | Path, *, revision: str | None = None) -> SavedModel:
    """Load an encoder with what its folder says about it.

    Nothing is ever unpickled: weights are safetensors, everything else is JSON.
    """
    folder = find_model(folder_or_hub_id, revision=revision)
    config = _read_config(folder / "config.json")
    path = folder / "model.safetensors"
    weights = _read_weights(path, config)
    atlas = Atlas.from_dict(config["atlas"])
    _check_sizes(folder / "config.json", atlas, config["arguments"], weights)
    encoder = SemantoksEncoder(atlas, **config["arguments"])
    try:
        encoder.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(
            f"the weights in {path} do not fit its config.json: {' '.join(str(error).split())}"
        ) from error
    _check_features(encoder.eval(), config.get("self_test"), folder)
    encoder.preprocessing, encoder.provenance = config["preprocessing"], config["provenance"]
    encoder.license = config.get("license", encoder.license)
    return SavedModel(encoder.eval(), config["preprocessing"], config["provenance"])


def _check_sizes(
    path: Path, atlas: Atlas, arguments: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> None:
    """Compare the configuration with the shapes of the weights before anything large is built."""
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    if arguments.get("depth", depth) != depth:
        raise InputError(
            f"{path} says depth {arguments['depth']}, but the weights beside it have {depth} "
            "blocks. Copy the model again."
        )
    try:
        with torch.device("meta"):
            expected = SemantoksEncoder(atlas, **arguments).state_dict()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise InputError(f"{path} has impossible arguments: {error}.") from error
    wrong = [name for name in expected if name in weights]
    wrong = [name for name in wrong if expected[name].shape != weights[name].shape]
    if wrong:
        name = wrong[0]
        raise InputError(
            f"the weights beside {path} do not fit its config.json: {name} has shape "
            f"{tuple(weights[name].shape)}, {tuple(expected[name].shape)} was expected. Copy the "
            "model again."
        )


def change_license(folder: str | Path, license: str) -> None:
    """Name another licence in the configuration and the card of a model folder."""
    path, card = Path(folder) / "config.json", Path(folder) / "README.md"
    config = _read_config(path)
    text = relicensed(card.read_text(encoding="utf-8"), config["license"], license)
    card.write_text(text, encoding="utf-8")
    path.write_text(_with_checksum(config | {"license": license}), encoding="utf-8")


def find_model(folder_or_hub_id: str | Path, *, revision: str | None = None) -> Path:
    """Find the folder of a model."""
    folder = Path(folder_or_hub_id)
    if not folder.exists() and looks_like_hub_id(folder.as_posix()):
        folder = fetch_model(folder.as_posix(), revision=revision)
    elif revision is not None:
        raise InputError(
            f"{folder} is looked for on this machine, where models have no revisions; leave the "
            "revision out, or give owner/name on the hub."
        )
    for candidate in (folder, folder / "model"):
        if (candidate / "model.safetensors").is_file():
            return candidate
    raise InputError(
        f"{folder} holds no model.safetensors, nor does {folder / 'model'}. Give the folder of a "
        "saved model or of a run that has finished."
    )


def _read_config(path: Path) -> dict[str, Any]:
    """Read and check config.json."""
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError) as error:
        raise InputError(f"{path} is missing or damaged ({error}); copy it again.") from error
    if type(version) is not int or version < 1:
        raise InputError(
            f"{path} is damaged: its format_version is {version!r}, not a whole number from 1 to "
            f"{FORMAT_VERSION}. Copy the model again."
        )
    if version > FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {version}, this semantoks ({__version__}) reads up to "
            f"{FORMAT_VERSION}; install a newer semantoks."
        )
    for key in ("atlas", "arguments", "preprocessing", "provenance"):
        if not isinstance(config.get(key, {}), dict | None):
            raise InputError(
                f"{path} is damaged: {key} is a {type(config[key]).__name__}, not an object. Copy "
                "the model again."
            )
    missing = (_FIELDS | _SINCE_2 if version >= 2 else _FIELDS) - set(config)
    if missing:
        raise InputError(f"{path} lacks {', '.join(sorted(missing))}; copy the model again.")
    Atlas.from_dict(config["atlas"])  # its own fingerprint says best what was changed
    # A checksum counts wherever there is one: a version that was edited must not switch it off.
    if "checksum" in config and config.pop("checksum") != _checksum(config):
        raise InputError(
            f"{path} was changed after the model was saved (its checksum differs); copy the model "
            "again. What the card README.md says may be changed freely."
        )
    return config


def _read_weights(path: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the weights and compare their checksum."""
    try:
        content = path.read_bytes()
        if "weights" in config and _sha256(content) != config["weights"]["sha256"]:
            raise InputError(
                f"{path} is damaged: its SHA-256 is not the one in config.json. Copy the model "
                "again."
            )
        weights = safetensors.torch.load(content)
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}); copy the model again.") from error
    return weights if config["format_version"] >= 2 else _from_version_1(weights)


def _from_version_1(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give weights the names that they have today."""
    renamed = {}
    for name, value in weights.items():
        if name.startswith("tokenizer.networks."):
            for old, new in _VERSION_1.items():
                name = name.replace(old, new, 1) if old in name else name
        renamed[name] = value
    return renamed


def _with_checksum(config: Mapping[str, Any]) -> str:
    """Write a configuration with its checksum as JSON."""
    return json.dumps({**config, "checksum": _checksum(config)}, indent=1)


def _checksum(config: Mapping[str, Any]) -> str:
    """Compute the SHA-256 of a configuration, whatever its layout."""
    plain = json.loads(json.dumps(config))  # as it will be read, with texts as all keys
    return _sha256(json.dumps(plain, sort_keys=True).encode())


def _sha256(content: bytes) -> str:
    """Compute a SHA-256."""
    return hashlib.sha256(content).hexdigest()


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
