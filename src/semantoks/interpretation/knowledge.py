"""The parts of a report that tell what the features hold: likeness, maps and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from semantoks.data.store_table import COLUMNS
from semantoks.errors import InputError, nearest
from semantoks.evaluation.embedding_file import Embeddings
from semantoks.interpretation.commands import embed_command, pretrain_command, probe_command
from semantoks.interpretation.contents import RunContents, known_text
from semantoks.interpretation.figures import (
    draw_map,
    draw_scores,
    draw_similarity,
    is_continuous,
    render,
)
from semantoks.interpretation.page import Absent, Block, Picture, Section, Words
from semantoks.interpretation.projection import project
from semantoks.interpretation.scores import score_axes, score_table
from semantoks.interpretation.similarity import token_similarity
from semantoks.interpretation.standing import (
    number,
    summaries,
)
from semantoks.model.checkpoint import load_encoder

MOST_POINTS: Final = 3000
"""Scans on a map; more are drawn by lot, since t-SNE takes minutes and points hide one another."""

_READING = {
    "t-SNE": "Neighbours are alike; distances between far groups and sizes of groups mean nothing.",
    "PCA": "The axes are the two directions in which the features differ most.",
}


def similarity_section(contents: RunContents) -> Section:
    """Show how alike the tokens of two networks are."""
    title = "Token similarity between networks"
    if not (contents.folder / "model" / "model.safetensors").is_file():
        reason = "The run holds no model yet, so that there are no tokens to compare."
        return Section("similarity", title, [Absent(reason, pretrain_command(contents))])
    found = token_similarity(contents.store, load_encoder(contents.folder / "model"))
    picture = Picture(
        render(
            draw_similarity(found.matrix, found.networks), "similarity",
            "Mean cosine between the tokens of every two networks",
        ),
        "Mean cosine between a token of the network on the left and one of the network below, in "
        "the same window; on the diagonal, between two moments of one network. Red pairs are "
        "described alike, white ones have nothing in common, blue ones are opposed. A picture "
        "that is dark red all over means collapse.",
    )  # fmt: skip
    words = Words(
        f"One window of each of {found.n_scans} scans; the tokens of two different networks have "
        f"a mean cosine of {number(found.between, 2)}."
    )
    return Section("similarity", title, [words, picture])


def map_section(contents: RunContents, phenotypes: Sequence[str]) -> Section:
    """Show the embeddings on two axes, coloured by phenotype and by site."""
    title = "Map of the embeddings"
    if not contents.embeddings:
        reason = "No embeddings were found in the run folder, so that no map can be drawn."
        return Section("map", title, [Absent(reason, embed_command(contents))])
    blocks: list[Block] = [
        Words(
            "Every point is a scan; scans with like features stand close together. If colours mix "
            "on the left but form islands on the right, the features know the scanner better than "
            "the person."
        )
    ]
    for k, (file, embeddings) in enumerate(contents.embeddings):
        blocks += _maps(contents.store.scans, file, embeddings, phenotypes, f"map{k}")
    return Section("map", title, blocks)


def choose_phenotypes(contents: RunContents, asked: Sequence[str] = ()) -> list[str]:
    """Choose the columns that maps are coloured by."""
    scans = contents.store.scans
    known = [str(column) for column in scans.columns if column not in COLUMNS]
    colourable = [*known, "motion", "t_r", "length", "subject", "session"]
    for name in asked:
        if name not in colourable:
            raise InputError(
                f"the store {contents.store.path} has no phenotype {name!r}; it has "
                f"{', '.join(known) or 'none at all'}.{nearest(name, colourable)}"
            )
    if asked:
        return list(dict.fromkeys(asked))
    targets = [str(t) for t in contents.scores["target"].unique() if t in known]
    if targets:
        return targets
    few = (c for c in known if 2 <= scans[c].nunique() <= 8 and scans[c].notna().mean() > 0.5)
    return list(few)[:1]


def _maps(
    scans: pd.DataFrame, file: Path, embeddings: Embeddings, phenotypes: Sequence[str], key: str
) -> list[Block]:
    """Draw one file of embeddings, a picture for every phenotype."""
    features, frame = embeddings.features, embeddings.frame
    if len(frame) < 3:
        return [Words(f"{file.name} holds {len(frame)} scan(s), too few for a map.")]
    drawn = np.arange(len(frame))
    if len(frame) > MOST_POINTS:
        drawn = np.sort(np.random.default_rng(0).choice(drawn, MOST_POINTS, replace=False))
    projection = project(features[drawn])
    names = frame["scan"].iloc[drawn].astype(str)
    table = scans.set_index(scans["scan"].astype(str)).reindex(names).reset_index(drop=True)
    share = f"{len(drawn):,} of {len(frame):,} scans, drawn by lot" * (len(drawn) < len(frame))
    strangers = int((~names.isin(scans["scan"].astype(str))).sum())
    site = known_text(table["site"])
    blocks: list[Block] = []
    for k, name in enumerate(phenotypes or [""]):
        colourings = {name: known_text(table[name])} if name else {}
        if name and not (is_continuous(table[name]) or table[name].notna().any()):
            blocks.append(Words(f"{name} is not known of any scan in {file.name}."))
            continue
        if site.notna().any() and name != "site":
            colourings["site"] = site
        if not colourings:
            blocks.append(Words(f"Neither phenotypes nor sites are known for {file.name}."))
            continue
        words = " and by ".join(colourings)
        svg = render(
            draw_map(projection.points, colourings, projection.method), f"{key}-{k}",
            f"Map of the embeddings coloured by {words}",
        )  # fmt: skip
        caption = f"{file.name} by {projection.method}, coloured by {words}; counts in brackets."
        caption += f" {_READING[projection.method]}"
        caption += f" {share}." if share else ""
        caption += f" {strangers} scans are not in the store." if strangers else ""
        caption += "" if "site" in colourings else " No site is known for these scans."
        blocks.append(Picture(svg, caption))
    return blocks


def scores_section(contents: RunContents) -> Section:
    """Show what can be read out of the features, beside connectivity and guessing."""
    title = "What can be read out, beside connectivity"
    rows = summaries(contents.scores)
    if rows.empty:
        reason = "No comparison with functional connectivity was found in the run folder."
        return Section("scores", title, [Absent(reason, probe_command(contents))])
    blocks: list[Block] = [
        Words(
            "Every method predicts the same targets on the same splits, in which no subject "
            "stands on both sides. Intervals are 95 %, over subjects and splits."
        ),
        *_cautions(contents),
    ]
    for k, target in enumerate(rows["target"].astype(str).unique()):
        of_target = rows[rows["target"].astype(str) == target]
        picture = render(
            draw_scores(score_axes(of_target, target)),
            f"scores{k}",
            f"Scores of {target} by method",
        )
        caption = (
            f"{target}: dots are scores, bars their intervals. The dashed line is connectivity, "
            "the dotted line guessing. Overlap of bars is not the test; the interval on the "
            "difference in the table is, because all methods saw the same subjects."
        )
        blocks.append(Picture(picture, caption))
    return Section("scores", title, [*blocks, score_table(rows)])


def _cautions(contents: RunContents) -> list[Block]:
    """Say what the scores do not tell by themselves."""
    settings = [comparison.settings for comparison in contents.comparisons]
    seen = dict.fromkeys(str(name) for one in settings for name in one.get("transductive", ()))
    once = [
        comparison.folder.name
        for comparison in contents.comparisons
        if comparison.settings.get("n_repeats") == 1
    ]
    said: list[Block] = []
    if seen:
        said.append(
            Words(
                f"{', '.join(seen)}: pretraining saw these scans, without labels. What it would "
                "score on people whom it never saw may be less."
            )
        )
    if once:
        said.append(
            Words(
                f"{', '.join(once)}: the subjects were divided only once. These intervals are "
                "over folds (or sites) and then over the subjects in them."
            )
        )
    return said
