"""Numbers and lists as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from benchmarks.augmentation.statistics import Estimate


def code(lines: Iterable[str]) -> str:
    """Lines as they are typed."""
    return "\n".join(["```", *lines, "```"])


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table that also reads well in a terminal."""
    body = [list(map(str, line)) for line in lines]
    widths = [max(len(line[i]) for line in [list(header), *body]) for i in range(len(header))]
    rows = [list(header), ["-" * width for width in widths], *body]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def count(number: int, what: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def cell(estimate: Estimate | None, bold: bool = True) -> str:
    """A difference with its interval, bold if that excludes zero."""
    if estimate is None:
        return ""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:+.4f}"
    text = f"{estimate.mean:+.4f} ({estimate.low:+.4f} to {estimate.high:+.4f})"
    return f"**{text}**" if bold and estimate.excludes_zero else text


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation (number)."""
    if not values:
        return ""
    around = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{around} ({len(values)})"


def one_line(text: str, most: int = 300) -> str:
    """An error, fit for a cell of a table."""
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= most else f"{text[:most]}…"


def without_places(arguments: list[str]) -> list[str]:
    """The arguments that decide what is run: where things lie is nobody else's business."""
    places = ("--data", "--prepared", "--backbone", "--out", "--runs")
    kept: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option = argument.partition("=")[0]
        if option in places and option != argument:
            kept.append(f"{option}=…")
        else:
            kept.append("…" if before in places else argument)
    return kept
