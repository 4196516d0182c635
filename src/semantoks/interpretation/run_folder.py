"""Content of a run folder, and the commands that add to it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pandas as pd

from semantoks.data.store import Store
from semantoks.errors import InputError
from semantoks.evaluation.embedding import Embeddings, read_embeddings
from semantoks.evaluation.metrics import CONNECTIVITY, DUMMY

SCORE_COLUMNS: Final = ("method", "target", "split", "metric", "value", "low", "high")
"""Columns without which a table of scores cannot be drawn."""


@dataclass(frozen=True)
class WrittenComparison:
    """Scores of several methods, as `semantoks probe` wrote them."""

    folder: Path
    scores: pd.DataFrame
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunContents:
    """Everything that a report is made from."""

    folder: Path
    record: dict[str, Any]
    configuration: str
    metrics: pd.DataFrame
    health: pd.DataFrame
    store: Store
    embeddings: tuple[tuple[Path, Embeddings], ...]
    comparisons: tuple[WrittenComparison, ...]

    @property
    def scores(self) -> pd.DataFrame:
        """The scores of all comparisons under each other, with their name in column comparison."""
        if not self.comparisons:
            return pd.DataFrame(columns=[*SCORE_COLUMNS, "comparison"])
        names = [comparison.folder.resolve().name for comparison in self.comparisons]
        if len({*names}) < len(names):
            names = [str(comparison.folder) for comparison in self.comparisons]
        tables = [
            comparison.scores.assign(comparison=name)
            for name, comparison in zip(names, self.comparisons, strict=True)
        ]
        return pd.concat(tables, ignore_index=True)


def read_run(
    folder: Path,
    *,
    embeddings: Path | None = None,
    comparisons: Sequence[Path] = (),
    store: Path | None = None,
) -> RunContents:
    """Read what a report is made from."""
    record = _read_record(folder)
    files = [embeddings] if embeddings else sorted(folder.glob("embeddings*.parquet"))
    probes = comparisons or [path.parent for path in sorted(folder.glob("probe*/scores.csv"))]
    return RunContents(
        folder=folder,
        record=record,
        configuration=_read_text(folder / "config.yaml"),
        metrics=_read_log(folder / "metrics.csv"),
        health=_read_log(folder / "health.csv"),
        store=_open_store(folder, record, store),
        embeddings=tuple((file, read_embeddings(file)) for file in files),
        comparisons=_each_once(
            WrittenComparison(probe, _read_scores(probe), _read_settings(probe)) for probe in probes
        ),
    )


def known_text(column: pd.Series) -> pd.Series:
    """Return a column in which empty text counts as missing."""
    return column.mask(column.astype(str).str.strip() == "")


def _read_record(folder: Path) -> dict[str, Any]:
    """Read run.json."""
    path = folder / "run.json"
    if not path.is_file():
        what = "has no run.json" if folder.is_dir() else "does not exist"
        raise InputError(
            f"{folder} is not a run: it {what}. Give the folder that `semantoks pretrain --out` "
            "wrote."
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}. Restore the file.") from error
    if not isinstance(record, dict):
        raise InputError(f"{path} must hold a JSON object, but holds a {type(record).__name__}.")
    return record


def _open_store(folder: Path, record: dict[str, Any], store: Path | None) -> Store:
    """Open the store that was trained on, and make sure that it still is that one."""
    said = record.get("store")
    if not isinstance(said, dict) or not {"path", "fingerprint"} <= said.keys():
        raise InputError(
            f"{folder / 'run.json'} does not say which store was trained on: it needs "
            "store.path and store.fingerprint. Restore the file."
        )
    path = store or Path(said["path"])
    if store is None and not path.exists():
        raise InputError(
            f"the store {path}, on which {folder} was trained, is no longer there. Say where it is "
            "now: `semantoks report RUN --store STORE`."
        )
    opened = Store.open(path)
    if opened.fingerprint != said["fingerprint"]:
        raise InputError(
            f"the store {path} is not the one on which {folder} was trained: its fingerprint is "
            f"{opened.fingerprint}, that of the run's store was {said['fingerprint']}. It was "
            "prepared anew or is another one; give the right one with `--store STORE`."
        )
    return opened


def _read_log(path: Path) -> pd.DataFrame:
    """Read a log of training; a missing or empty one has no rows."""
    if not path.is_file() or path.stat().st_size == 0:
        return pd.DataFrame(columns=["step"])
    table = _read_csv(path)
    if "step" not in table:
        raise InputError(
            f"the log {path} has no column step, only {', '.join(map(str, table.columns))}. "
            "Restore the file that `semantoks pretrain` wrote."
        )
    for column in table:
        table[column] = pd.to_numeric(table[column], errors="coerce")
    return table.dropna(subset="step").sort_values("step", ignore_index=True)


def _read_scores(folder: Path) -> pd.DataFrame:
    """Read scores.csv and check that it can be drawn."""
    path = folder / "scores.csv"
    if not path.is_file():
        raise InputError(
            f"the comparison {folder} has no scores.csv. Give a folder that `semantoks probe --out`"
            " wrote."
        )
    scores = _read_csv(path)
    missing = [column for column in SCORE_COLUMNS if column not in scores]
    if missing:
        raise InputError(
            f"the scores {path} lack the column(s) {', '.join(missing)}; they have "
            f"{', '.join(map(str, scores.columns))}. Restore the file that `semantoks probe` wrote."
        )
    return scores


def _each_once(found: Iterable[WrittenComparison]) -> tuple[WrittenComparison, ...]:
    """Leave out copies of a comparison."""
    kept: list[WrittenComparison] = []
    for one in found:
        if not any(one.settings == k.settings and one.scores.equals(k.scores) for k in kept):
            kept.append(one)
    return tuple(kept)


def _read_settings(folder: Path) -> dict[str, Any]:
    """Read settings.json; a missing one is empty."""
    path = folder / "settings.json"
    try:
        settings = json.loads(_read_text(path) or "{}")
    except ValueError as error:
        raise InputError(f"{path} cannot be read: {error}. Restore the file.") from error
    if not isinstance(settings, dict):
        raise InputError(f"{path} must hold a JSON object, not a {type(settings).__name__}.")
    return settings


def _read_text(path: Path) -> str:
    """Read a text file; a missing one is empty."""
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def _read_csv(path: Path) -> pd.DataFrame:
    """Read a table, or say which one cannot be read."""
    try:
        return pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InputError(f"the table {path} cannot be read: {error}. Restore the file.") from error


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
