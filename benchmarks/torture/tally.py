"""What was tried, how often, and what didn't hold."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from tqdm import tqdm

from latent_common.progress import progress_bar


@dataclass
class Tally:
    """The account of one part."""

    part: str
    tried: Counter[str] = field(default_factory=Counter)
    """How often each thing was tried."""
    failures: list[str] = field(default_factory=list)
    """What didn't hold, each in a line."""
    notes: list[str] = field(default_factory=list)
    """What else must be known, such as what was left out and why."""
    seconds: float = 0.0

    def fail(self, text: str) -> None:
        """Note what didn't hold, and print it at once."""
        self.failures.append(text)
        tqdm.write(f"{self.part}: {text}")

    def lines(self) -> list[str]:
        """The account, to be printed."""
        counts = ", ".join(f"{count} {what}" for what, count in sorted(self.tried.items()))
        head = f"{self.part}: {self.tried.total()} tried in {self.seconds:.0f} s, {len(self.failures)} failed"
        return [head, f"  {counts}", *(f"  {note}" for note in self.notes)]


class Turns:
    """So many turns with a progress bar, until the time is over."""

    def __init__(self, label: str, count: int, deadline: float) -> None:
        self.label, self.count, self.deadline = label, max(count, 1), deadline
        self.done = 0

    def __iter__(self) -> Iterator[int]:
        """The number of each turn; there is always a first one."""
        with progress_bar(self.label, self.count) as bar:
            while self.done < self.count and (not self.done or time.monotonic() < self.deadline):
                before = self.done
                yield self.done
                self.done = max(self.done, before + 1)
                bar.update(self.done - before)

    def advance(self, count: int) -> None:
        """Count a turn as so many."""
        self.done += count
