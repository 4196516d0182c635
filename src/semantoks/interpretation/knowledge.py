"""The parts of a report that tell what the features hold: likeness, maps and scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.preprocessing import StandardScaler

from semantoks.data.store import Store
from semantoks.data.store_writer import COLUMNS
from semantoks.errors import InputError, nearest
from semantoks.evaluation.embedding import Embeddings
from semantoks.interpretation.figures.canvas import render
from semantoks.interpretation.figures.panels import draw_map, draw_similarity, is_continuous
from semantoks.interpretation.figures.scores import draw_scores
from semantoks.interpretation.page import Absent, Block, Picture, Section, Words
from semantoks.interpretation.run_folder import (
    RunContents,
    embed_command,
    known_text,
    pretrain_command,
    probe_command,
)
from semantoks.interpretation.standing import (
    number,
    score_axes,
    score_table,
    summaries,
)
from semantoks.model.checkpoint import load_encoder
from semantoks.model.encoder import SemantoksEncoder, network_mask

FEW = 30
"""Scans below which neighbourhoods say nothing, so that principal components are drawn."""


@dataclass(frozen=True)
class Projection:
    """Where each scan stands on a map."""

    points: Float[NDArray[np.float64], "scan 2"]
    method: str


def project(features: Float[NDArray[np.float64], "scan feature"], *, seed: int = 0) -> Projection:
    """Lay scans out on two axes so that neighbours stay neighbours.

    Features are standardized and reduced to at most 50 principal components; from 30 scans on,
    t-SNE then starts at the first two of them.

    Examples
    --------
    >>> import numpy as np
    >>> project(np.random.default_rng(0).normal(size=(12, 5))).method
    'PCA'
    """
    n = len(features)
    if n < 3:
        raise InputError(f"a map needs the features of at least 3 scans, but there are {n}.")
    if not np.isfinite(features).all():
        raise InputError(
            "the features hold NaN or infinite values, so no map of them can be drawn. "
            "Make the embeddings anew with `semantoks embed`."
        )
    scaled = StandardScaler().fit_transform(features)
    if not scaled.any():  # all scans have the same features: one point
        return Projection(np.zeros((n, 2)), "PCA")
    n_components = min(50, *scaled.shape)
    components = PCA(n_components, svd_solver="full").fit_transform(scaled)
    if n < FEW or n_components < 2:
        points = np.zeros((n, 2))
        points[:, : min(2, n_components)] = components[:, :2]
        return Projection(points, "PCA")
    tsne = TSNE(
        init="pca",
        perplexity=min(30.0, n / 4),
        random_state=seed,
        max_iter=750,
        method="barnes_hut",
    )
    return Projection(tsne.fit_transform(components).astype(np.float64), "t-SNE")


_BATCH = 16


@dataclass(frozen=True)
class TokenSimilarity:
    """Mean cosine between the tokens of every two networks."""

    matrix: Float[NDArray[np.float64], "network network"]
    networks: tuple[str, ...]
    n_scans: int

    @property
    def between(self) -> float:
        """Mean cosine over all pairs of different networks; NaN if there is no such pair."""
        pairs = self.matrix[~np.eye(len(self.networks), dtype=bool)]
        known = pairs[np.isfinite(pairs)]
        return float(known.mean()) if len(known) else float("nan")


def token_similarity(
    store: Store, encoder: SemantoksEncoder, n_scans: int = 64, seed: int = 0
) -> TokenSimilarity:
    """Compare the tokens of every two networks on one random window of some scans."""
    if store.atlas != encoder.atlas:
        raise InputError(
            f"the store {store.path} is of {store.atlas!r}, but the model is of {encoder.atlas!r}. "
            "Give the store of the atlas that the model was trained with."
        )
    long_enough = np.flatnonzero(store.lengths >= encoder.window)
    if len(long_enough) == 0:
        raise InputError(
            f"no scan of the store {store.path} has the {encoder.window} samples that a window of "
            "the model needs. Give the store that the model was trained on."
        )
    random = np.random.default_rng(seed)
    scans = np.sort(random.choice(long_enough, min(n_scans, len(long_enough)), replace=False))
    starts = random.integers(0, store.lengths[scans] - encoder.window + 1)
    names = encoder.token_atlas.network_names
    n = len(names)
    sums, counts = np.zeros((n, n)), np.zeros((n, n))
    for first in range(0, len(scans), _BATCH):
        part = slice(first, first + _BATCH)
        tokens = _tokens(store, encoder, scans[part], starts[part])
        valid = encoder.network_valid(store.valid[scans[part]])
        both = valid[:, :, None] & valid[:, None, :]
        sums += np.where(both, _cosines(tokens), 0).sum(axis=0)
        counts += both.sum(axis=0)
    matrix = np.divide(sums, counts, out=np.full((n, n), np.nan), where=counts > 0)
    return TokenSimilarity(matrix, names, len(scans))


def _tokens(
    store: Store, encoder: SemantoksEncoder, scans: NDArray[np.intp], starts: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the tokens (batch, network, patch, dim) of windows."""
    device = next(encoder.parameters()).device
    windows = torch.from_numpy(store.windows(scans, starts, encoder.window)).to(device)
    mask = network_mask(encoder.network_valid(store.valid[scans]), encoder.window // encoder.patch)
    with torch.inference_mode():
        tokens = encoder(windows, None if mask is None else mask.to(device)).tokens
    found: NDArray[np.float64] = tokens.double().cpu().numpy()
    return found


def _cosines(tokens: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean cosine of the tokens of two networks, (batch, network, network)."""
    patches = tokens.shape[2]
    lengths = np.linalg.norm(tokens, axis=-1, keepdims=True)
    unit = tokens / np.maximum(lengths, np.finfo(np.float64).tiny)
    total = unit.sum(axis=2)
    products = total @ total.transpose(0, 2, 1)
    cosines: NDArray[np.float64] = products / patches**2
    # A token says nothing about its likeness to itself: these pairs leave the diagonal.
    own = np.arange(tokens.shape[1])
    if patches > 1:
        cosines[:, own, own] = (products[:, own, own] - patches) / (patches * (patches - 1))
    else:
        cosines[:, own, own] = 1.0
    return cosines


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
