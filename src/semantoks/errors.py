"""What users are told when something that they gave cannot be used."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """A file, a table or an argument cannot be used; the message says what to do.

    The command line prints the message as one paragraph and exits with 1.
    """


class ConfigurationError(InputError):
    """An option or a configuration key is unknown or has an impossible value.

    The command line prints the message as one paragraph and exits with 2.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """Say which known word was probably meant.

    Examples
    --------
    >>> nearest("epoch", ["epochs", "batch_size"])
    " Did you mean 'epochs'?"
    """
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
