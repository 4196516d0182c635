"""Pictures: nothing global changes, nothing clashes, odd input neither warns nor fails."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from semantoks.interpretation.figures.canvas import render, wrap
from semantoks.interpretation.figures.panels import (
    CATEGORIES,
    Curve,
    _categories,
    draw_bars,
    draw_curves,
    draw_distributions,
    draw_map,
    draw_similarity,
    is_continuous,
)
from semantoks.interpretation.figures.scores import ScoreAxis, draw_scores

CURVE = Curve("rank", "effective rank", "dimensions", "most")
POINTS = np.random.default_rng(0).standard_normal((60, 2))


def texts(figure):
    """Everything that is written in a figure."""
    return [text.get_text() for text in figure.findobj(mpl.text.Text) if text.get_text()]


def test_ids_differ_between_pictures_and_references_stay_whole():
    pages = [render(draw_bars({"a": 3, "b": 1}, "scans"), name, "bars") for name in ("one", "two")]
    ids = [set(re.findall(r'\bid="([^"]+)"', page)) for page in pages]
    assert ids[0]
    assert not ids[0] & ids[1]
    for page, known in zip(pages, ids, strict=True):
        used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', page)
        assert used
        assert {a or b for a, b in used} <= known


def test_picture_is_the_same_twice_and_holds_nothing_of_the_day():
    first, second = (render(draw_bars({"a": 3}, "scans"), "one", "bars") for _ in range(2))
    assert first == second
    assert "<metadata" not in first
    assert "<?xml" not in first


def test_description_and_names_are_escaped():
    page = render(draw_bars({'<b>&"': 3}, "scans"), "one", 'a "quoted" <name>')
    root = ET.fromstring(page)
    assert root.attrib["aria-label"] == 'a "quoted" <name>'
    assert "<b>" not in page


def test_large_picture_becomes_png():
    points = np.random.default_rng(0).standard_normal((2500, 2))
    figure = draw_map(points, {"age": pd.Series(np.arange(2500.0))}, "t-SNE")
    assert render(figure, "map", "map").startswith("<img ")


def test_drawing_leaves_settings_alone_and_never_needs_pyplot():
    before = dict(mpl.rcParams)
    render(draw_bars({"a": 1}, "scans"), "one", "bars")
    assert dict(mpl.rcParams) == before
    code = (
        "import sys, semantoks.interpretation.figures as f;"
        "f.render(f.draw_bars({'a': 1}, 'scans'), 'one', 'bars');"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_sites_are_drawn_together_and_none_is_lost():
    figure = draw_bars({f"site {i}": i + 1 for i in range(60)}, "scans")
    written = texts(figure)
    assert "20 others" in written
    assert str(sum(range(1, 21))) in written


def test_dollars_are_not_formulas():
    assert "C$d$" in texts(draw_bars({"C$d$": 1}, "scans"))
    render(draw_bars({"C$d$": 1, "a_{b": 2, "質量": 3}, "scans"), "one", "bars")


@pytest.mark.parametrize(
    "values",
    [[], [np.nan, np.nan], [2.0, 2.0, 2.0], [1.0, np.nan], list(np.linspace(0, 1, 50)), [0.7]],
)
def test_distributions_of_any_values(values):
    figure = draw_distributions({"motion (mm)": np.array(values, dtype=float)})
    written = " ".join(texts(figure))
    render(figure, "one", "histogram")
    assert ("not known of any scan" in written) == (not np.isfinite(values).any())
    assert ("unknown for 1 of 2 scans" in written) == (len(values) == 2 and values[0] == 1.0)


@pytest.mark.parametrize("n", [0, 1, 2, 29, 31, 5000])
def test_curves_of_any_length(n):
    random = np.random.default_rng(0)
    table = pd.DataFrame({"step": np.arange(n), "rank": random.random(n), "most": np.full(n, 2.0)})
    table.loc[table.index % 2 == 1, "rank"] = np.nan
    figure = draw_curves(table, [CURVE])
    render(figure, "one", "curve")
    assert ("never computed in this run" in texts(figure)) == (n == 0)
    if n == 5000:
        line = figure.axes[0].lines[0]
        assert 100 <= len(line.get_xdata()) <= 120
        assert line.get_ydata().mean() == pytest.approx(table["rank"].mean(), abs=0.001)


def test_curve_of_a_column_that_is_not_there():
    assert "never computed in this run" in texts(draw_curves(pd.DataFrame({"step": [1]}), [CURVE]))


@pytest.mark.parametrize("n", [1, 3, 12, 40])
def test_similarity_of_few_and_many_networks(n):
    matrix = np.full((n, n), 0.5)
    matrix[0, 0] = np.nan
    figure = draw_similarity(matrix, [f"a network with a long name {i}" for i in range(n)])
    render(figure, "one", "heat map")
    assert ("?" in texts(figure)) == (n <= 12)
    assert figure.get_figwidth() <= 9.6


@pytest.mark.parametrize(
    "names",
    [
        ["Vis", "SomMot", "DorsAttn", "Cont", "Default"],
        ["Limbic"] * 9,
        ["Somatomotor network with a very long name"] * 2,
    ],
)
def test_names_of_networks_stay_on_the_picture(names):
    figure = draw_similarity(np.eye(len(names)), names)
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for label in [*axes.get_xticklabels(), *axes.get_yticklabels()]:
        box = label.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0


def test_categories_are_counted_and_rare_ones_joined():
    values = pd.Series([f"site {i}" for i in range(CATEGORIES + 6) for _ in range(2)] + [None])
    groups = _categories(values)
    assert len(groups) == CATEGORIES + 1
    assert [group.label for group in groups if group.rest] == ["7 others (14)", "unknown (1)"]
    assert sorted(np.concatenate([group.rows for group in groups])) == list(range(len(values)))


def test_numbers_of_categories_have_no_decimal_point():
    assert [group.label for group in _categories(pd.Series([1.0, 2.0, 1.0]))] == ["1 (2)", "2 (1)"]


@pytest.mark.parametrize(
    ("values", "continuous"),
    [
        (np.arange(60.0), True),
        (np.where(np.arange(60) < 20, np.nan, np.arange(60.0)), True),
        (np.arange(60) % 2 == 0, False),
        (np.array(["a long name of a diagnosis that goes on and on"] * 30 + [None] * 30), False),
        (np.full(60, np.nan), False),
        ([f"site {i % 33}" for i in range(60)], False),
    ],
)
def test_map_by_any_phenotype(values, continuous):
    column = pd.Series(values)
    assert is_continuous(column) == continuous
    figure = draw_map(POINTS, {"a phenotype": column, "site": pd.Series(["a"] * 60)}, "t-SNE")
    render(figure, "one", "map")
    assert "coloured by a phenotype" in texts(figure)


def test_legend_of_a_map_stays_on_the_picture():
    sites = pd.Series([f"a rather long name of site {i % 24}" for i in range(60)])
    figure = draw_map(POINTS, {"site": sites}, "PCA")
    figure.draw_without_rendering()
    box = figure.axes[0].get_legend().get_window_extent()
    assert box.y0 >= 0
    assert box.y1 < figure.axes[0].get_window_extent().y0
    assert 0 <= box.x0 < box.x1 <= figure.bbox.x1


def test_scores_without_intervals_and_with_unknown_values():
    rows = pd.DataFrame(
        {
            "method": ["features", "connectivity", "a very long name of a method " * 3],
            "value": [0.5, 0.6, np.nan],
            "low": [0.4, np.nan, np.nan],
            "high": [0.6, np.nan, np.nan],
        }
    )
    panels = [
        ScoreAxis("by subject", "auc", rows, 0.6, np.nan),
        ScoreAxis("by subject", "mae", rows[:1], np.nan, np.nan),
        ScoreAxis("by site", "auc", rows[:2], 0.6, 0.5),
    ]
    figure = draw_scores(panels)
    render(figure, "one", "scores")
    written = texts(figure)
    assert written.count("0.60") >= 2
    assert "nan" not in " ".join(written)


def test_long_names_end_in_an_ellipsis():
    assert wrap("one two three four five six", 8, 2) == "one two\nthree …"
    assert wrap("", 8, 2) == " "
