"""From a score back to networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.errors import InputError
from semantoks.terminal import Output


@app.command(sort_key=67)
def explain(
    *,
    data: Path,
    model: str,
    target: str,
    out: Path,
    kind: Literal["auto", "classification", "regression"] = "auto",
    features: str | None = None,
    windows: int = 8,
    folds: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=2))] = 5,
    repeats: int = 1,
    permutations: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=0))] = 100,
    deletions: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=0))] = 2,
    gradients: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=0))] = 0,
    random_sets: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=0))] = 0,
    untrained: Annotated[bool, Parameter(negative="--no-untrained")] = True,
    family_column: str | None = None,
    confound: Annotated[list[str] | None, Parameter(name="--confound")] = None,
    leave_out: Annotated[list[str] | None, Parameter(name="--leave-out")] = None,
    atlas_image: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    output: Output = SILENT,
) -> None:
    """Say which networks a score comes from, and how far to believe it.

    Every network is hidden in turn, with the probe of `probe` as it is and learned again, and asked
    alone; edges are correlated with the held-out score. Checks come first: a score at chance is
    refused, and a map that fails one is drawn grey.

    Example: semantoks explain --data abide.store --model run --target diagnosis --out explanation

    Parameters
    ----------
    data : Path
        The store.
    model : str
        A run or a model folder, owner/name on the hub, or connectivity.
    target : str
        Column of the table of scans.
    out : Path
        New folder for importance_networks.tsv, importance_rois.tsv, pairs.tsv, edges.tsv,
        checks.tsv, explain.json, explain.html and its figures.
    kind : str
        auto takes a number with more than 10 different values for a regression.
    features : str
        What is read out, as for embed; by default as the model says.
    windows : int
        Evenly spaced windows a scan.
    folds, repeats : int
        Folds of subjects, and how often they are divided anew.
    permutations : int
        Of labels, for the p of drops.
    deletions : int
        Random orders in which networks are deleted, beside the map's; 0 leaves this check out.
    gradients : int
        People for whose scans gradients are integrated (features that pass through tokens); 0 for
        none.
    random_sets : int
        Random sets of as many ROIs that are hidden beside each network, since larger networks have
        more to lose; 0 for none.
    untrained : bool
        Explain fresh weights beside the model.
    family_column : str
        Column that names the family; relatives stay together.
    confound : list of str
        Columns, such as motion and site, whose linear effect is taken out of features, learned in
        every training part, and of edges; may be given many times.
    leave_out : list of str
        Scans to leave out; may be given many times.
    atlas_image : Path
        Label volume of the atlas: the pattern of ROIs is painted into it (importance_rois.nii.gz).
    seed : int
        Of divisions, draws, permutations and fresh weights.
    device : str
        auto takes a GPU where there is one; otherwise cpu, cuda, mps, ...
    output : Output
        What is printed.
    """
    from semantoks.benchmark.explanation import explain as look
    from semantoks.benchmark.explanation import explanation_table, write_explanation
    from semantoks.data.images import check_label_image
    from semantoks.data.recording import ReaderOptions
    from semantoks.data.store import Store
    from semantoks.interpretation.explanation_page import write_explanation_page
    from semantoks.model.checkpoint import load_model
    from semantoks.training.plan import choose_device

    if out.exists():
        raise InputError(f"{out} exists; choose another --out or remove it.")
    store = Store.open(data).verify()
    if atlas_image is not None:
        check_label_image(ReaderOptions(atlas_image=atlas_image), store.atlas)
    encoder = None if model == "connectivity" else load_model(model).encoder
    found = look(
        store,
        "connectivity" if encoder is None else encoder.to(choose_device(device)),
        target,
        kind=kind,
        features=features,
        windows=windows,
        n_folds=folds,
        repeats=repeats,
        seed=seed,
        permutations=permutations,
        deletions=deletions,
        gradients=gradients,
        random_sets=random_sets,
        untrained=untrained,
        family_column=family_column,
        confounds=tuple(confound or ()),
        leave_out=tuple(leave_out or ()),
        say=output.say,
    )
    write_explanation(found, out)
    if atlas_image is not None and len(found.rois):
        found.to_nifti(atlas_image, store.atlas).to_filename(out / "importance_rois.nii.gz")
    page = write_explanation_page(out, found)
    output.say(explanation_table(found))
    for check in found.checks.to_dict(orient="records"):
        mark = {True: "passed", False: "FAILED"}.get(check["passed"], "-")
        output.say(f"{mark:>6}  {check['check']}: {check['said']}")
    output.say(f"Tables and figures are in {out}, the page is {page}.")
    output.result(
        {
            "out": str(out),
            "networks": found.networks.to_dict(orient="records"),
            "checks": found.checks.to_dict(orient="records"),
        }
    )
