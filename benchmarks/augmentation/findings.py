"""All that a report is written from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.comparisons import Comparison
from benchmarks.augmentation.figures import Shown
from benchmarks.augmentation.tables import DEFAULT, FOCUS


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

    @property
    def usual(self) -> list[Row]:
        """Those without further keys."""
        return [row for row in self.whole if row.run.variant == DEFAULT]

    @property
    def heads(self) -> list[tuple[str, str]]:
        """Settings and tracks that have something to say."""
        return list(dict.fromkeys((row.run.setting, row.run.track) for row in self.whole))

    def of_focus(self, metric: str) -> list[Comparison]:
        """Comparisons of the agent that the verdict is about, without further keys."""
        wanted = (self.focus, metric, DEFAULT)
        return [each for each in self.comparisons if (each.agent, each.metric, each.variant) == wanted]
