"""What a person at the terminal sees: lines, and the bar of all that takes more than a few seconds."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

BAR = "{desc} {percentage:3.0f}% |{bar:24}| {n_fmt}/{total_fmt} [{elapsed}, {remaining} left{postfix}]"


def say(text: str) -> None:
    """A line for the person at the terminal; results alone go to standard output."""
    print(text, file=sys.stderr)


def progress_bar(label: str, total: int, initial: int = 0, hidden: bool = False) -> tqdm[Any]:
    """A progress bar with the time left; in a log file it prints a line now and then instead."""
    return tqdm(
        total=total,
        initial=initial,
        desc=f"{label:<22}",
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 15.0,
        bar_format=BAR,
        disable=hidden,
    )
