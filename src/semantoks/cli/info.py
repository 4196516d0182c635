"""What a store, a run or a model holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from semantoks.cli.application import SILENT, app
from semantoks.errors import InputError
from semantoks.terminal import Output, rows_table


@app.command(sort_key=30)
def info(path: Path, *, output: Output = SILENT) -> None:
    """Say what a store, a run or a model folder holds.

    Example: semantoks info abide.store

    Parameters
    ----------
    path : Path
        A store, a run, or a model folder.
    output : Output
        How to speak.
    """
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if (path / "store.json").is_file():
        facts = _describe_store(path)
    elif (path / "run.json").is_file():
        from semantoks.training.run import read_json

        facts = {"kind": "run", **read_json(path / "run.json")}
    else:
        from semantoks.model.checkpoint import load_model

        model = load_model(path)
        facts = {
            "kind": "model",
            "atlas": repr(model.encoder.atlas),
            "parameters": sum(p.numel() for p in model.encoder.parameters()),
            **model.encoder.arguments,
            "preprocessing": model.preprocessing,
            "provenance": {
                name: value
                for name, value in model.provenance.items()
                if name not in {"recipe", "subjects"}
            },
        }
    output.say(rows_table(str(path), facts))
    output.result(facts)


def _describe_store(path: Path) -> dict[str, Any]:
    """Collect what a person wants to know of a store."""
    from semantoks.data.store import Store

    store = Store.open(path)
    scans = store.scans
    return {
        "kind": "store",
        "scans": len(store),
        "subjects": store.n_subjects,
        "scans that name no subject": store.n_unnamed_subjects,
        "sites": int(scans["site"].replace("", None).nunique()),
        "samples": f"{store.lengths.min()} to {store.lengths.max()} at {store.t_r:g} s",
        "atlas": repr(store.atlas),
        "networks": ", ".join(store.atlas.network_names),
        "preprocessing": store.preprocessing.to_dict(),
        "refused scans": len(store.refused),
        "columns": ", ".join(scans.columns),
        "fingerprint": store.fingerprint,
    }
