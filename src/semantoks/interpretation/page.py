"""What a page is made of, and how it becomes html."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import ClassVar

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Words:
    """A paragraph.

    Parameters
    ----------
    text : str
        Plain text.
    """

    text: str
    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class Picture:
    """A picture with a caption that says how to read it.

    Parameters
    ----------
    content : str
        An svg or img element, as `figures.render` returns it; the one thing that is not escaped.
    caption : str
        How to read it, in plain sentences.
    """

    content: str
    caption: str
    kind: ClassVar[str] = "picture"

    @property
    def element(self) -> Markup:
        """The element, marked as html."""
        return Markup(self.content)  # noqa: S704 - drawn by figures, which escapes names


@dataclass(frozen=True)
class Table:
    """A table.

    Parameters
    ----------
    headings : sequence of str
        One a column.
    rows : sequence of sequences of str
        The cells; columns of numbers stand to the right.
    caption : str
        What the table says.
    folded : bool
        Whether only the caption is seen at first.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str
    folded: bool = False
    kind: ClassVar[str] = "table"

    @property
    def numeric(self) -> list[bool]:
        """Whether each column holds nothing but numbers, intervals and dashes."""
        columns = zip(*self.rows, strict=True)
        found = [not any(c.isalpha() for cell in column for c in cell) for column in columns]
        return found or [False] * len(self.headings)


@dataclass(frozen=True)
class Findings:
    """A list of sentences, each coloured by its verdict.

    Parameters
    ----------
    items : sequence of (str, str, str)
        What counts, the numbers behind it, and "above", "below" or "open" for its colour.
    """

    items: Sequence[tuple[str, str, str]]
    kind: ClassVar[str] = "findings"


@dataclass(frozen=True)
class Listing:
    """A text whose lines stay as they are: a file or commands.

    Parameters
    ----------
    text : str
        The lines.
    caption : str
        What it is.
    folded : bool
        Whether only the caption is seen at first.
    """

    text: str
    caption: str
    folded: bool = True
    kind: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Absent:
    """What stands where there is nothing to show yet.

    Parameters
    ----------
    reason : str
        What is not there, and why.
    command : str
        The command that makes it.
    """

    reason: str
    command: str
    kind: ClassVar[str] = "absent"


Block = Words | Picture | Table | Findings | Listing | Absent


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own.

    Parameters
    ----------
    key : str
        Letters that stand for it in links.
    title : str
        Its heading.
    blocks : sequence of Block
        What it holds, from top to bottom.
    """

    key: str
    title: str
    blocks: Sequence[Block]


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Turn sections into one html page that needs nothing from outside.

    Parameters
    ----------
    title, subtitle : str
        What stands on top.
    sections : sequence of Section
        The page, from top to bottom.

    Returns
    -------
    str
        The html.

    Examples
    --------
    >>> page = render_page("A & B", "", [Section("one", "One", [Words("1 < 2")])])
    >>> "<h1>A &amp; B</h1>" in page, "1 &lt; 2" in page
    (True, True)
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = resources.files("semantoks.interpretation") / "report.html.jinja"
    return environment.from_string(template.read_text(encoding="utf-8")).render(
        title=title, subtitle=subtitle, sections=sections
    )
