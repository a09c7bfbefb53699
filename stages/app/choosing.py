"""Choosing among what the agent made: sorted, filtered, kept or rejected."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from agents.rollout import KINDS, Augmented
from latent_common.errors import UserError
from latent_env.rendering import Picture, outlined, to_rgb
from latent_env.worlds.world import World
from stages.augmentation.pictures.sheets import Examples, real_anomalies, row_tiles
from stages.export.samples.found import SAMPLES, RunSamples, load_run
from stages.export.samples.writing import export_samples
from stages.export.selection import SELECTION, read_rejected, write_rejected

PAGE = 42
"""So many samples are on a page."""

THUMBNAIL = 192
"""The side of a small picture in pixels."""

ALL, KEPT, REJECTED = "all", "kept", "rejected"
STATES = (ALL, KEPT, REJECTED)

BEST, WORST, MADE = "best paid first", "worst paid first", "as they were made"
ORDERS = (BEST, WORST, MADE)

DIMMED, CROSS = 0.35, (214, 69, 65)
"""How much of a rejected sample's brightness is left, and the colour of its cross."""


@dataclass(frozen=True)
class View:
    """Which samples are shown, and in which order."""

    kind: str = ALL
    """One of :data:`agents.rollout.KINDS`, or all."""
    state: str = ALL
    order: str = BEST


@dataclass(frozen=True)
class Place:
    """Where a person is among the samples."""

    rows: tuple[int, ...]
    """The samples in view, in order."""
    page: int
    selected: int | None
    """The row of the sample that is shown large; None if none is in view."""

    @property
    def shown(self) -> tuple[int, ...]:
        """The samples on the page."""
        return self.rows[self.page * PAGE : (self.page + 1) * PAGE]

    @property
    def index(self) -> int | None:
        """Where on the page the selected sample is."""
        return self.shown.index(self.selected) if self.selected in self.shown else None

    def at(self, index: int) -> Place:
        """Where a person is who selects the sample at ``index`` of the page."""
        return Place(self.rows, self.page, self.shown[index])

    def turned(self, by: int) -> Place:
        """So many pages on, at its first sample; at either end, the last page that there is."""
        last = max(len(self.rows) - 1, 0) // PAGE
        page = min(max(self.page + by, 0), last)
        return self if page == self.page else Place(self.rows, page, self.rows[page * PAGE])

    def after(self) -> Place:
        """At the next sample, or still at the last."""
        assert self.selected is not None
        following = min(self.rows.index(self.selected) + 1, len(self.rows) - 1)
        return Place(self.rows, following // PAGE, self.rows[following])


@dataclass(frozen=True, eq=False)
class MadeSamples:
    """What the agent of a run made, and which of it a person rejected."""

    found: RunSamples
    examples: Examples | None
    """Real anomalies to compare samples with."""
    _alone: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def open(cls, folder: Path, world: World | None) -> MadeSamples:
        """The samples of the run in ``folder``.

        :param world: the world of the run, for its labelled anomalies.
        :raises UserError: if there are none, or they are damaged.
        """
        if not (folder / SAMPLES).is_file():
            raise UserError(f"{folder} holds no samples: `latent-aug train` makes a run with an agent's")
        found = load_run(str(folder))
        if not len(found.made):
            raise UserError(f"{folder}: its agent made nothing that is a normal variation or an anomaly")
        return cls(found, None if world is None else real_anomalies(world))

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.found.folder

    @property
    def made(self) -> Augmented:
        """All samples, whatever a person chose."""
        return self.found.made

    @property
    def kinds(self) -> list[str]:
        """The kinds of sample that there are."""
        present = self.made.kinds.unique().tolist()
        return [kind for number, kind in enumerate(KINDS) if number in present]

    @property
    def rejected(self) -> frozenset[int]:
        """The rows that a person rejected."""
        return read_rejected(self.folder)

    def rows(self, view: View) -> list[int]:
        """The samples that are in view, as rows, in order."""
        rows = np.arange(len(self.made))
        if view.order != MADE:
            sign = 1 if view.order == WORST else -1
            rows = np.argsort(sign * self.made.reward.numpy(), kind="stable")
        wanted = np.ones(len(rows), np.bool_)
        if view.kind != ALL:
            wanted &= self.made.kinds.numpy() == KINDS.index(view.kind)
        if view.state != ALL:
            out = np.zeros(len(rows), np.bool_)
            out[list(self.rejected)] = True
            wanted &= out if view.state == REJECTED else ~out
        chosen: list[int] = rows[wanted[rows]].tolist()
        return chosen

    def place(self, view: View) -> Place:
        """The first sample in view."""
        rows = tuple(self.rows(view))
        return Place(rows, 0, rows[0] if rows else None)

    def choose(self, rows: Iterable[int], keep: bool) -> frozenset[int]:
        """Keep or reject samples, in the run's folder at once; the rows that are rejected now.

        :raises UserError: if the folder can't be written.
        """
        with self._alone:
            rejected = self.rejected - set(rows) if keep else self.rejected | set(rows)
            try:
                write_rejected(self.folder, rejected)
            except OSError as error:
                raise UserError(
                    f"can't write {self.folder / SELECTION} ({error.strerror}): copy the run to where you "
                    "may write"
                ) from error
        return rejected

    def export(self, layout: str) -> Path:
        """Write the samples that nobody rejected into a new folder of the run's, which is returned.

        :param layout: one of :data:`stages.export.arguments.LAYOUT_NAMES`.
        :raises UserError: if all are rejected, or the folder can't be written.
        """
        numbers = itertools.count(1)
        targets = (self.folder / f"samples_{layout}_{number}" for number in numbers)
        target = next(path for path in targets if not path.exists())
        export_samples(str(self.folder), target, layout, None)
        return target

    def thumbnail(self, row: int, rejected: bool) -> Picture:
        """A small picture of a sample, with a line around what changed; dimmed if it is rejected."""
        image, mask = to_rgb(self.made.images[row]), self.made.masks[row, 0].numpy()
        small = outlined(image, mask, THUMBNAIL)
        return _crossed_out(small) if rejected else small

    def tiles(self, row: int) -> tuple[list[Picture], list[str]]:
        """A sample beside the image that it was made from and a real anomaly, and a caption for each."""
        starts = torch.from_numpy(self.found.starts)
        return row_tiles(self.made.at(torch.tensor([row])), 0, starts, self.examples)

    def caption(self, row: int) -> str:
        """What stands below a small picture: its reward."""
        return f"{float(self.made.reward[row]):.2f}"

    def facts(self, row: int) -> str:
        """What is known of a sample, in a line."""
        kind, copied = KINDS[self.made.kinds[row]].replace("_", " "), int(self.made.copied[row])
        of = f" of anomaly {copied + 1}" if copied >= 0 else ""
        among = self.made.reward[self.made.kinds == self.made.kinds[row]]
        reward, source = self.made.reward[row], self.found.sources[int(self.made.source[row])]
        rank = f"{int((among > reward).sum()) + 1} of {len(among)}"
        return f"Sample {row}: {kind}{of}, reward {float(reward):.3f} ({rank}), made from {source.name}"


def _crossed_out(picture: Picture) -> Picture:
    side = picture.shape[0]
    dimmed: Picture = (picture * DIMMED).astype(np.uint8)
    line = np.abs(np.arange(side)[:, None] - np.arange(side)[None]) <= max(side // 96, 1)
    dimmed[line | line[:, ::-1]] = CROSS
    return dimmed
