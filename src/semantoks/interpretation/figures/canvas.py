"""How every picture looks, and how one becomes text inside an html page."""

from __future__ import annotations

import base64
import html
import io
import math
import re
import textwrap
import warnings
from typing import Any, Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH: Final = 9.6
"""Width of every picture in inches; at 960 pixels a page, 9 points are 12 pixels."""
SVG_LIMIT: Final = 300_000
"""Characters above which a picture is stored as PNG, because a browser draws that faster."""
PALETTE: Final = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000", "#882255",
)  # fmt: skip
"""Okabe and Ito's colours, which people with any colour vision tell apart; wine, of Tol's muted
ones, stands for their yellow, which is hardly seen on white."""
BLUE: Final = PALETTE[0]
ORANGE: Final = PALETTE[1]
GREY: Final = "#8A8A8A"
STYLE: Final[dict[Any, Any]] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.labelsize": 9,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "text.color": "#222222",
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "axes.grid": False,
    "grid.color": "#E3E3E3",
    "axes.axisbelow": True,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 4),
    "text.parse_math": False,  # a site may be called "a$b$"
    "text.usetex": False,
    "axes.unicode_minus": True,
    "svg.fonttype": "path",  # the page looks the same where DejaVu is not installed
    "svg.image_inline": True,
}
styled: Final = mpl.rc_context(STYLE)


def render(figure: Figure, name: str, description: str) -> str:
    """Turn a figure into text that stands inside an html page.

    Examples
    --------
    >>> render(Figure(figsize=(4.8, 1)), "empty", "Nothing")[:60]
    '<svg style="max-width: 50%" role="img" aria-label="Nothing" '
    """
    label = html.escape(description, quote=True)
    # a narrow picture keeps its size, so that letters are as large as in a wide one
    style = f'style="max-width: {100 * figure.get_figwidth() / WIDTH:.4g}%"'
    buffer = io.BytesIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # names in scripts that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        if buffer.tell() > SVG_LIMIT:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=170)
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            return f'<img {style} alt="{label}" src="data:image/png;base64,{data}">'
    text = buffer.getvalue().decode("utf-8")
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg", f'<svg {style} role="img" aria-label="{label}"', 1)


def small_multiples(n: int, n_columns: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of the page's width with axes in rows."""
    n_rows = math.ceil(n / n_columns)
    figure = Figure(figsize=(WIDTH, height * n_rows))
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.06)
    return figure, [figure.add_subplot(n_rows, n_columns, k + 1) for k in range(n)]


def say(axes: Axes, words: str) -> None:
    """Write into an empty picture why it is empty."""
    axes.text(0.5, 0.5, words, ha="center", va="center", transform=axes.transAxes, color="#555555")
    axes.set(xticks=[], yticks=[])


def wrap(text: str, width: int, lines: int) -> str:
    r"""Break a long name into lines.

    Examples
    --------
    >>> wrap("functional connectivity of networks", 16, 2)
    'functional\nconnectivity …'
    """
    return "\n".join(textwrap.wrap(text, width, max_lines=lines, placeholder=" …")) or " "
