"""A run as one html page that a person looks at."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from semantoks.errors import InputError
from semantoks.evaluation.metrics import METRIC_NAMES
from semantoks.files import replacing
from semantoks.interpretation.figures.canvas import render
from semantoks.interpretation.figures.panels import (
    Curve,
    draw_bars,
    draw_curves,
    draw_distributions,
)
from semantoks.interpretation.knowledge import (
    choose_phenotypes,
    map_section,
    scores_section,
    similarity_section,
)
from semantoks.interpretation.page import (
    Absent,
    Block,
    Findings,
    Listing,
    Picture,
    Section,
    Table,
    Words,
    render_page,
)
from semantoks.interpretation.run_folder import (
    RunContents,
    embed_command,
    known_text,
    pretrain_command,
    probe_command,
    read_run,
    report_command,
)
from semantoks.interpretation.standing import (
    Standing,
    bottom_lines,
    duration,
    number,
    standings,
    with_interval,
)


def cohort_section(contents: RunContents) -> Section:
    """Show who was scanned where, for how long, and how well."""
    store = contents.store
    scans = store.scans
    sites = known_text(scans["site"]).fillna("site unknown").value_counts()
    minutes = scans["length"].to_numpy(dtype=np.float64) * store.t_r / 60
    columns = {
        f"scan length (min, at {store.t_r:g} s a sample)": minutes,
        "repetition time as measured (s)": scans["t_r"].to_numpy(dtype=np.float64),
        "coverage (% of ROIs with signal)": 100 * scans["coverage"].to_numpy(dtype=np.float64),
        "motion (mean framewise displacement, mm)": scans["motion"].to_numpy(dtype=np.float64),
    }
    blocks: list[Block] = [
        Words(
            f"{len(scans):,} scans of {store.n_subjects:,} subjects, {minutes.sum() / 60:,.1f} "
            f"hours in all."
        ),
        Picture(
            render(draw_bars(dict(sites), "scans"), "sites", "Number of scans at every site"),
            "Scans at every site. A site with few scans hardly shapes what is learned, and says "
            "little when it is left out for testing.",
        ),
        Picture(
            render(
                draw_distributions(columns), "scans",
                "Histograms of scan length, repetition time, coverage and motion",
            ),
            "How many scans have which length, repetition time, coverage and motion. Scans at the "
            "edge of a histogram are worth a look.",
        ),
    ]  # fmt: skip
    return Section("cohort", "Cohort", [*blocks, *_refused(store.refused)])


def _refused(refused: pd.DataFrame) -> list[Block]:
    """List the scans that were left out."""
    if refused.empty:
        return [Words("No scan was refused when the store was prepared.")]
    counts = refused["category"].value_counts()
    shown = refused[["scan", "category", "reason"]].head(200)
    more = f", the first {len(shown)}" if len(refused) > len(shown) else ""
    return [
        Table(
            ["reason for refusal", "scans"],
            [[str(name), f"{n:,}"] for name, n in counts.items()],
            "Scans that were refused when the store was prepared.",
        ),
        Table(
            ["scan", "category", "reason"],
            shown.astype(str).to_numpy().tolist(),
            f"Every refused scan by name{more}",
            folded=True,
        ),
    ]


_LOSSES = (
    Curve("total", "total (minimised)", "loss"),
    Curve("compression", "compression (maximised)", "mean cosine"),
    Curve("expansion", "expansion (maximised)", "coding rate"),
    Curve("token", "token (minimised)", "minus mean cosine"),
    Curve("summary", "network summary (minimised)", "loss"),
    Curve("gradient_norm", "length of the gradient", "norm before clipping"),
)
_SCHEDULES = (
    Curve("learning_rate", "learning rate", "step size"),
    Curve("weight_decay", "weight decay", "coefficient"),
    Curve("momentum", "momentum of the teacher", "share kept a step"),
    Curve("summary_weight", "weight of the network summary", "λ"),
)
_HEALTH = (
    Curve("effective_rank", "effective rank of the features", "dimensions", "effective_rank_max"),
    Curve("teacher_student_cosine", "agreement of teacher and student", "mean cosine"),
    Curve("token_cosine", "likeness of the tokens of a window", "mean cosine"),
    Curve("feature_deviation", "spread of the features", "standard deviation"),
    Curve("identification", "subjects whose second window is nearest", "share of subjects"),
)
_COLLAPSE = 0.95


def summary_section(contents: RunContents) -> Section:
    """Say in a few lines what was trained and where it stands."""
    record, store = contents.record, contents.store
    said = record.get("store", {})
    parameters = record.get("parameters")
    size = f" with {parameters:,} parameters" if isinstance(parameters, int) else ""
    learned = (
        "learned without labels from"
        if record.get("step", record.get("steps"))
        else "was not trained yet on"
    )
    scans, subjects = said.get("n_scans", len(store)), said.get("n_subjects", store.n_subjects)
    blocks: list[Block] = [
        Words(
            f"An encoder{size} {learned} {scans:,} scans of {subjects:,} "
            f"subjects ({store.atlas.name}: {len(store.atlas)} ROIs in "
            f"{len(store.atlas.network_names)} networks), {_when(contents)}: {_effort(record)}."
        ),
        Words(_status(record)),
    ]
    found = standings(contents.scores)
    if found:
        blocks += _standing(found)
    else:
        reason = "The features were not held against functional connectivity yet: what they are "
        blocks.append(Absent(f"{reason}worth is unknown.", probe_command(contents)))
    return Section("summary", "Summary", blocks)


def _standing(found: Sequence[Standing]) -> list[Block]:
    """Say where the features stand: the sentence that counts, then the numbers behind it."""
    rows = [
        [
            x.target, x.division, x.method, METRIC_NAMES.get(x.metric, x.metric).split(" (")[0],
            number(x.value), number(x.reference), number(x.chance),
            with_interval(x.difference, x.difference_low, x.difference_high), x.verdict,
        ]
        for x in found
    ]  # fmt: skip
    names = {"above": "above", "below": "below", "open": "not distinguishable"}
    return [
        Words(
            "Where the features stand against functional connectivity, with the difference of the "
            "scores and its 95 % interval over subjects and splits:"
        ),
        Findings(bottom_lines(found)),
        Table(
            [
                "target", "split by", "method", "metric", "method scores",
                "connectivity", "chance", "difference [95\u00a0%]", "method is",
            ],
            [[*row[:-1], names[row[-1]]] for row in rows],
            "The same in numbers, on the same splits",
            folded=len(rows) > 6,
        ),
    ]  # fmt: skip


def _when(contents: RunContents) -> str:
    """Say when the run took place."""
    for key in ("finished", "ended", "started"):
        if isinstance(contents.record.get(key), str):
            return f"{key} {contents.record[key][:16].replace('T', ' ')}"
    changed = datetime.fromtimestamp((contents.folder / "run.json").stat().st_mtime)
    return f"recorded {changed:%Y-%m-%d %H:%M}"


def _effort(record: Mapping[str, Any]) -> str:
    """Say how long training took."""
    parts = []
    planned, done = record.get("steps"), record.get("step", record.get("steps"))
    if isinstance(record.get("epochs"), int | float) and done == planned:
        parts.append(f"{record['epochs']:,} epoch{'s' * (record['epochs'] != 1)}")
    if isinstance(done, int):
        of = f" of {planned:,}" if isinstance(planned, int) and planned != done else ""
        parts.append(f"{done:,}{of} step{'s' * (planned != 1)}")
    if isinstance(record.get("seconds"), int | float):
        parts.append(duration(record["seconds"]))
    if record.get("device"):
        parts.append(f"on {record['device']}")
    return ", ".join(parts) or "no effort was recorded"


def _status(record: Mapping[str, Any]) -> str:
    """Say whether training came to its end."""
    sentences = {
        "finished": "Training finished.",
        "interrupted": "Training was interrupted before its end: what follows is of an unfinished "
        "model.",
        "running": "Training has not ended, or was stopped by force: what follows is of an "
        "unfinished model.",
    }
    status = str(record.get("status", "unknown"))
    return sentences.get(status, f"The status of training is {status!r}.")


def training_section(contents: RunContents) -> Section:
    """Show the terms of the loss and the schedules over training."""
    metrics = contents.metrics
    if metrics.empty:
        return Section(
            "training", "Training", [_untrained(contents, "No training step was logged")]
        )
    blocks = [
        Picture(
            render(draw_curves(metrics, _LOSSES), "losses", "Loss terms over training"),
            "Each term of the loss. Lines are means over neighbouring steps, bands their range. "
            "Compression starts high, because a fresh encoder says nearly the same of every scan; "
            "it should settle while expansion rises. Compression that rises while expansion falls "
            "means collapse. The token term exists only on steps with masks, the network "
            "summary only while its weight is above 0, so the total jumps between steps.",
        ),
        Picture(
            render(draw_curves(metrics, _SCHEDULES), "schedules", "Schedules over training"),
            "What was set in advance for every step. If training was interrupted, the curves stop "
            "before their end.",
        ),
    ]
    return Section("training", "Training", blocks)


def health_section(contents: RunContents) -> Section:
    """Show whether the encoder kept telling scans and tokens apart."""
    health = contents.health
    title = "Health of the encoder"
    if health.empty:
        return Section("health", title, [_untrained(contents, "The encoder was never examined")])
    last = {c: float(v) for c, v in health.ffill().iloc[-1].items() if isinstance(c, str)}
    rank, most = last.get("effective_rank", math.nan), last.get("effective_rank_max", math.nan)
    cosine = last.get("token_cosine", math.nan)
    words = (
        f"At the last look (step {last['step']:,.0f}) the features filled {number(rank, 1)} of at "
        f"most {number(most, 0)} dimensions, teacher and student agreed with a cosine of "
        f"{number(last.get('teacher_student_cosine', math.nan), 2)}, and two tokens of a window "
        f"had a mean cosine of {number(cosine, 2)}."
    )
    if not math.isnan(last.get("identification", math.nan)):
        words += (
            f" A subject's second window was the nearest of all subjects' for "
            f"{last['identification']:.0%} of them (by chance {last['identification_chance']:.1%})."
        )
    if cosine > _COLLAPSE:
        words += (
            f" A token cosine above {_COLLAPSE} means partial collapse: the tokens of a window "
            "hardly differ from one another."
        )
    known = [curve for curve in _HEALTH if curve.column in health]  # older runs looked at less
    picture = Picture(
        render(draw_curves(health, known), "health", "Signs of collapse over training"),
        "The same windows, looked at again and again. The effective rank counts the dimensions "
        "that the features really fill; the dashed line is the most that so many windows allow. A "
        "rank that falls towards 1, or a likeness of tokens that rises towards 1, means that the "
        "encoder no longer tells scans or networks apart.",
    )
    return Section("health", title, [Words(words), picture])


def provenance_section(contents: RunContents) -> Section:
    """Say what a person needs to make everything again."""
    store = contents.store
    versions = contents.record.get("versions") or {}
    identity = {
        "run": contents.folder,
        "store": store.path,
        "fingerprint of the store": store.fingerprint,
        "atlas": store.atlas.name,
        "fingerprint of the atlas": store.atlas.fingerprint,
        "seed": contents.record.get("seed", "not recorded"),
        **{f"version of {name}": version for name, version in versions.items()},
    }
    blocks: list[Block] = [
        Table(["what", "which"], [[k, str(v)] for k, v in identity.items()], "Identities."),
        Listing(
            "\n".join([pretrain_command(contents), embed_command(contents),
                       probe_command(contents), report_command(contents)]),
            "Commands that lead from the store to this page.", folded=False,
        ),
        Listing(json.dumps(store.preprocessing.to_dict(), indent=2), "Preprocessing of the store"),
        Listing(contents.configuration, "Configuration of training (config.yaml)")
        if contents.configuration
        else Absent("There is no config.yaml in the run folder.", pretrain_command(contents)),
        Listing(json.dumps(contents.record, indent=2, default=str), "Record of the run (run.json)"),
    ]  # fmt: skip
    for comparison in contents.comparisons:
        if comparison.settings:
            text = json.dumps(comparison.settings, indent=2)
            blocks.append(Listing(text, f"Settings of {comparison.folder.name}"))
    for file, embeddings in contents.embeddings:
        text = json.dumps(dict(embeddings.provenance), indent=2, default=str)
        blocks.append(Listing(text, f"Origin of {file.name}"))
    return Section("provenance", "Where everything comes from", blocks)


def _untrained(contents: RunContents, reason: str) -> Absent:
    """Say that there are no curves, and what draws them."""
    return Absent(
        f"{reason}: the encoder is untrained or its logs are gone.", pretrain_command(contents)
    )


def write_report(
    run: str | Path,
    *,
    embeddings: Path | None = None,
    comparisons: Sequence[Path] = (),
    out: Path | None = None,
    phenotypes: Sequence[str] = (),
    store: Path | None = None,
) -> Path:
    """Write what a run is and what its features hold as one self-contained html page.

    Parameters
    ----------
    run : str or Path
        Folder that ``semantoks pretrain`` wrote.
    embeddings : Path, optional
        File that ``semantoks embed`` wrote; by default every embeddings*.parquet of the run.
    comparisons : sequence of Path
        Folders that ``semantoks probe`` wrote; by default every probe* of the run.
    out : Path, optional
        The page; by default report.html in the run. One that stands there is replaced.
    phenotypes : sequence of str
        Columns that maps are coloured by; by default the targets of the comparisons, otherwise
        the first column with few categories.
    store : Path, optional
        Where the store is now, if it was moved since training.

    Returns
    -------
    Path
        The page. What the run does not hold yet is named in it with the command that makes it.

    Raises
    ------
    InputError
        If the run or a file of it cannot be read, the store moved or changed, or there is no such
        phenotype.
    """
    folder = Path(run)
    contents = read_run(folder, embeddings=embeddings, comparisons=comparisons, store=store)
    chosen = choose_phenotypes(contents, phenotypes)
    path = out or folder / "report.html"
    if not path.parent.is_dir():
        raise InputError(f"the report {path} cannot be written: make its folder first.")
    page = render_page(
        f"semantoks report: {folder.resolve().name}",
        f"trained on {contents.store.path.resolve().name}, atlas {contents.store.atlas.name}",
        [
            summary_section(contents),
            cohort_section(contents),
            training_section(contents),
            health_section(contents),
            similarity_section(contents),
            map_section(contents, chosen),
            scores_section(contents),
            provenance_section(contents),
        ],
    )
    try:
        with replacing(path) as beside:
            beside.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError(f"the report {path} cannot be written: {error.strerror}.") from error
    return path
