"""All that a report is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.comparisons import Comparison
from benchmarks.augmentation.figures import Shown
from benchmarks.augmentation.plan import FOCUS


@dataclass(frozen=True)
class Findings:
    """Rows, comparisons and figures of a study, and how it was called."""

    rows: Sequence[Row]
    comparisons: Sequence[Comparison]
    command: str
    commit: str
    remarks: Sequence[str] = ()
    figures: Sequence[Shown] = ()

    @property
    def focus(self) -> str:
        """The agent that the verdict is about: ppo, or else the last one that there is."""
        agents = [row.run.agent for row in self.rows]
        return FOCUS if FOCUS in agents or not agents else agents[-1]

    @property
    def whole(self) -> list[Row]:
        """The runs that have something to say."""
        return [row for row in self.rows if row.whole]
