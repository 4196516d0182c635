"""Malformed arrays, text files and tables: a clear message each, nothing left, good scans kept."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from semantoks.cli.application import run
from semantoks.data.atlas import Atlas
from semantoks.data.readers import find_scans
from semantoks.errors import InputError

LABELS = [f"r{i}" for i in range(6)]


def noise(seed: int, shape: tuple[int, ...] = (6, 120)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).round(4)


def write_cohort(home: Path) -> Path:
    """Write an atlas and two good scans."""
    rows = [f"{label}\t{'Vis' if i < 3 else 'Default'}\n" for i, label in enumerate(LABELS)]
    (home / "atlas.tsv").write_text("".join(["label\tnetwork\n", *rows]))
    folder = home / "scans"
    folder.mkdir()
    for i in (1, 2):
        np.save(folder / f"sub-0{i}.npy", noise(i))
    return folder


def words(home: Path, *more: object, t_r: object = 2) -> list[object]:
    given = [] if t_r is None else ["--t-r", t_r]
    return [home / "scans", "--atlas", home / "atlas.tsv", *given, *more]


def scan(write: Callable[[Path], object]) -> Callable[[Path], list[object]]:
    """Arrange two good scans, and a third that `write` writes, given its path without suffix."""

    def arrange(home: Path) -> list[object]:
        write(write_cohort(home) / "sub-03")
        return words(home)

    return arrange


def npy(values: object, *, keep: float = 1.0, pickled: bool = False) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        stream = io.BytesIO()
        np.save(stream, np.asarray(values), allow_pickle=pickled)
        content = stream.getvalue()
        path.with_suffix(".npy").write_bytes(content[: int(len(content) * keep)])

    return write


def npz(path: Path) -> None:
    np.savez(path, a=noise(3), b=noise(4))
    path.with_suffix(".npz").rename(path.with_suffix(".npy"))


def text(content: str | bytes, suffix: str = ".csv") -> Callable[[Path], object]:
    raw = content.encode() if isinstance(content, str) else content
    return lambda path: path.with_suffix(suffix).write_bytes(raw)


def table(header: list[str] = LABELS, edit: tuple[str, str] | None = None, sep: str = ",") -> str:
    lines = [sep.join(header)] + [sep.join(map(str, row)) for row in noise(3, (120, len(header)))]
    if edit:
        lines[4] = lines[4].replace(*edit) if edit[0] else edit[1]
    return "\n".join(lines) + "\n"


def sidecar(content: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        np.save(path.with_suffix(".npy"), noise(3))
        path.with_suffix(".json").write_text(content)

    return write


ATLAS_ROWS = "".join(f"r{i}\tVis\n" for i in range(6))
HEAD = "label\tnetwork\n"


def scans_table(
    content: str | bytes | None, *more: object, name: str = "people.csv", t_r: object = None
) -> Callable[[Path], list[object]]:
    """Arrange two good scans and a table of them."""

    def arrange(home: Path) -> list[object]:
        write_cohort(home)
        if content is not None:
            raw = content.encode() if isinstance(content, str) else content
            (home / name).write_bytes(raw)
        return words(home, "--table", home / name, *more, t_r=t_r)

    return arrange


def atlas_table(content: str | bytes, name: str = "mine.tsv") -> Callable[[Path], list[object]]:
    """Arrange two good scans and a table of an atlas."""

    def arrange(home: Path) -> list[object]:
        write_cohort(home)
        (home / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return [home / "scans", "--atlas", home / name, "--t-r", 2]

    return arrange


def options(*more: object, t_r: object = 2, atlas: str = "") -> Callable[[Path], list[object]]:
    """Arrange two good scans and an impossible command line."""

    def arrange(home: Path) -> list[object]:
        write_cohort(home)
        given_words = words(home, *more, t_r=t_r)
        return [given_words[0], "--atlas", atlas or given_words[2], *given_words[3:]]

    return arrange


def source(write: Callable[[Path], object], name: str = "scans") -> Callable[[Path], list[object]]:
    """Arrange something that holds no recordings."""

    def arrange(home: Path) -> list[object]:
        write(home / name)
        return [home / name, "--atlas", "cc200", "--t-r", 2]

    return arrange


def twice(home: Path) -> list[object]:
    """Arrange two files of one scan."""
    (write_cohort(home) / "sub-01.csv").write_text(table())
    return words(home)


NPY, CSV, AGAIN = r"sub-03\.npy", r"sub-03\.csv", r"(?i)(save|export) this scan (again|as)"

SCANS = [
    ("npy cut", npy(noise(3), keep=0.5), NPY, "a .npy file of numbers: Failed to", AGAIN),
    ("npy cut in its header", npy(noise(3), keep=0.005), NPY, "a .npy file of numbers", AGAIN),
    ("npy of nothing", text("", ".npy"), NPY, "No data left", AGAIN),
    ("npy of text", text("1,2,3", ".npy"), NPY, "a .npy file of numbers", AGAIN),
    ("npy of objects", npy([{"a": 1}], pickled=True), NPY, "a .npy file of numbers", AGAIN),
    ("npy of complex", npy(noise(3) * 1j), NPY, "complex128; real numbers were", AGAIN),
    ("npy of words", npy([["a", "b"]]), NPY, "type <U1; real numbers were", AGAIN),
    ("npy of three axes", npy(noise(3, (2, 6, 120))), NPY, r"\(roi, time\) or", "Give the atlas"),
    ("npy of other ROIs", npy(noise(3, (7, 120))), NPY, "one axis of 6 was exp", "Give the atlas"),
    ("npy of a square", npy(noise(3, (6, 6))), NPY, "either axis may be time", AGAIN),
    ("npz as npy", npz, NPY, "a single array was expected", AGAIN),
    ("csv of a word", text(table(edit=("-", "x-"))), CSV + ", line 5", "a number was", "Correct"),
    ("csv of a short line", text(table(edit=("", "1,2"))), CSV + ", line 5", "6 columns", AGAIN),
    ("csv of nothing", text(""), CSV, "a line a volume was expected", AGAIN),
    ("csv of a header", text(",".join(LABELS)), CSV, "a line a volume was expected", AGAIN),
    ("csv of a ROI twice", text(table([*LABELS[:5], "r0"])), CSV, "a column a ROI was", "Remove"),
    ("csv of a ROI too many", text(table([*LABELS[:5], "CSF"])), CSV, "'CSF'", "Drop columns"),
    ("csv of another atlas", text(table(list("uvwxyz"))), CSV, "6 of 6 columns are no ROI", "give"),
    ("csv of pandas", text(table(["", *"012345"])), CSV, "6 were expected", "index=False"),
    ("csv of bytes", text(bytes(range(256)) * 8), CSV, "UTF-8 text were expected", AGAIN),
    ("csv of UTF-16", text(table().encode("utf-16")), CSV, "UTF-8 text were expected", AGAIN),
    ("csv of semicolons", text(table(sep=";")), CSV, "commas .* were expected", "Export it again"),
    (
        "tsv of decimal commas",
        text(table(sep="\t").replace(".", ","), ".tsv"),
        r"sub-03\.tsv, line 2, column 1 \(r0\)",
        "a number was expected",
        "Correct the file",
    ),
    ("csv of html", text("<html>404</html>\n"), CSV, "a line a volume was expected", AGAIN),
    ("json cut", sidecar('{"RepetitionTime": 2'), r"sub-03\.json", "as JSON", "Correct it"),
    ("json of ms", sidecar('{"RepetitionTime": 2000}'), r"sub-03\.json", "of seconds", "give 2"),
    ("json of a word", sidecar('{"RepetitionTime": "2 s"}'), r"sub-03\.json", "of sec", "Correct"),
    ("json of no time", sidecar('{"RepetitionTime": -1}'), r"sub-03\.json", "positive", "Correct"),
]
"""Two scans are good and one is not: a name, how it is written, and what must be said."""

PEOPLE, TABLE = r"people\.csv", "scan_id,tr\nsub-01,2\nsub-02,"
COHORTS = [
    ("table not there", scans_table(None), PEOPLE, "does not exist", "Check its name"),
    ("table of nothing", scans_table(""), PEOPLE, "a row a scan, with commas", "Save it again"),
    ("table of bytes", scans_table(bytes(range(256))), PEOPLE, "was expected", "as UTF-8 text"),
    ("table of Excel", scans_table("PK", name="a.xlsx"), r"a\.xlsx", "was expected", "Save it as"),
    ("table without ids", scans_table("x,age\na,3\n"), PEOPLE, "one of file_id,", "--id-column"),
    (
        "table of one id twice",
        scans_table(f"{TABLE}2\nsub-02,2"),
        "sub-02",
        "one row",
        "Keep a row",
    ),
    ("table of ms", scans_table(f"{TABLE}2000"), "'tr' of table .*'sub-02'", "seconds", "give 2"),
    (
        "table of a word",
        scans_table(f"{TABLE}two"),
        "'tr' of table .*'sub-02'",
        "sec",
        "Correct it",
    ),
    (
        "table of two times",
        scans_table("scan_id,tr,t_r\nsub-01,2,2"),
        PEOPLE,
        "several",
        "Name the",
    ),
    (
        "table of no time",
        scans_table("scan_id,x\nsub-01,2\nsub-02,1"),
        PEOPLE,
        "such as tr",
        "--t-r",
    ),
    (
        "table of long rows",
        scans_table("scan_id,tr\na,2,3\nb,2,3"),
        PEOPLE,
        "more cells",
        "Name ev",
    ),
    (
        "table of odd motion",
        scans_table("scan_id,tr,mean_fd\nsub-01,2,-1\nsub-02,2,0.1"),
        "'mean_fd' of table .*'sub-01'",
        "a number of mm",
        "--motion-column",
    ),
    ("table and --t-r", scans_table(f"{TABLE}3", t_r=2), "'sub-02' has 3 s", "is 2 s", "Leave out"),
    (
        "no such column",
        scans_table(f"{TABLE}2", "--id-column", "scan"),
        PEOPLE,
        "scan_id",
        "Did you",
    ),
    ("no time at all", options(t_r=None), "'sub-01'", "never guessed", "--t-r"),
    ("time of nothing", options(t_r=0), "t_r", "a positive number of seconds", "Correct it"),
    ("time of ms", options(t_r=2000), "t_r", "a positive number of seconds", "give 2"),
    ("time above the band", options(t_r=20), "sub-01", "Nyquist frequency", "Lower the edge"),
    ("atlas of a typo", options(atlas="cc-200"), "'cc-200'", "Built in are", "Did you mean"),
    ("atlas not there", options(atlas="x.tsv"), r"x\.tsv", "does not exist", "Check its name"),
    (
        "atlas without networks",
        atlas_table("label\nr0\n"),
        "'mine'",
        "column.* network",
        "Add them",
    ),
    ("atlas of commas", atlas_table("label,network\n"), "'mine'", "lacks .* label", "by tabs"),
    (
        "atlas of an empty cell",
        atlas_table(HEAD + ATLAS_ROWS.replace("r4\tVis", "r4\t")),
        "'r4'",
        "without a network",
        "Name a network",
    ),
    (
        "atlas of a ROI twice",
        atlas_table(HEAD + ATLAS_ROWS * 2),
        "r0",
        "more than once",
        "Give every",
    ),
    (
        "atlas of nothing",
        atlas_table(""),
        r"mine\.tsv",
        "a header and one row a ROI",
        "must be UTF",
    ),
    ("atlas of a header", atlas_table(HEAD), "'mine'", "a row a ROI", "Export the table again"),
    ("atlas of bytes", atlas_table(bytes(range(256))), r"mine\.tsv", "UTF-8", "must be"),
    ("atlas of JSON", atlas_table("{}", "mine.json"), r"mine\.json", "a .tsv or .csv", "Built in"),
    (
        "atlas of odd places",
        atlas_table("label\tnetwork\tx\ty\tz\nr0\tVis\tleft\t1\t2\n"),
        "column x",
        "must hold numbers",
        "Correct it",
    ),
    (
        "atlas of odd values",
        atlas_table("label\tnetwork\tvalue\nr0\tVis\t1.5\n"),
        "column value",
        "no whole numbers",
        "Give every ROI the integer",
    ),
    ("source not there", source(lambda path: None), "scans", "does not exist", "give the file"),
    ("source of nothing", source(Path.mkdir), "scans is an empty", "Expected was", "Give the file"),
    (
        "source of a letter",
        source(Path.touch, "a.docx"),
        r"a\.docx",
        "Expected was",
        "Give the file",
    ),
    ("one scan twice", twice, "'sub-01'", "identity of its scan", "rename or remove"),
    ("no scan long enough", options("--min-samples", 900), "sub-01", "at least 900", "Check atlas"),
]
"""The fault is that of all scans: how it is arranged, and what must be said."""

OPTIONS = [
    ("format", options("--format", "nifti"), "--format", "Choose from", "pcp"),
    ("coverage", options("--min-coverage", 2), "min_coverage", "between 0 and 1", "a share"),
    ("network", options("--min-network-coverage", -1), "min_network_cov", "0 and 1", "a share"),
    ("band", options("--high-pass", 0.2), "high_pass", "below low_pass", "must be"),
    ("before", options("--filtered-before", 0.2, 0.1), "filtered_before", "below", "must be"),
    (
        "both bands",
        options("--filtered-before", 0.01, 0.1, "--high-pass", 0.01),
        "--filtered-before",
        "applies no band-pass",
        "leave --high-pass",
    ),
    ("no band", options("--no-filter", "--low-pass", 0.1), "--no-filter", "no band", "leave"),
    ("target", options("--target-t-r", 0), "target_t_r", "positive number", "must be"),
    ("samples", options("--min-samples", 1), "min_samples", "at least 2", "a scan has"),
    ("columns", options("--id-column", "a"), "columns", "no table", "give --table"),
    ("denoise", options("--denoise", "simpel"), "--denoise", "Choose from", "Did you mean"),
    ("share", options("--max-scrubbed", 5), "--max-scrubbed", "Must be <= 1", "Try"),
]
"""Impossible command lines, which exit with 2."""


@pytest.mark.parametrize(
    ("name", "write", "names", "expected", "remedy"), SCANS, ids=[case[0] for case in SCANS]
)
def test_one_scan_is_malformed(
    check_malformed: Any, name: str, write: Any, names: str, expected: str, remedy: str
) -> None:
    check_malformed(scan(write), names, expected, remedy, kept=2)


@pytest.mark.parametrize(
    ("name", "arrange", "names", "expected", "remedy"), COHORTS, ids=[case[0] for case in COHORTS]
)
def test_a_cohort_is_malformed(
    check_malformed: Any, name: str, arrange: Any, names: str, expected: str, remedy: str
) -> None:
    check_malformed(arrange, names, expected, remedy)


@pytest.mark.parametrize(
    ("name", "arrange", "names", "expected", "remedy"), OPTIONS, ids=[case[0] for case in OPTIONS]
)
def test_a_command_line_is_malformed(
    check_malformed: Any, name: str, arrange: Any, names: str, expected: str, remedy: str
) -> None:
    check_malformed(arrange, names, expected, remedy, code=2)


@pytest.mark.parametrize(
    ("content", "kept", "names"),
    [("scan_id,tr\nsub-01,2\n", 1, "people.csv"), (f"{TABLE}\n", 1, "'tr' of table .*people.csv")],
    ids=["no row", "no time"],
)
def test_rows_that_are_missing(check_malformed: Any, content: str, kept: int, names: str) -> None:
    check_malformed(scans_table(content), names, "sub-02", "--keep-going|--t-r", kept=kept)


DAMAGED = {
    "people.csv": f"{TABLE}2\n",
    "atlas.tsv": None,
    "scans/sub-02.json": '{"RepetitionTime": 2.0, "Manufacturer": "Siemens"}',
}
ANY_DAMAGE = settings(
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def damage(content: bytes, data: st.DataObject) -> bytes:
    """Replace a part of a file by something else."""
    start = data.draw(st.integers(0, len(content)))
    stop = data.draw(st.integers(start, min(len(content), start + 500)))
    odd = [b"\n", b"\r", b'"', b"\t", b"nan", b"1e999", b",", b"("]
    return (
        content[:start] + data.draw(st.binary(max_size=30) | st.sampled_from(odd)) + content[stop:]
    )


@pytest.mark.parametrize("name", DAMAGED)
@settings(ANY_DAMAGE, max_examples=8)
@given(data=st.data())
def test_any_damage_of_a_table_is_explained_or_harmless(
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    name: str,
    data: st.DataObject,
) -> None:
    home = tmp_path_factory.mktemp("home")
    write_cohort(home)
    file = home / name
    if DAMAGED[name] is not None:
        file.write_text(str(DAMAGED[name]))
    file.write_bytes(damage(file.read_bytes(), data))
    more = ["--table", home / "people.csv"] if name == "people.csv" else []
    fixed = ["--out", home / "made/store", "--workers", 1, "--no-quality-page", "--quiet"]
    code = run([str(word) for word in ("prepare", *words(home, *more), *fixed)])
    message = capsys.readouterr().err.strip()
    made = sorted(path.name for path in (home / "made").glob("*"))
    if code == 0:
        assert made == ["store"]
    else:
        assert (code, made) == (1, [])
        assert re.match(r"error: \S.{40,}", message)
        assert "\n" not in message


@pytest.mark.filterwarnings("ignore:Reading")  # of headers that numpy mends
@pytest.mark.parametrize("write", [npy(noise(3)), text(table()), text(table(sep="\t"), ".tsv")])
@settings(ANY_DAMAGE, max_examples=40)
@given(data=st.data())
def test_any_damage_of_a_scan_is_explained_or_harmless(
    tmp_path: Path, write: Callable[[Path], object], data: st.DataObject
) -> None:
    (tmp_path / "scans").mkdir(exist_ok=True)
    write(tmp_path / "scans" / "sub-03")
    (file,) = (tmp_path / "scans").iterdir()
    file.write_bytes(damage(file.read_bytes(), data))
    atlas = Atlas.from_table(pd.DataFrame({"label": LABELS, "network": "Vis"}), name="six")
    (found,) = find_scans(tmp_path / "scans", atlas).scans
    message = f"{file.name}: " + 40 * "-"
    try:
        assert found.load().shape[0] == 6
    except InputError as error:
        message = str(error).removeprefix(str(file.parent))
    assert file.name.removesuffix(file.suffix) in message
    assert len(message) > 50
