"""HTML in which every text was escaped, whatever a data set or a kind of defect is called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

VOID = {"br", "img", "meta"}
"""Elements without an end."""

MOST_COLUMNS, LONGEST_CELL = 4, 24
"""A table of more columns, or of three and more with longer cells, is wide."""


class Markup(str):
    """HTML that may stand in a page as it is: made by the functions here, which escape all texts."""

    __slots__ = ()


Attribute = str | int | float | None


def element(tag: str, *content: str, **attributes: Attribute) -> Markup:
    """An element; what isn't :class:`Markup` is text, and is escaped.

    :param attributes: ``stroke_width`` stands for ``stroke-width``, ``class_`` for ``class``; None leaves one
        away.
    """
    given = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    start = f"<{tag}{given}>"
    return Markup(start if tag in VOID else f"{start}{joined(content)}</{tag}>")


def joined(content: Iterable[str]) -> Markup:
    """Several pieces, one after the other."""
    return Markup("".join(each if isinstance(each, Markup) else escape(each) for each in content))


def paragraph(*content: str, **attributes: Attribute) -> Markup:
    """A paragraph."""
    return element("p", *content, **attributes)


def listed(items: Iterable[str]) -> Markup:
    """A list with an item for each."""
    return element("ul", *(element("li", item) for item in items))


def section(identifier: str, title: str, *content: str) -> Markup:
    """A part of the page that its contents link to."""
    heading = element("h2", title, id=f"{identifier}-title")
    return element("section", heading, *content, id=identifier, aria_labelledby=f"{identifier}-title")


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """A table with a caption; the first cell of each row is its heading.

    If it is wide, on narrow screens each row becomes a block, in which cells stand below each other with
    their columns' names. The roles keep it a table for screen readers then.
    """
    rows = list(rows)
    head = [element("th", cell, scope="col", role="columnheader") for cell in header]
    parts = [
        element("caption", caption),
        element("thead", element("tr", *head, role="row"), role="rowgroup"),
        element("tbody", *(_row(header, row) for row in rows), role="rowgroup"),
    ]
    look = "stacked" if _is_wide(header, rows) else None
    return element("div", element("table", *parts, role="table", class_=look), class_="scroll")


def _is_wide(header: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether a telephone is too narrow for all columns."""
    if len(header) <= 2:
        return False
    return len(header) > MOST_COLUMNS or any(len(cell) > LONGEST_CELL for row in rows for cell in row[1:])


def _row(header: Sequence[str], cells: Sequence[str]) -> Markup:
    first, *others = cells
    named = [
        element("td", cell, role="cell", data_label=name)
        for name, cell in zip(header[1:], others, strict=True)
    ]
    return element("tr", element("th", first, scope="row", role="rowheader"), *named, role="row")


def commands(*lines: str) -> Markup:
    """Lines to copy; a click marks all of them."""
    return element("pre", element("code", "\n".join(lines)), tabindex=0)
