"""Numbers in text files: read fast, and when they cannot be read, said where and why."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from semantoks.errors import InputError

MISSING: Final = ("n/a", "N/A", "NA", "nan", "NaN", "NAN", "-nan", "-NaN")
"""What producers write for a value that is not there."""

_MAX_COMMENTS: Final = 50
_NAMES: Final = {"\t": "tab", ",": "comma"}


class TextTable(NamedTuple):
    """The content of a text file of numbers."""

    header: tuple[str, ...]
    values: Float[NDArray[np.float64], "column row"]


class _Layout(NamedTuple):
    """How a text file is written: its lines before the data, and what stands between columns."""

    header: tuple[str, ...]
    n_skipped: int
    delimiter: str
    n_columns: int


def read_text_table(path: Path, *, empty_cells: bool = False) -> TextTable:
    """Read a text file of numbers with tabs, commas or blanks between its columns.

    The header is the last of the leading lines that start with ``#``, or a first line in which
    something is not a number, or a first line that numbers the columns (0, 1, 2, ...).
    """
    content = _read_bytes(path)
    layout, content = _lay_out(path, content, empty_cells)
    values = _parse(content, layout, empty_cells)
    if values is None:
        raise InputError(_diagnose(path, content, layout, empty_cells))
    if values.shape[1] == 0:
        raise InputError(_explain_no_data(path))
    return TextTable(layout.header, values)


def _read_bytes(path: Path) -> bytes:
    """Read the file with newlines only, without byte order mark or blanks at line ends."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    content = content.removeprefix(b"\xef\xbb\xbf")
    if not content.strip():
        raise InputError(
            f"{path} is empty: a line a volume was expected. Download or export this scan again."
        )
    if b"\x00" in content:
        raise InputError(
            f"{path} is not a text file (it holds zero bytes), but numbers as UTF-8 text were "
            "expected. Export this scan again as plain text."
        )
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _lay_out(path: Path, content: bytes, empty_cells: bool) -> tuple[_Layout, bytes]:
    """Find header and delimiter, and bring the content into that layout."""
    delimiter = _find_delimiter(path, content)
    if delimiter == " ":
        delimiter = "\t"
        content = re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+$", b"", content))
    elif delimiter == "\t" and not empty_cells:
        # AFNI ends its lines with a tab.
        content = re.sub(rb"\t+\n", b"\n", content) if b"\t\n" in content else content
    lines = content.split(b"\n", _MAX_COMMENTS)[:_MAX_COMMENTS]
    n_comments = next((i for i, line in enumerate(lines) if not line.startswith(b"#")), len(lines))
    names = [line.decode("utf-8", "replace") for line in lines[:n_comments] if line.strip(b"# \t")]
    first = _cells(lines[n_comments], delimiter) if n_comments < len(lines) else []
    if names:
        header = tuple(name.strip('# "') for name in names[-1].lstrip("# \t").split(delimiter))
        return _Layout(header, n_comments, delimiter, len(first) or len(header)), content
    header = tuple(first) if _is_header(first) else ()
    return _Layout(header, n_comments + bool(header), delimiter, len(first)), content


def _find_delimiter(path: Path, content: bytes) -> str:
    """Look at the first line of data for what stands between its columns."""
    lines = [line for line in content.split(b"\n", _MAX_COMMENTS)[:_MAX_COMMENTS] if line.strip()]
    sample = next((line for line in lines if not line.startswith(b"#")), lines[-1])
    for delimiter in ("\t", ",", " "):
        if delimiter.encode() in sample.strip():
            if b";" in sample:
                break
            return delimiter
    if b";" not in sample:
        return "\t"
    raise InputError(
        f"{path} has semicolons between its columns; commas (.csv) or tabs (.tsv, .1D) were "
        "expected. Export it again with commas, and with points as decimal marks."
    )


def _cells(line: bytes, delimiter: str) -> list[str]:
    """Split one line, quotes removed."""
    text = line.decode("utf-8", "replace").strip("\n")
    return [cell.strip() for cell in next(csv.reader([text], delimiter=delimiter), [])]


def _is_header(cells: list[str]) -> bool:
    """Say whether a first line names or numbers the columns instead of being data.

    A single word among numbers is a fault in the data and not a header.
    """
    words = [x for x in cells if x and x not in MISSING and not _is_number(x)]
    if len(words) > max(1, len(cells) // 10) or (words and len(cells) == 1):
        return True
    numbers = [str(i) for i in range(len(cells) + 1)]
    return len(cells) > 1 and cells in (numbers[:-1], numbers[1:], ["", *numbers[:-2]])


def _is_number(cell: str) -> bool:
    """Say whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _parse(content: bytes, layout: _Layout, empty_cells: bool) -> NDArray[np.float64] | None:
    """Read all numbers at once; None if something in the file is wrong."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    names = [str(i) for i in range(layout.n_columns)]
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(content),
            read_options=arrow_csv.ReadOptions(
                skip_rows=layout.n_skipped, column_names=names, use_threads=False
            ),
            parse_options=arrow_csv.ParseOptions(delimiter=layout.delimiter),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.float64()),
                null_values=[*MISSING, ""] if empty_cells else list(MISSING),
            ),
        )
    except pa.ArrowInvalid as error:
        # A header without data is no fault of a line; everything else is looked for line by line.
        return np.empty((len(names), 0)) if "Empty CSV" in str(error) else None
    return np.stack([column.to_numpy() for column in table.columns])


def _diagnose(path: Path, content: bytes, layout: _Layout, empty_cells: bool) -> str:
    """Find the first line and column at fault; lines and columns count from 1."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines[layout.n_skipped :], start=layout.n_skipped + 1):
        if not line.strip():
            continue
        cells = _cells(line, layout.delimiter)
        for column, cell in enumerate(cells, start=1):
            if _is_number(cell) or cell in MISSING or (empty_cells and not cell):
                continue
            what = f"the text {cell!r}" if cell else "nothing"
            name = _name_of(column, layout)
            return (
                f"{path}, line {number}, column {column}{name}: a number was expected, but {what} "
                "stands there. Correct the file or export this scan again; if it is no scan, move "
                "it out of the folder."
            )
        if len(cells) != layout.n_columns:
            return (
                f"{path}, line {number}: {layout.n_columns} columns were expected as in the first "
                f"line of data, but there are {len(cells)} ({_NAMES[layout.delimiter]}-separated). "
                "The file may be cut off; download or export this scan again."
            )
    if not any(line.strip() for line in lines[layout.n_skipped :]):
        return _explain_no_data(path)
    return f"{path} cannot be read as a table of numbers; export this scan again as plain text."


def _explain_no_data(path: Path) -> str:
    """Say that a file ends after its header."""
    return (
        f"{path} has a header but no data: a line a volume was expected. Export this scan again, "
        "or remove the file."
    )


def _name_of(column: int, layout: _Layout) -> str:
    """Return the name of a column in brackets, if it has one."""
    if len(layout.header) != layout.n_columns or column > layout.n_columns:
        return ""
    return f" ({layout.header[column - 1]})"
