"""The commands that make what a report shows."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from semantoks.evaluation.metrics import CONNECTIVITY, DUMMY
from semantoks.interpretation.contents import RunContents, WrittenComparison


def pretrain_command(contents: RunContents) -> str:
    """Return the command that trains on the store of a run."""
    config = contents.folder / "config.yaml"
    options = [f"--recipe {quoted(config)}"] if contents.configuration else []
    return _lines("pretrain", f"--data {quoted(contents.store.path)}", *options, "--out NEW_RUN")


def embed_command(contents: RunContents) -> str:
    """Return the commands that made the features that were probed or drawn."""
    made = {
        _file_of(contents, name): provenance
        for comparison in contents.comparisons
        for name, provenance in _methods(comparison).items()
        if provenance
    }
    # what a file says of itself counts more than what a comparison once read from it
    made |= {file: embeddings.provenance for file, embeddings in contents.embeddings}
    made = made or {contents.folder / "embeddings.parquet": {}}
    return "\n".join(_embed(contents, file, provenance) for file, provenance in made.items())


def probe_command(contents: RunContents) -> str:
    """Return the commands that compare the features of a run with connectivity."""
    made = [_probe(contents, comparison) for comparison in contents.comparisons]
    if made:
        return "\n".join(made)
    files = [file for file, _ in contents.embeddings] or [contents.folder / "embeddings.parquet"]
    return _lines(
        "probe", f"--data {quoted(contents.store.path)}",
        *(f"--embeddings {quoted(file)}" for file in files), "--target TARGET",
        f"--out {quoted(contents.folder / 'probe-TARGET')}",
    )  # fmt: skip


def report_command(contents: RunContents) -> str:
    """Return the command that writes the page."""
    inside = contents.folder.resolve()
    elsewhere = [c.folder for c in contents.comparisons if c.folder.resolve().parent != inside]
    named = [comparison.folder for comparison in contents.comparisons] if elsewhere else []
    return _lines(f"report {quoted(contents.folder)}", *(f"--probe {quoted(x)}" for x in named))


def _embed(contents: RunContents, file: Path, provenance: Mapping[str, Any]) -> str:
    """Return the command that makes a file of features, as its provenance tells."""
    options = []
    if "windows" in provenance:
        options.append(f"--windows {provenance['windows']}")
    if provenance.get("features", "mean+cls") != "mean+cls":
        options.append(f"--features {provenance['features']}")
    model_window = provenance.get("model", {}).get("window")
    if provenance.get("window", model_window) != model_window:
        options.append(f"--window {provenance['window']}")
    if provenance.get("preprocessing", {}).get("check") == "ignore":
        options.append("--ignore-preprocessing")
    if provenance.get("fresh_weights_seed") is not None:
        options.append(f"--untrained --seed {provenance['fresh_weights_seed']}")
    model = str(provenance.get("model_folder", contents.folder))
    return _lines(
        "embed", f"--data {quoted(contents.store.path)}", f"--model {quoted(model)}", *options,
        f"--out {quoted(file)}",
    )  # fmt: skip


def _probe(contents: RunContents, comparison: WrittenComparison) -> str:
    """Return the command that makes a comparison, as its settings tell."""
    settings = comparison.settings
    files = [_file_of(contents, name) for name in _methods(comparison)]
    target = settings.get("target", comparison.scores["target"].iloc[0])
    options = [f"--kind {settings['kind']}"] if "kind" in settings else []
    if settings.get("splits") == "site":
        options.append("--splits site")
        options.append(f"--site-column {quoted(settings.get('site_column') or 'site')}")
    elif settings.get("splits") == "subject":
        options.append("--splits subject")
        options.append(f"--folds {settings['n_folds']} --repeats {settings['n_repeats']}")
    if settings.get("classifier"):
        options.append(f"--classifier {settings['classifier']}")
    if "seed" in settings:
        options.append(f"--seed {settings['seed']}")
    return _lines(
        "probe", f"--data {quoted(contents.store.path)}",
        *(f"--embeddings {quoted(file)}" for file in files), f"--target {quoted(str(target))}",
        *options, f"--out {quoted(comparison.folder)}",
    )  # fmt: skip


def _methods(comparison: WrittenComparison) -> dict[str, Mapping[str, Any]]:
    """Return the provenance of all features that were compared, without the baselines."""
    described = comparison.settings.get("methods") or {}
    names = [str(name) for name in comparison.scores["method"].unique()]
    found: dict[str, Mapping[str, Any]] = {}
    for name in names:
        if name not in (CONNECTIVITY, DUMMY):
            provenance = described.get(name, {}).get("provenance")
            found[name] = provenance if isinstance(provenance, dict) else {}
    return found


def _file_of(contents: RunContents, method: str) -> Path:
    """Return the file of the features that the probe named after it."""
    known = [file for file, _ in contents.embeddings if file.stem == method]
    known += [contents.folder / f"{method}{suffix}" for suffix in (".parquet", ".csv")]
    return next((file for file in known if file.is_file()), known[0])


def _lines(verb: str, *options: str) -> str:
    """Return a command with a line an option, as the shell takes it."""
    return " \\\n    ".join([f"semantoks {verb}", *options])


def quoted(path: Path | str) -> str:
    """Return a path as the shell needs it."""
    return shlex.quote(str(path))
