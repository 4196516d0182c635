"""Files and folders that are either whole or not there, locks, and YAML of users."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from semantoks.errors import InputError

fcntl: Any = None  # Windows: what a killed process left is not swept there
with contextlib.suppress(ImportError):
    import fcntl


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file beside its place and move it there once it is whole.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "a.txt"
    >>> with replacing(path) as beside:
    ...     _ = beside.write_text("whole")
    >>> path.read_text()
    'whole'
    """
    beside = _beside(path)
    beside.touch()
    with _held(beside):
        try:
            yield beside
            flush(beside)
            beside.replace(path)
            flush(path.parent)
        finally:
            beside.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside its place and move it there once it is whole."""
    if path.exists():
        raise FileExistsError(f"{path} exists")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    beside.mkdir()
    with _held(beside):
        try:
            yield beside
            for written in (*beside.rglob("*"), beside):
                flush(written)
            beside.rename(path)
            flush(path.parent)
        finally:
            shutil.rmtree(beside, ignore_errors=True)


def flush(path: Path) -> None:
    """Send a file, or the entries of a folder, to the disk, so that a loss of power keeps them."""
    if os.name == "nt" and path.is_dir():  # folders cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_yaml(text: str) -> Any:
    """Parse YAML; aliases that unfold to more than a person writes are a ValueError."""
    content = yaml.safe_load(text)
    waiting, left = [content], 100_000
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        left -= 1
        if left < 0:
            raise ValueError("its aliases (*) unfold to over 100,000 values; write them out.")
    return content


def _beside(path: Path) -> Path:
    """Name a new partial file, and remove those whose process is gone."""
    start = f".{path.name}.~"
    # A process number would not do: in containers every start has the same one.
    for left in path.parent.glob("*.partial"):
        if left.name.startswith(start) and not _is_held(left):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(True)
    return path.with_name(f"{start}{secrets.token_hex(4)}.partial")


@contextlib.contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a lock that ends with this process, however it ends."""
    descriptor = os.open(path, os.O_RDONLY) if fcntl else None
    try:
        if descriptor is not None:
            with contextlib.suppress(OSError):  # file systems without locks: nothing is swept
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _is_held(path: Path) -> bool:
    """Tell whether a process still writes a partial file, or may do so."""
    if fcntl is None:
        return True
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


# Where the system has ``flock`` (Linux, macOS), the lock goes with the process that holds it,
# however it ends. Elsewhere, and on file systems that know no locks, the file itself is the lock: a
# process that is killed leaves it behind, and the message says to remove it.

_UNSUPPORTED: Final = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What file systems without locks answer."""


@contextlib.contextmanager
def hold(file: Path, who: str = "prepare") -> Iterator[None]:
    """Hold a lock while the block runs; `who` holds it, for the message to the other one.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with hold(Path(folder) / "lock"), hold(Path(folder) / "lock"):
    ...         pass
    Traceback (most recent call last):
    semantoks.errors.InputError: another prepare is writing here (it holds ...
    """
    descriptor = _lock(file, who) if fcntl else None
    if descriptor is None:
        file = file.with_suffix(".held")
        _make_exclusively(file, who)
    try:
        yield
    finally:
        # Removed while it is held: whoever opened it meanwhile sees that it is gone.
        file.unlink(missing_ok=True)
        if descriptor is not None:
            os.close(descriptor)


def _lock(file: Path, who: str) -> int | None:
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
            raise InputError(_explain(file, who)) from None
        except OSError as error:
            os.close(descriptor)
            if error.errno not in _UNSUPPORTED:
                raise
            file.unlink(missing_ok=True)  # it locks nothing here, whoever made it
            return None
        # The last holder removed the file between opening and locking it.
        os.close(descriptor)


def _make_exclusively(file: Path, who: str) -> None:
    """Make the file, which must not be there."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError as error:
        hint = f" If none is running, one was killed: remove {file}."
        raise InputError(_explain(file, who) + hint) from error


def _explain(file: Path, who: str) -> str:
    """Say who is in the way."""
    return (
        f"another {who} is writing here (it holds {file}). Wait until it is done, or give "
        "another place with --out."
    )
