"""Keeps two processes from writing the same store.

Where the system has ``flock`` (Linux, macOS), the lock goes with the process that holds it, however
it ends. Elsewhere, and on file systems that know no locks, the file itself is the lock: a process
that is killed leaves it behind, and the message says to remove it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from semantoks.errors import InputError

if sys.platform != "win32":
    import fcntl

_UNSUPPORTED: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems without locks answer."""


@contextlib.contextmanager
def hold(file: Path) -> Iterator[None]:
    """Hold a lock while the block runs.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with hold(Path(folder) / "lock"), hold(Path(folder) / "lock"):
    ...         pass
    Traceback (most recent call last):
    semantoks.errors.InputError: another prepare is writing here (it holds ...
    """
    descriptor = None if sys.platform == "win32" else _lock(file)
    if descriptor is None:
        file = file.with_suffix(".held")
        _make_exclusively(file)
    try:
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile sees that it is gone.
        file.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _lock(file: Path) -> int | None:
    """Lock a file and return its descriptor, None if the file system knows no locks."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(descriptor)
            if file.exists() and os.path.samestat(held, file.stat()):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            raise InputError(_explain(file)) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _UNSUPPORTED:
                raise
            file.unlink(missing_ok=True)  # it locks nothing here, whoever made it
            return None
        # The last holder removed the file between opening and locking it.
        os.close(descriptor)


def _make_exclusively(file: Path) -> None:
    """Make the file, which must not be there."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError as error:
        hint = f" If none is running, one was killed: remove {file}."
        raise InputError(_explain(file) + hint) from error


def _explain(file: Path) -> str:
    """Say who is in the way."""
    return (
        f"another prepare is writing here (it holds {file}). Wait until it is done, or give "
        "another place with --out."
    )
