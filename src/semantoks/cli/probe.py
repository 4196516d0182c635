"""Features to scores, beside connectivity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.errors import ConfigurationError, InputError
from semantoks.terminal import Output

if TYPE_CHECKING:
    from semantoks.data.store import Store


@app.command(sort_key=60)
def probe(
    *,
    data: Path,
    embeddings: Annotated[list[Path], Parameter(name="--embeddings")],
    target: str,
    out: Path,
    kind: Literal["auto", "classification", "regression"] = "auto",
    splits: Literal["subject", "site"] = "subject",
    site_column: str = "site",
    folds: int = 5,
    repeats: int = 5,
    classifier: Literal["ridge", "logistic"] = "ridge",
    seed: int = 0,
    leave_out: Annotated[list[str] | None, Parameter(name="--leave-out")] = None,
    exclude_seen: Annotated[list[Path] | None, Parameter(name="--exclude-seen")] = None,
    output: Output = SILENT,
) -> None:
    """Read a target from the features, beside connectivity and a dummy on the same splits.

    Folds never part a subject's scans. Scores are of scans that were left out; intervals (95 %)
    are bootstrapped over subjects and splits, and so is the difference to connectivity.

    Example: semantoks probe --data abide.store --embeddings features.parquet --target diagnosis
    --out probe-diagnosis

    Parameters
    ----------
    data : Path
        The store.
    embeddings : list of Path
        Files of embed, each a row of the table named after its file; may be given many times.
    target : str
        Column of the table of scans.
    out : Path
        Folder for scores, predictions and splits; it must not exist.
    kind : str
        auto takes a number with more than 10 different values for a regression.
    splits : str
        subject: repeated folds of subjects; site: one site left out at a time.
    site_column : str
        Column that names the site.
    folds, repeats : int
        Folds, and how often subjects are divided anew.
    classifier : str
        Linear model for classes; its penalty is chosen inside training.
    seed : int
        Of the divisions and of the bootstrap.
    leave_out : list of str
        Scans that take no part, such as those of one recording under two names; may be given many
        times.
    exclude_seen : list of Path
        Runs or model folders: people that they were pretrained on take no part. Models of other
        stores are asked for people of the same identifiers, who may be others: do not name a model
        here that was trained on another cohort with such names (sub-001, ...).
    output : Output
        How to speak.
    """
    from semantoks.benchmark.comparison import compare, write_comparison
    from semantoks.benchmark.display import comparison_table
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding_file import read_embeddings

    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    names = [path.stem for path in embeddings]
    if len({*names}) < len(names):
        raise ConfigurationError(
            "two files of --embeddings have the same name, but the table names methods after "
            f"files: {', '.join(map(str, embeddings))}. Rename one."
        )
    store = Store.open(data)
    seen = _seen(store, exclude_seen or ())
    with output.progress(f"probing {target}") as advance:
        comparison = compare(
            store,
            {name: read_embeddings(path) for name, path in zip(names, embeddings, strict=True)},
            target,
            kind=kind,
            splits=splits,
            site_column=site_column,
            n_folds=folds,
            repeats=repeats,
            classifier=classifier,
            seed=seed,
            leave_out=(*(leave_out or ()), *seen),
            progress=lambda done, total: advance(done, total, ""),
        )
    write_comparison(comparison, out)
    output.say(comparison_table(comparison))
    if exclude_seen:
        output.say(f"{len(seen)} scans of people that the models were trained on took no part.")
    output.say(f"Scores, predictions and splits are in {out}.")
    output.result({"out": str(out), "scores": comparison.table.to_dict(orient="records")})


def _seen(store: Store, models: Sequence[Path]) -> list[str]:
    """Name the scans of people that models were trained on."""
    from semantoks.evaluation.audit import unseen
    from semantoks.model.checkpoint import load_model

    seen = set[str]()
    for model in models:
        fresh = unseen(load_model(model).provenance, store.scans, store.fingerprint, str(model))
        seen |= {*store.scans.loc[~fresh, "scan"].astype(str)}
    if len(seen) == len(store):
        raise InputError(
            "the models together were trained on all of these people: nobody is left if people "
            "that they have seen are left out. Test on another cohort."
        )
    return sorted(seen)
