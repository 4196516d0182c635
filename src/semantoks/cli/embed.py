"""Recordings, or a store, and a model to features."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import cyclopts
from cyclopts import Parameter

from semantoks.cli.application import SILENT, app
from semantoks.cli.options import (
    ALL_CORES,
    AS_FOUND,
    AS_USUAL,
    Reading,
    Recordings,
    Working,
    write_store,
)
from semantoks.cli.prepare import PAGE, draw_quality_page
from semantoks.errors import ConfigurationError, InputError
from semantoks.terminal import Output

if TYPE_CHECKING:
    from semantoks.data.atlas import Atlas
    from semantoks.data.preparation import PreparationReport
    from semantoks.data.signal import Preprocessing
    from semantoks.data.store import Store
    from semantoks.evaluation.embedding import Embeddings
    from semantoks.model.encoder import SemantoksEncoder


_TABLES: Final = (".parquet", ".csv")
_NAMED: Final = 5
"""Columns that are named where there are many."""


@dataclass(frozen=True)
class Encoding:
    """Which model reads scans, how, and where the features go.

    Parameters
    ----------
    model : str
        A run or a model folder, or a name on the hub.
    out : Path
        A table (.parquet, .csv), or a folder for a BIDS derivative dataset.
    windows : int
        Evenly spaced windows a scan.
    window : int or None
        Samples in a window; the model's if None.
    features : str or None
        What is read out; as the model says if None.
    smaller_atlas : {"refuse", "mask"}
        What becomes of scans that have only a part of the model's ROIs.
    preprocessing : {"check", "ignore"}
        What becomes of scans that were prepared otherwise than the model expects.
    fresh_weights_seed : int or None
        Seed of fresh weights, if not the model's are wanted.
    device : str
        What is computed on.
    precision : {"auto", "float32", "bf16", "fp16"}
        Of matrix products.
    """

    model: str
    out: Path
    windows: int
    window: int | None
    features: str | None
    smaller_atlas: Literal["refuse", "mask"]
    preprocessing: Literal["check", "ignore"]
    fresh_weights_seed: int | None
    device: str
    precision: Literal["auto", "float32", "bf16", "fp16"]

    @property
    def is_table(self) -> bool:
        """Whether the features go to a table."""
        return self.out.suffix in _TABLES

    def check_place(self) -> None:
        """Refuse a place that nothing can be written to, before anything is computed.

        Raises
        ------
        InputError
            If something is there, or the suffix is that of another kind of file.
        """
        if self.out.suffix and not self.is_table:
            raise InputError(
                f"{self.out} ends in {self.out.suffix}, but features are written to a table "
                "(.parquet or .csv) or to a folder, whose name has no point in it."
            )
        if self.out.exists():
            raise InputError(f"{self.out} exists already. Name another place, or remove it first.")


def encode_store(data: Path, encoding: Encoding, working: Working, output: Output) -> None:
    """Describe the scans of a store."""
    from semantoks.data.store import Store

    store = Store.open(data).verify()
    embeddings = _encode(store, _load(encoding), encoding, working, output)
    _write(embeddings, store, encoding, output)
    _say(embeddings, encoding, output)


def encode_recordings(
    source: Path,
    encoding: Encoding,
    *,
    atlas: str | None,
    keep_store: bool,
    recordings: Recordings,
    reading: Reading,
    working: Working,
    output: Output,
) -> None:
    """Prepare recordings as a model expects, and describe them."""
    from semantoks.data.store import Store

    recordings.check()
    encoder = _load(encoding)
    prepare = partial(
        write_store,
        source,
        atlas=_atlas_of(atlas, encoder, encoding),
        preprocessing=_expected(encoder, encoding, recordings),
        recordings=recordings,
        reading=reading,
        working=working,
        output=output,
        ignore=[] if atlas is None else [Path(atlas)],
        existing="reuse",
    )
    name = f"{encoding.out.name.removesuffix(encoding.out.suffix)}.store"
    place = encoding.out.with_name(name if keep_store else f".{name}")
    report = prepare(place) if keep_store else _prepare_passing(prepare, place, output)
    with contextlib.nullcontext() if keep_store else _removed_afterwards(place, output):
        store = Store.open(place)
        embeddings = _encode(store, encoder, encoding, working, output)
        where = embeddings.provenance["store"] | {"path": str(place) if keep_store else None}
        provenance = {**embeddings.provenance, "store": where, "source": str(source)}
        wanted = keep_store or not encoding.is_table
        if wanted and not (place / PAGE).exists():
            draw_quality_page(place, output)
        _write(dataclasses.replace(embeddings, provenance=provenance), store, encoding, output)
    _say(embeddings, encoding, output, report)


def _prepare_passing(
    prepare: Callable[[Path], PreparationReport], place: Path, output: Output
) -> PreparationReport:
    """Prepare a store that will not stay; one that an interrupted call has left is used."""
    from semantoks.data.store_writer import OtherStoreError

    try:
        return prepare(place)
    except OtherStoreError:
        output.say("What an interrupted call with other options or files had prepared is removed.")
        shutil.rmtree(place)
        return prepare(place)


@contextlib.contextmanager
def _removed_afterwards(place: Path, output: Output) -> Iterator[None]:
    """Remove a store when it was used, or cannot be; after an interruption it stays."""
    from semantoks.data.workers import WorkInterruptedError

    try:
        yield
    except InputError as error:
        if not isinstance(error, WorkInterruptedError):
            shutil.rmtree(place, ignore_errors=True)
        raise
    except BaseException:
        output.say(f"What is prepared stays in {place}; the same call goes on from there.")
        raise
    shutil.rmtree(place, ignore_errors=True)


def _load(encoding: Encoding) -> SemantoksEncoder:
    """Load the model."""
    from semantoks.evaluation.shared_encoding import ModelPlace

    return ModelPlace(encoding.model, encoding.fresh_weights_seed).load()


def _atlas_of(atlas: str | None, encoder: SemantoksEncoder, encoding: Encoding) -> Atlas:
    """Load the atlas of the recordings; it is the model's, or a part of it if that is allowed."""
    from semantoks.data.atlas import Atlas
    from semantoks.data.labels import roi_positions

    own = encoder.atlas if atlas is None else Atlas.load(atlas)
    if own == encoder.atlas:
        return own
    if encoding.smaller_atlas == "refuse":
        raise ConfigurationError(
            f"--atlas {atlas} is not the atlas of the model ({encoder.atlas.name!r}, "
            f"{len(encoder.atlas)} ROIs). If the recordings have a part of its ROIs, and the "
            "networks that they lack may be masked, add --smaller-atlas mask."
        )
    roi_positions(own, encoder.atlas)
    return own


def _expected(
    encoder: SemantoksEncoder, encoding: Encoding, recordings: Recordings
) -> Preprocessing:
    """Decide what is done to recordings: what the model was trained on."""
    from semantoks.data.signal import Preprocessing
    from semantoks.evaluation.embedding import check_preprocessing
    from semantoks.evaluation.readout import default_features, samples_needed

    usual = Preprocessing.from_dict(encoder.preprocessing)
    said = (recordings.filtered_before, recordings.high_pass, recordings.low_pass)
    if usual.filtered_before is not None and said == (None, None, None):
        low, high = ("none" if edge is None else f"{edge:g}" for edge in usual.filtered_before)
        raise InputError(
            f"the model {encoding.model} was trained on series that had been filtered before "
            f"({low} to {high} Hz), so that it does not say what recordings need. Say it: "
            f"--high-pass {low} --low-pass {high} for raw ones, --filtered-before {low} {high} "
            "for filtered ones."
        )
    features = encoding.features or default_features(encoder)
    # A scan that is shorter than a window cannot be read, and any other can.
    usual = dataclasses.replace(
        usual, min_samples=samples_needed(encoder, features, encoding.window)
    )
    chosen = recordings.preprocessing(usual)
    if encoding.preprocessing == "check":
        check_preprocessing(
            "what --filtered-before, --high-pass and --low-pass make",
            chosen,
            encoder.preprocessing,
            "Leave out what contradicts the model, or read the series as they are: "
            "--ignore-preprocessing.",
        )
    return chosen


def _encode(
    store: Store, encoder: SemantoksEncoder, encoding: Encoding, working: Working, output: Output
) -> Embeddings:
    """Read the features of all scans out of the model."""
    from semantoks.evaluation.derivatives import bids_stems
    from semantoks.evaluation.embedding import embed
    from semantoks.evaluation.shared_encoding import ModelPlace, Sharing
    from semantoks.training.plan import choose_device

    if not encoding.is_table:
        bids_stems(store.scans)
    sharing = None
    if working.scheduler is not None or working.workers not in (None, 1):
        place = ModelPlace(encoding.model, encoding.fresh_weights_seed)
        keep = encoding.out.with_name(f".{encoding.out.name}.partial")
        sharing = Sharing(place, working.workers, working.scheduler, encoding.device, keep)
    else:
        encoder = encoder.to(choose_device(encoding.device))
    with output.progress("encoding") as advance:
        return embed(
            store,
            encoder,
            windows=encoding.windows,
            window=encoding.window,
            features=encoding.features,
            smaller_atlas=encoding.smaller_atlas,
            preprocessing=encoding.preprocessing,
            precision=encoding.precision,
            progress=lambda done, total: advance(done, total, ""),
            origin={
                "model_folder": encoding.model,
                "fresh_weights_seed": encoding.fresh_weights_seed,
            },
            sharing=sharing,
        )


def _write(embeddings: Embeddings, store: Store, encoding: Encoding, output: Output) -> None:
    """Write the features, and beside them in a dataset what says how good the scans are."""
    from semantoks.data.store import COVERAGE, QUALITY, Files
    from semantoks.data.store_writer import COLUMNS
    from semantoks.evaluation.derivatives import write_bids_derivatives
    from semantoks.evaluation.embedding import write_embeddings

    known = store.scans.set_index("scan", drop=False).loc[
        embeddings.frame["scan"].astype(str).tolist()
    ]
    phenotypes = known.drop(columns=[name for name in COLUMNS if name != "t_r"])
    if encoding.is_table:
        write_embeddings(embeddings, encoding.out)
        names = list(phenotypes.columns.drop("t_r"))
        if names:
            named = [*names[:_NAMED], *["..."] * (len(names) > _NAMED)]
            output.say(
                f"What tables say of the scans ({', '.join(named)}) is not in {encoding.out}."
            )
        return
    beside = [store.path / name for name in (QUALITY, COVERAGE, PAGE)]
    beside.append(Files.of(store.path).refused)
    scans = store.scans[["scan", "source"]].astype(str)
    write_bids_derivatives(
        embeddings,
        encoding.out,
        sources=dict(scans.itertuples(index=False)),
        files=[path for path in beside if path.is_file()],
        phenotypes=phenotypes,
    )


def _say(
    embeddings: Embeddings,
    encoding: Encoding,
    output: Output,
    report: PreparationReport | None = None,
) -> None:
    """Say where the features are, and of whom there are none."""
    n_scans, n_features = len(embeddings.frame), len(embeddings.feature_names)
    result = {"out": str(encoding.out), "n_scans": n_scans, "n_features": n_features}
    refused = "" if report is None else f"; {len(report.refused)} scan(s) were refused"
    output.say(f"{n_scans} scans with {n_features} features each are in {encoding.out}{refused}.")
    if report is not None:
        result |= {"n_found": report.n_found, "refused": [vars(x) for x in report.refused]}
    output.result(result)


@app.command(sort_key=50)
def embed(
    source: Path | None = None,
    *,
    model: str,
    out: Path,
    data: Path | None = None,
    atlas: str | None = None,
    smaller_atlas: Literal["refuse", "mask"] = "refuse",
    windows: Annotated[int, Parameter(validator=cyclopts.validators.Number(gte=1))] = 8,
    window: int | None = None,
    features: str | None = None,
    keep_store: Annotated[bool, Parameter(negative="")] = False,
    ignore_preprocessing: Annotated[bool, Parameter(negative="")] = False,
    untrained: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    device: str = "auto",
    precision: Literal["auto", "float32", "bf16", "fp16"] = "float32",
    recordings: Recordings = AS_FOUND,
    reading: Reading = AS_USUAL,
    working: Working = ALL_CORES,
    output: Output = SILENT,
) -> None:
    """Compute the features of every scan, averaged over its windows.

    From recordings, in one step: they are prepared as the model expects (its atlas, repetition time
    and band), with the same options as for prepare. An interrupted call goes on when it is called
    again. Or from a store, with --data.

    Example: semantoks embed xcp_d --model run --out features

    Example: semantoks embed --data abide.store --model run --out features.parquet

    Parameters
    ----------
    source : Path
        Folder or file with recordings.
    model : str
        A run or a model folder, or owner/name on the hub.
    out : Path
        A folder for a BIDS derivative dataset (a table and a sidecar a scan, features.parquet and
        the quality of the scans), or, by its suffix .parquet or .csv, a table with a row a scan.
    data : Path
        A store, instead of recordings.
    atlas : str
        Atlas of the recordings, if they have only a part of the model's ROIs (schaefer400, say);
        needs --smaller-atlas mask.
    smaller_atlas : str
        mask accepts recordings or a store of such an atlas: ROIs are placed by their labels, and
        networks without any are masked.
    windows : int
        Evenly spaced windows a scan.
    window : int
        Samples in a window, a multiple of the model's patch; by default as in training.
    features : str
        Any of mean (mean token), cls, networks (mean token of every network), network-statistics
        (mean and deviation of every network), second-order (correlations between the tokens of
        networks), synchrony and log-synchrony (correlations between learned time courses), and
        components (of the logarithm of connectivity), joined by +; mean+cls is the reference, and
        components the default where the model has them.
    keep_store : bool
        Keep the store that recordings were read into, as OUT.store.
    ignore_preprocessing : bool
        Read series that were prepared otherwise than the model expects as they are, instead of
        refusing them; the provenance of the features says so.
    untrained : bool
        Same architecture with fresh weights: the baseline that pretraining must beat.
    seed : int
        Of the fresh weights.
    device : str
        auto takes a GPU where there is one; otherwise cpu, cuda, mps, ...
    precision : str
        Of matrix products; auto takes bf16 where it is faster.
    recordings : Recordings
        Files, and metadata of the scans.
    reading : Reading
        How images are read.
    working : Working
        Processes, or a cluster. With --workers or --scheduler, every process loads the model from
        its folder, and what is done is kept beside OUT, so that an interrupted call goes on when
        it is called again.
    output : Output
        What is printed.
    """
    encoding = Encoding(
        model=model,
        out=out,
        smaller_atlas=smaller_atlas,
        windows=windows,
        window=window,
        features=features,
        preprocessing="ignore" if ignore_preprocessing else "check",
        fresh_weights_seed=seed if untrained else None,
        device=device,
        precision=precision,
    )
    encoding.check_place()
    if source is not None and data is None:
        encode_recordings(
            source,
            encoding,
            atlas=atlas,
            keep_store=keep_store,
            recordings=recordings,
            reading=reading,
            working=working,
            output=output,
        )
    elif data is not None and source is None:
        if keep_store or atlas is not None or (recordings, reading) != (AS_FOUND, AS_USUAL):
            raise ConfigurationError(
                f"{data} is a store, which is prepared already; options that say how recordings "
                "are read have no effect on it. Leave them out, or give the recordings (semantoks "
                "embed SOURCE ...) instead of --data."
            )
        encode_store(data, encoding, working, output)
    else:
        raise ConfigurationError(
            "one thing is to be embedded: recordings (semantoks embed SOURCE ...) or a store "
            "(--data STORE)."
        )
