"""The frame of `report.html`: title, contents and sections, and a policy that nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from latent_common.artifacts import write_atomically
from latent_env import __version__
from stages.report.markup import Markup, element, joined, paragraph, section

PAGE = "report.html"
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""A browser loads nothing for this page, and runs nothing."""

STYLE = Path(__file__).with_name("style.css")


class Part(NamedTuple):
    """A section of the page."""

    identifier: str
    title: str
    content: Sequence[str]


class KeyFigure(NamedTuple):
    """A number that stands out at the top of the page."""

    value: str
    what: str


def write_page(
    folder: Path,
    title: str,
    about: str,
    lead: Sequence[str],
    figures: Sequence[KeyFigure],
    parts: Sequence[Part],
) -> None:
    """Write ``report.html`` into the folder of a run.

    :param about: what kind of run it was, in a line below the title.
    :param lead: what was found, in paragraphs.
    """
    header = element(
        "header", paragraph(about, class_="about"), element("h1", title), *lead, key_figures(figures)
    )
    links = [element("a", part.title, href=f"#{part.identifier}") for part in parts]
    contents = element("nav", element("ul", *(element("li", link) for link in links)), aria_label="Contents")
    main = element("main", *(section(*part[:2], *part.content) for part in parts))
    footer = element(
        "footer", paragraph(f"LatentAug {__version__}. Figures: report.json and report.md beside this page.")
    )
    content = document(title, header, contents, main, footer)
    write_atomically(folder / PAGE, content.encode("utf-8", "backslashreplace"))


def key_figures(figures: Sequence[KeyFigure]) -> Markup:
    """The numbers that stand out."""
    cells = [element("div", element("dt", each.what), element("dd", each.value)) for each in figures]
    return element("dl", *cells, class_="key") if cells else Markup()


def document(title: str, *content: str) -> str:
    """A whole HTML document."""
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        element("title", title),
        element("style", Markup(STYLE.read_text(encoding="utf-8"))),
    )
    return f"<!DOCTYPE html>\n{element('html', head, element('body', joined(content)), lang='en')}\n"
