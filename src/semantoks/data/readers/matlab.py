"""Variables of MATLAB files of all versions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import pymatreader

from semantoks.errors import InputError


def read_matlab(
    path: Path, names: Sequence[str], *, optional: Sequence[str] = ()
) -> dict[str, Any]:
    """Read variables of a MATLAB file, version 4 to 7.3."""
    try:
        with warnings.catch_warnings():
            # Objects of MATLAB's own classes may lie beside what is read.
            warnings.simplefilter("ignore", UserWarning)
            content = pymatreader.read_mat(str(path), variable_names=[*names, *optional])
    except MemoryError:
        raise
    except Exception as error:
        # What comes out of damaged files is of any kind: zlib, struct, Key- and IndexErrors.
        raise InputError(
            f"{path} cannot be read as a MATLAB file ({type(error).__name__}: "
            f"{str(error) or 'damaged'}). It may be cut off; export or copy it again."
        ) from error
    missing = [name for name in names if name not in content]
    if missing:
        raise InputError(
            f"{path} has no variable {', '.join(missing)}; it has {_variables(path)}. Give the "
            "files that the toolbox wrote."
        )
    return content


def _variables(path: Path) -> str:
    """Return the names of the variables of a file, for a message."""
    from scipy.io import whosmat

    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            found = [name for name in file if not name.startswith("#")]
    else:
        found = [name for name, _, _ in whosmat(str(path))]
    return ", ".join(found[:6]) + (", ..." if len(found) > 6 else "") if found else "none"
