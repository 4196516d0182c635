"""In which precision to compute, and memory that is kept instead of given back."""

from __future__ import annotations

import contextlib
import ctypes
import os
import statistics
import time
from collections.abc import Iterator
from typing import Final, Literal, get_args

import torch
from torch import nn

from semantoks.errors import ConfigurationError, nearest

Precision = Literal["auto", "float32", "bf16", "fp16"]
"""Of matrix products; norms, losses and weights stay in float32."""

_DTYPES: Final = {"bf16": torch.bfloat16, "fp16": torch.float16}
# A bf16 that is only a little faster is not worth its rounding, nor is it to be told from noise.
_WORTH_IT: Final = 1.2
# Narrower models spend their time outside of matrix products.
_NARROW: Final = 128
# Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4


def choose_precision(name: Precision, device: torch.device, *, dim: int) -> Precision:
    """Decide in which precision to compute.

    Examples
    --------
    >>> choose_precision("auto", torch.device("cpu"), dim=64)
    'float32'
    """
    known = get_args(Precision)
    if name not in known:
        raise ConfigurationError(
            f"there is no precision {name!r}; there are {', '.join(known)}."
            + nearest(str(name), known)
        )
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    fast = device.type == "cpu" and dim >= _NARROW and _gain_of_bf16(dim) >= _WORTH_IT
    return "bf16" if fast else "float32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Compute matrix products in a precision."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=_DTYPES[precision])


def _gain_of_bf16(dim: int, *, rows: int = 512, repeats: int = 3) -> float:
    """Measure how much faster the widest products of a block are in bf16, both ways."""
    with torch.random.fork_rng(devices=[]):
        mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        x = torch.randn(rows, dim)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats + 1):
        for half, taken in seconds.items():
            began = time.perf_counter()
            with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
                total = mlp(x).float().square().mean()
            torch.autograd.backward(total)
            taken.append(time.perf_counter() - began)
    plain, fast = (statistics.median(taken[1:]) for taken in seconds.values())
    return plain / fast


@contextlib.contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Let the process keep memory that it frees, for the next step to use.

    glibc returns every array above some megabytes to the system at once; to get it back a page at
    a time costs more than a GELU over it. Does nothing on GPUs, which keep it anyway, and with
    other C libraries.
    """
    # Windows does not open the process itself as a library.
    libc = ctypes.CDLL(None) if device.type == "cpu" and os.name == "posix" else None
    if libc is None or not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_MMAP_MAX, 65536)  # glibc's defaults
        libc.mallopt(_TRIM_THRESHOLD, 128 * 1024)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
