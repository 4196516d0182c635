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
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "words"


@dataclass(frozen=True)
class Picture:
    """A picture with a caption that says how to read it."""

    content: str
    caption: str
    kind: ClassVar[str] = "picture"

    @property
    def element(self) -> Markup:
        """The element, marked as html."""
        return Markup(self.content)  # noqa: S704 - drawn by figures, which escapes names


@dataclass(frozen=True)
class Table:
    """A table."""

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
    """A list of sentences, each coloured by its verdict."""

    items: Sequence[tuple[str, str, str]]
    kind: ClassVar[str] = "findings"


@dataclass(frozen=True)
class Listing:
    """A text whose lines stay as they are: a file or commands."""

    text: str
    caption: str
    folded: bool = True
    kind: ClassVar[str] = "listing"


@dataclass(frozen=True)
class Absent:
    """What stands where there is nothing to show yet."""

    reason: str
    command: str
    kind: ClassVar[str] = "absent"


Block = Words | Picture | Table | Findings | Listing | Absent


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading of its own."""

    key: str
    title: str
    blocks: Sequence[Block]


def render_page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """Turn sections into one html page that needs nothing from outside.

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
