"""What is read out of an encoder: windows of scans, their description, one row a scan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from numbers import Integral
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

from semantoks.data.labels import roi_positions
from semantoks.data.store import Store
from semantoks.errors import ConfigurationError, InputError, nearest
from semantoks.model.components import FEWEST_SAMPLES, ComponentReadOut, matrix_logarithm
from semantoks.model.encoder import Encoding, SemantoksEncoder, network_mask
from semantoks.training.precision import Precision, autocast, choose_precision, kept_memory

Matrix = NDArray[np.float64]

_ROWS: Final = 100
"""Series that a second-order description compares at most: 4,950 pairs."""
_SHRINKAGE: Final = 0.5
"""Share of the identity in a covariance matrix whose logarithm is taken."""
_STRONGEST: Final = 1 - 1e-6
"""Correlations are cut here, so that two identical series have a finite Fisher z."""


def token_statistics(
    tokens: Float[NDArray[np.floating[Any]], "window network patch dim"],
) -> Float[Matrix, "network_2_dim"]:
    """Take mean and standard deviation of every network's tokens over patches and windows."""
    tokens = np.asarray(tokens, dtype=np.float64)
    return np.stack([tokens.mean((0, 2)), tokens.std((0, 2))], axis=1).ravel()


def second_order(
    tokens: Float[NDArray[np.floating[Any]], "window network patch dim"],
) -> Float[Matrix, "pair"]:
    """Correlate the tokens of networks over all patches and windows of a scan.

    Every token is projected onto q orthonormal directions, which were drawn once and for all for
    its width; q is as large as keeps network * q at 100 at most, and at least 1. That makes
    network * q series over (window, patch). The numbers are the Fisher z of the correlation of
    every pair of them, also of the same network. Drawn directions keep inner products on average,
    and, other than principal ones, let no scan depend on another.
    """
    _, networks, _, dim = tokens.shape
    projected = np.asarray(tokens, dtype=np.float64) @ _directions(dim, n_directions(networks, dim))
    series = projected.transpose(1, 3, 0, 2).reshape(networks * projected.shape[-1], -1)
    return fisher_z_of(correlation(series))


def correlation(
    series: Float[NDArray[np.floating[Any]], "... row time"],
) -> Float[Matrix, "... row row"]:
    """Correlate series with one another."""
    centred = np.asarray(series, dtype=np.float64)
    size = np.linalg.norm(centred, axis=-1, keepdims=True)
    centred = centred - centred.mean(-1, keepdims=True)
    norm = np.linalg.norm(centred, axis=-1, keepdims=True)
    # What is left of a constant by rounding is no variation.
    unit = np.divide(centred, norm, out=np.zeros_like(centred), where=norm > 1e-6 * size)
    found = unit @ unit.swapaxes(-1, -2)
    rows = np.arange(found.shape[-1])
    found[..., rows, rows] = 1.0
    return np.asarray(found)


def fisher_z_of(correlations: Float[Matrix, "... row row"]) -> Float[Matrix, "... pair"]:
    """Take the Fisher z of every pair of a correlation matrix."""
    row, column = np.tril_indices(correlations.shape[-1], -1)
    pairs = correlations[..., row, column]
    return np.asarray(np.arctanh(np.clip(pairs, -_STRONGEST, _STRONGEST)))


def log_of(covariances: Float[Matrix, "window row row"]) -> Float[Matrix, "entry"]:
    """Take the matrix logarithm of the mean of covariance matrices, half way to the identity.

    Where covariances are many, each says something of all others. The logarithm takes indirect
    ones out, as partial correlations do, and is less noisy; halfway to the identity, which is the
    covariance of ROIs that have nothing in common, it exists however short a scan is.
    """
    mean = covariances.mean(axis=0)
    lower = np.tril_indices(len(mean))
    if not np.isfinite(mean).all():  # of broken weights; whoever asked says so
        return np.full(len(lower[0]), np.nan)
    shrunk = (1 - _SHRINKAGE) * mean + _SHRINKAGE * np.eye(len(mean))
    return np.asarray(matrix_logarithm(shrunk)[lower])


def n_directions(networks: int, dim: int) -> int:
    """Say onto how many directions `second_order` projects tokens.

    Examples
    --------
    >>> n_directions(9, 768)
    11
    """
    return max(1, min(dim, _ROWS // networks))


def _directions(dim: int, count: int) -> Matrix:
    """Draw orthonormal directions (dim, count), the same ones at every call."""
    drawn = np.random.default_rng(0).standard_normal((dim, count))
    return np.asarray(np.linalg.qr(drawn)[0])


FeatureKind = str
"""Parts of a description, joined by "+": "mean+cls" (the reference), "networks+second-order"."""


class Seen(NamedTuple):
    """Windows, and what the encoder says of them."""

    series: Float[Tensor, "batch roi time"]
    mask: Bool[Tensor, "batch network patch"] | None
    encoding: Encoding


Whole = Callable[[SemantoksEncoder, NDArray[np.float32], NDArray[np.bool_]], NDArray[np.float32]]
"""What describes a whole scan, given its series (roi, time) and valid ROIs."""


@dataclass(frozen=True)
class Part:
    """A kind of read-out: what is looked at in windows, or in whole scans."""

    names: Callable[[SemantoksEncoder], list[str]]
    look: Callable[[SemantoksEncoder, Seen], Tensor] | None = None
    describe: Callable[[Matrix], Matrix] | None = None
    encodes: bool = True
    whole: Whole | None = None


def feature_parts(features: FeatureKind) -> tuple[str, ...]:
    """Take a description apart.

    Examples
    --------
    >>> feature_parts("networks+second-order")
    ('networks', 'second-order')
    """
    parts = tuple(str(features).split("+"))
    for part in parts:
        if part not in PARTS:
            raise ConfigurationError(
                f"there are no features {part!r}; there are {', '.join(PARTS)}, and any of them "
                "joined by '+', such as mean+cls." + nearest(part, PARTS)
            )
    if len(set(parts)) < len(parts):
        raise ConfigurationError(f"features {features!r} name a part twice; name it once.")
    return parts


def feature_names(encoder: SemantoksEncoder, features: FeatureKind = "mean+cls") -> list[str]:
    """Name the numbers of a description, after the places on the network axis of the tokens.

    Examples
    --------
    >>> from semantoks.data.atlas import Atlas
    >>> encoder = SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=0)
    >>> feature_names(encoder, "networks")[64]
    'Default_0000'
    >>> feature_names(encoder, "second-order")[0]
    'second_order_Vis_01~Vis_00'
    """
    others = [part for part in feature_parts(features) if part != "components"]
    if others and encoder.components is not None and encoder.provenance.get("steps") == 0:
        raise ConfigurationError(
            f"{others[0]} would be that of an encoder which was never trained: this model was made "
            "with optimization.epochs=0 and has features components alone. Ask for these, or for "
            "the untrained control (--untrained, weights: fresh)."
        )
    return [name for part in feature_parts(features) for name in PARTS[part].names(encoder)]


def read_out(
    encoding: Encoding, features: FeatureKind = "mean+cls"
) -> Float[Tensor, "batch feature"]:
    """Reduce what the encoder says of windows to one row of numbers a window.

    The mean is over all tokens; those of masked networks count, as in the released code.

    Examples
    --------
    >>> encoding = Encoding(torch.zeros(3, 8), torch.zeros(3, 7, 5, 8))
    >>> read_out(encoding).shape, read_out(encoding, "networks").shape
    (torch.Size([3, 16]), torch.Size([3, 56]))
    """
    parts = feature_parts(features)
    for part in parts:
        if part not in _OF_TOKENS:
            raise ConfigurationError(
                f"{part} is no description of a window alone; use encode_scans or embed."
            )
    return torch.cat([_OF_TOKENS[part](encoding) for part in parts], 1)


def _pairs(prefix: str, rows: list[str]) -> list[str]:
    """Name the lower triangle, row by row."""
    lower = sorted((b, a) for a, b in combinations(range(len(rows)), 2))
    return [f"{prefix}_{rows[b]}~{rows[a]}" for b, a in lower]


def _numbered(names: tuple[str, ...], encoder: SemantoksEncoder) -> list[str]:
    """Name dim numbers for every name."""
    return [f"{name}_{i:04d}" for name in names for i in range(encoder.dim)]


def _name_networks(encoder: SemantoksEncoder) -> list[str]:
    """Name the mean tokens of networks."""
    return _numbered(encoder.token_atlas.network_names, encoder)


def _name_statistics(encoder: SemantoksEncoder) -> list[str]:
    """Name means and deviations of networks."""
    networks = encoder.token_atlas.network_names
    return _numbered(tuple(f"{n}_{what}" for n in networks for what in ("mean", "sd")), encoder)


def _name_second_order(encoder: SemantoksEncoder) -> list[str]:
    """Name pairs of projected tokens."""
    networks = encoder.token_atlas.network_names
    count = n_directions(len(networks), encoder.dim)
    return _pairs("second_order", [f"{n}_{i:02d}" for n in networks for i in range(count)])


def _name_courses(encoder: SemantoksEncoder) -> list[str]:
    """Name time courses."""
    if encoder.synchrony is None:
        raise ConfigurationError(
            "features 'synchrony' and 'log-synchrony' are those of learned time courses, but this "
            "model has none; pretrain one with --set model.time_courses=8."
        )
    known = zip(encoder.token_atlas.network_names, encoder.synchrony.counts, strict=True)
    return [f"{network}_{i:02d}" for network, count in known for i in range(count)]


def _name_logarithms(encoder: SemantoksEncoder) -> list[str]:
    """Name a lower triangle with its diagonal, row by row."""
    rows = _name_courses(encoder)
    return [f"log_synchrony_{a}~{b}" for i, a in enumerate(rows) for b in rows[: i + 1]]


def _readout(encoder: SemantoksEncoder) -> ComponentReadOut:
    """Return the closed-form read-out of a model."""
    if encoder.components is None:
        raise ConfigurationError(
            "features 'components' are learned from the scans that a model is pretrained on, but "
            "this model has none; pretrain one with --set model.components=400, or in seconds "
            "with --recipe components."
        )
    return encoder.components


def _name_components(encoder: SemantoksEncoder) -> list[str]:
    """Name components, the largest first."""
    return [f"components_{i:04d}" for i in range(_readout(encoder).sizes["numbers"])]


def default_features(encoder: SemantoksEncoder) -> FeatureKind:
    """Say what is read out of a model unless something else is wanted.

    Examples
    --------
    >>> from semantoks.data.atlas import Atlas
    >>> default_features(SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=0))
    'mean+cls'
    """
    return "mean+cls" if encoder.components is None else "components"


def samples_needed(
    encoder: SemantoksEncoder, features: FeatureKind, window: int | None = None
) -> int:
    """Say how long a scan must be: a window, or less where it is described as a whole.

    Examples
    --------
    >>> from semantoks.data.atlas import Atlas
    >>> encoder = SemantoksEncoder(Atlas.load("cc200"), dim=64, depth=0)
    >>> samples_needed(encoder, "mean+cls"), samples_needed(encoder, "components")
    (100, 20)
    """
    if all(PARTS[part].whole is not None for part in feature_parts(features)):
        return FEWEST_SAMPLES
    return window_length(encoder, window)


def _courses(encoder: SemantoksEncoder, seen: Seen) -> NDArray[np.float32]:
    """Mix time courses (batch, course, time); those of networks that are not there are 0."""
    if encoder.synchrony is None:
        raise ConfigurationError("this model has no time courses.")
    courses = encoder.synchrony.courses(seen.series)
    if seen.mask is not None:
        there = ~seen.mask.all(dim=2)
        courses = courses * there.index_select(1, encoder.synchrony.owner)[..., None]
    return np.asarray(courses.cpu().numpy())


def _course_z(encoder: SemantoksEncoder, seen: Seen) -> Tensor:
    """Take Fisher z of the correlations of time courses over every window."""
    return torch.from_numpy(fisher_z_of(correlation(_courses(encoder, seen))))


def _course_moments(encoder: SemantoksEncoder, seen: Seen) -> Tensor:
    """Take covariances of time courses over every window, about the mean of the scan: 0."""
    courses = _courses(encoder, seen)
    return torch.from_numpy(courses @ courses.swapaxes(1, 2) / courses.shape[2])


def _tokens(_: SemantoksEncoder, seen: Seen) -> Tensor:
    """Keep all tokens."""
    return seen.encoding.tokens


_OF_TOKENS: Final[dict[str, Callable[[Encoding], Tensor]]] = {
    "mean": lambda encoding: encoding.tokens.mean((1, 2)),
    "cls": lambda encoding: encoding.summary,
    "networks": lambda encoding: encoding.tokens.mean(2).flatten(1),
}

WINDOW_PARTS: Final = tuple(_OF_TOKENS)
"""Kinds of read-out that a window alone has."""
PARTS: Final[dict[str, Part]] = {
    "mean": Part(lambda e: _numbered(("mean",), e), lambda _, x: _OF_TOKENS["mean"](x.encoding)),
    "cls": Part(lambda e: _numbered(("cls",), e), lambda _, x: _OF_TOKENS["cls"](x.encoding)),
    "networks": Part(_name_networks, lambda _, x: _OF_TOKENS["networks"](x.encoding)),
    "network-statistics": Part(_name_statistics, _tokens, token_statistics),
    "second-order": Part(_name_second_order, _tokens, second_order),
    "synchrony": Part(lambda e: _pairs("synchrony", _name_courses(e)), _course_z, encodes=False),
    "log-synchrony": Part(_name_logarithms, _course_moments, log_of, encodes=False),
    "components": Part(
        _name_components, encodes=False, whole=lambda e, *scan: _readout(e).describe(*scan)
    ),
}
"""All kinds of read-out by name."""


SmallerAtlas = Literal["refuse", "mask"]
"""What becomes of scans of an atlas that is a part of the model's."""

_NOTHING: Final = Encoding(torch.empty(0), torch.empty(0))
_NOWHERE: Final = np.empty(0, dtype=np.int64)

Reader = Callable[[NDArray[np.int64], NDArray[np.int64], int], NDArray[np.float32]]


@dataclass(frozen=True)
class Scans:
    """Scans that windows can be cut from, ROIs in the order of the model's atlas."""

    lengths: NDArray[np.int64]
    valid: NDArray[np.bool_]
    read: Reader
    name: Callable[[int], str]

    def part(self, first: int, stop: int) -> Scans:
        """Take neighbouring scans."""
        return Scans(
            self.lengths[first:stop],
            self.valid[first:stop],
            lambda scans, starts, length: self.read(scans + first, starts, length),
            lambda scan: self.name(scan + first),
        )


def check_whole(name: str, value: object) -> int:
    """Refuse what is not a whole number of at least 1.

    Examples
    --------
    >>> check_whole("windows", 8)
    8
    """
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise InputError(f"{name} is {value!r}; it must be a whole number of at least 1.")
    return int(value)


def window_starts(length: int, window: int, n_windows: int) -> NDArray[np.int64]:
    """Place windows evenly over a scan, the first at its beginning, the last at its end.

    Examples
    --------
    >>> window_starts(200, 100, 5)
    array([  0,  25,  50,  75, 100])
    >>> window_starts(101, 100, 8)
    array([0, 1])
    """
    n_windows = check_whole("windows", n_windows)
    if length < window:
        raise InputError(
            f"a scan of {length} samples is shorter than the window of {window}. Leave it out, or "
            "read shorter windows."
        )
    return np.unique(np.rint(np.linspace(0, length - window, n_windows)).astype(np.int64))


def window_length(encoder: SemantoksEncoder, window: int | None) -> int:
    """Return the length of the windows to read, the model's own if none is wanted."""
    if window is None:
        return encoder.window
    patch = encoder.patch
    window = check_whole("window", window)
    if window < patch or window % patch:
        raise InputError(
            f"windows of {window} samples do not hold whole patches of {patch}; the nearest that "
            f"do have {max(round(window / patch), 1) * patch}."
        )
    return window


def store_scans(store: Store) -> Scans:
    """Take the scans of a store, in its own atlas."""
    names = store.scans["scan"]
    return Scans(store.lengths, store.valid, store.windows, lambda scan: repr(names.iloc[scan]))


def array_scans(
    series: Sequence[NDArray[np.float32]], valid: NDArray[np.bool_], name: Callable[[int], str]
) -> Scans:
    """Take arrays of shape (roi, time), all of the same ROIs."""

    def read(
        which: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.float32]:
        pairs = zip(which.tolist(), starts.tolist(), strict=True)
        return np.stack([series[i][:, first : first + length] for i, first in pairs])

    lengths = np.array([one.shape[1] for one in series], dtype=np.int64)
    return Scans(lengths, valid, read, name)


def scans_of(
    store: Store, encoder: SemantoksEncoder, smaller_atlas: SmallerAtlas = "refuse"
) -> Scans:
    """Take the scans of a store, in the model's atlas."""
    if smaller_atlas not in get_args(SmallerAtlas):
        raise ConfigurationError(f"smaller_atlas is 'refuse' or 'mask', not {smaller_atlas!r}.")

    whole = store_scans(store)
    if store.atlas == encoder.atlas:
        return whole
    if smaller_atlas == "refuse":
        raise InputError(
            f"the store has atlas {store.atlas.name!r} (fingerprint {store.atlas.fingerprint}, "
            f"{len(store.atlas)} ROIs), but the model was made for {encoder.atlas.name!r} "
            f"(fingerprint {encoder.atlas.fingerprint}, {len(encoder.atlas)} ROIs). Prepare the "
            "recordings with the model's atlas, or pretrain a model on this store."
        )
    placed = roi_positions(store.atlas, encoder.atlas)

    def read(
        scans: NDArray[np.int64], starts: NDArray[np.int64], length: int
    ) -> NDArray[np.float32]:
        windows = np.zeros((len(scans), len(encoder.atlas), length), dtype=np.float32)
        windows[:, placed] = store.windows(scans, starts, length)
        return windows

    valid = np.zeros((len(store), len(encoder.atlas)), dtype=bool)
    valid[:, placed] = store.valid
    return Scans(store.lengths, valid, read, whole.name)


def encode_scans(
    encoder: SemantoksEncoder,
    scans: Scans,
    *,
    features: FeatureKind = "mean+cls",
    windows: int = 8,
    window: int | None = None,
    batch_size: int = 64,
    precision: Precision = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Describe every scan by what is read out of its windows.

    Most numbers are averaged over windows; those of "network-statistics", "second-order" and
    "log-synchrony" are of the tokens or correlations of all windows of a scan together, and
    "components" of the whole scan. Networks of which a scan has no valid ROI are masked in all its
    windows.
    """
    parts = feature_parts(features)
    rows = _Rows(encoder, parts, len(scans.lengths))
    length = window_length(encoder, window)
    batch_size = check_whole("batch_size", batch_size)
    check_whole("windows", windows)
    check_lengths(scans, samples_needed(encoder, features, window))
    looks = any(PARTS[part].look is not None for part in parts)
    scan, start = _place_windows(scans, length, windows) if looks else (_NOWHERE, _NOWHERE)
    network_valid = encoder.network_valid(scans.valid)
    device = next(encoder.parameters()).device
    chosen = choose_precision(precision, device, dim=encoder.dim)
    encodes = any(PARTS[part].encodes for part in parts)
    with evaluating(encoder), torch.inference_mode(), kept_memory(device), autocast(chosen, device):
        for first in range(0, len(scan), batch_size):
            batch = slice(first, first + batch_size)
            series = torch.from_numpy(scans.read(scan[batch], start[batch], length)).to(device)
            mask = network_mask(network_valid[scan[batch]], length // encoder.patch)
            mask = None if mask is None else mask.to(device)
            encoding = encoder(series, mask) if encodes else _NOTHING
            rows.add(scan[batch], Seen(series, mask, encoding))
            if progress is not None:
                progress(min(first + batch_size, len(scan)), len(scan))
    rows.read_whole(scans, None if looks else progress)
    found = rows.finish(np.bincount(scan, minlength=len(scans.lengths)))
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise InputError(
            f"the features of {len(broken)} scan(s) are not finite, the first is "
            f"{scans.name(int(broken[0]))}: the model's weights or this scan are broken."
        )
    return found.astype(np.float32)


class _Rows:
    """Rows of features that are filled batch by batch; windows come in the order of the scans."""

    def __init__(self, encoder: SemantoksEncoder, parts: tuple[str, ...], scans: int) -> None:
        widths = [len(PARTS[part].names(encoder)) for part in parts]
        ends = np.cumsum([0, *widths])
        self.encoder = encoder
        self.columns = {p: slice(a, b) for p, a, b in zip(parts, ends, ends[1:], strict=False)}
        self.rows = np.zeros((scans, ends[-1]))
        # What is kept of the windows of the scan that has come last, which may not be complete.
        self.open: dict[str, list[NDArray[Any]]] = {
            part: [] for part in parts if PARTS[part].describe is not None
        }
        self.last = -1
        self.averaged = [
            part for part in parts if part not in self.open and PARTS[part].whole is None
        ]

    def add(self, scan: NDArray[np.int64], seen: Seen) -> None:
        """Take the windows of a batch in."""
        kept: dict[str, NDArray[Any]] = {}
        for part, columns in self.columns.items():
            look = PARTS[part].look
            if look is None:
                continue
            values = look(self.encoder, seen).float().cpu().numpy()
            if part in self.open:
                kept[part] = values
            else:
                np.add.at(self.rows[:, columns], scan, values)
        if not kept:
            return
        for one in np.unique(scan):
            if one != self.last:
                self._close()
                self.last = int(one)
            for part, values in kept.items():
                self.open[part].append(values[scan == one])

    def read_whole(self, scans: Scans, progress: Callable[[int, int], None] | None) -> None:
        """Take in what describes scans as a whole."""
        wanted = {part: PARTS[part].whole for part in self.columns}
        parts = {part: whole for part, whole in wanted.items() if whole is not None}
        for scan, length in enumerate(scans.lengths.tolist() if parts else ()):
            (series,) = scans.read(np.array([scan]), np.array([0]), length)
            for part, whole in parts.items():
                row = whole(self.encoder, series, scans.valid[scan])
                self.rows[scan, self.columns[part]] = row
            if progress is not None:
                progress(scan + 1, len(scans.lengths))

    def finish(self, windows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return all rows, given how many windows each scan has."""
        self._close()
        for part in self.averaged:
            self.rows[:, self.columns[part]] /= windows[:, None]
        return self.rows

    def _close(self) -> None:
        """Describe the scan whose windows are complete."""
        for part, values in self.open.items():
            describe = PARTS[part].describe
            if values and describe is not None:
                self.rows[self.last, self.columns[part]] = describe(np.concatenate(values))
                values.clear()


def check_lengths(scans: Scans, window: int) -> None:
    """Refuse scans that are shorter than a window."""
    short = np.flatnonzero(scans.lengths < window)
    if len(short):
        raise InputError(
            f"{len(short)} scan(s) are shorter than the window of {window} samples, the first is "
            f"{scans.name(int(short[0]))} with {scans.lengths[short[0]]}. Leave them out (prepare "
            f"the store with min_samples={window}), or read shorter windows (window, in whole "
            "patches)."
        )


def _place_windows(
    scans: Scans, window: int, windows: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the scan and the first sample of every window."""
    check_lengths(scans, window)
    starts = [window_starts(int(length), window, windows) for length in scans.lengths]
    scan = np.repeat(np.arange(len(starts), dtype=np.int64), [len(s) for s in starts])
    return scan, np.concatenate([*starts, np.empty(0, dtype=np.int64)])


@contextmanager
def evaluating(encoder: SemantoksEncoder) -> Iterator[None]:
    """Switch to evaluation, and back."""
    training = encoder.training
    encoder.eval()
    try:
        yield
    finally:
        encoder.train(training)
