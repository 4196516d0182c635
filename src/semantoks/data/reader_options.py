"""What readers of images have to be told: the atlas image, which files, and how to denoise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from semantoks.errors import ConfigurationError, nearest

Denoise = Literal["auto", "none", "motion", "simple", "scrubbing", "compcor"]
"""Which confounds are regressed out: see `ReaderOptions`."""
GlobalSignal = Literal["kept", "removed"]
NonSteady = Literal["dropped", "kept"]
Filtered = Literal["here", "before"]


@dataclass(frozen=True)
class ReaderOptions:
    """What readers of images have to be told; readers of extracted series need none of it.

    Examples
    --------
    >>> ReaderOptions(task="task-rest").task
    'rest'
    """

    atlas_image: Path | None = None
    atlas_space: str | None = None
    denoise: Denoise = "auto"
    global_signal: GlobalSignal = "kept"
    n_compcor: int = 5
    fd_threshold: float = 0.5
    std_dvars_threshold: float = 1.5
    max_scrubbed: float = 0.5
    non_steady: NonSteady = "dropped"
    min_roi_coverage: float = 0.5
    band: tuple[float | None, float | None] = (None, None)
    filtered: Filtered = "here"
    task: str | None = None
    run: str | None = None
    space: str | None = None
    res: str | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("denoise", get_args(Denoise)),
            ("global_signal", get_args(GlobalSignal)),
            ("non_steady", get_args(NonSteady)),
            ("filtered", get_args(Filtered)),
        ):
            value = getattr(self, name)
            if value not in known:
                raise ConfigurationError(
                    f"{name} is {value!r}; it is one of {', '.join(known)}."
                    + nearest(str(value), known)
                )
        for name in ("fd_threshold", "std_dvars_threshold", "n_compcor"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"{name} is {getattr(self, name)}; it must be positive.")
        for name in ("max_scrubbed", "min_roi_coverage"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigurationError(
                    f"{name} is {getattr(self, name)}; it is a share between 0 and 1."
                )
        for name in ("task", "run", "space", "res"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, value.removeprefix(f"{name}-"))

    def to_dict(self) -> dict[str, Any]:
        """Return what was changed from the defaults, as plain values for JSON.

        Examples
        --------
        >>> ReaderOptions(denoise="none").to_dict()
        {'denoise': 'none'}
        """
        plain = ReaderOptions()
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in values.items()
            if value != getattr(plain, name)
        }
