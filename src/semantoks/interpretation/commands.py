"""The commands that make what a report shows."""

from __future__ import annotations

import shlex
from pathlib import Path

from semantoks.interpretation.contents import RunContents


def pretrain_command(contents: RunContents) -> str:
    """Return the command that trains on the store of a run.

    Parameters
    ----------
    contents : RunContents
        The run.

    Returns
    -------
    str
        The command for the shell, a line an option.
    """
    config = contents.folder / "config.yaml"
    options = ["--recipe", quoted(config)] if contents.configuration else []
    return _lines("pretrain", "--data", quoted(contents.store.path), *options, "--out", "NEW_RUN")


def embed_command(contents: RunContents) -> str:
    """Return the command that makes the features of a run.

    Parameters
    ----------
    contents : RunContents
        The run.

    Returns
    -------
    str
        The command for the shell, a line an option.
    """
    out = contents.folder / "embeddings.parquet"
    return _lines(
        "embed", "--data", quoted(contents.store.path), "--model", quoted(contents.folder),
        "--out", quoted(out),
    )  # fmt: skip


def probe_command(contents: RunContents) -> str:
    """Return the commands that compare the features of a run with connectivity.

    Parameters
    ----------
    contents : RunContents
        The run.

    Returns
    -------
    str
        A command a target for the shell, a line an option.
    """
    made = [file for file, _ in contents.embeddings] or [contents.folder / "embeddings.parquet"]
    targets = [str(target) for target in contents.scores["target"].unique()]
    return "\n".join(
        _lines(
            "probe", "--data", quoted(contents.store.path), "--embeddings", quoted(made[0]),
            "--target", quoted(target), "--out", quoted(contents.folder / f"probe-{target}"),
        )
        for target in targets or ["TARGET"]
    )  # fmt: skip


def _lines(verb: str, *words: str) -> str:
    """Return a command with a line an option, as the shell takes it."""
    options = [f"{name} {value}" for name, value in zip(words[::2], words[1::2], strict=True)]
    return " \\\n    ".join([f"semantoks {verb}", *options])


def quoted(path: Path | str) -> str:
    """Return a path as the shell needs it.

    Parameters
    ----------
    path : Path or str
        The path.

    Returns
    -------
    str
        In quotes if it holds spaces.
    """
    return shlex.quote(str(path))
