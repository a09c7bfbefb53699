"""Rows as a Markdown table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table that also reads well in a terminal."""
    body = [[" ".join(str(cell).split()).replace("|", r"\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(header), *body]) for column in range(len(header))]
    lines = [list(header), ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in lines
    )
