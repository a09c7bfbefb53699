"""Commands that are killed, at random moments and before chosen changes of files, and started again."""

from __future__ import annotations

import os
import random
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.torture.audit import Points
from benchmarks.torture.children import Ended, forked, run, started
from benchmarks.torture.scenarios import Stage, printed_otherwise
from benchmarks.torture.tally import Tally, Turns
from benchmarks.torture.trees import copy_tree, differences, tree_of
from latent_common.errors import INTERRUPTED

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOST_IN_A_ROW = 3
REAL = 0.05
"""Share of the rounds in which commands are started anew rather than forked."""

IMPORTS = 3.0
"""A command that is started anew is killed up to so many seconds later: it imports first."""

AFTERWARDS = 12
"""A command that Ctrl-C stops may change so many files until it ends; one that goes on has swallowed it."""


@dataclass(frozen=True)
class Kill:
    """How a command was stopped, and how it ended."""

    signal: int
    where: str
    """The moment in words; empty if the command had ended before."""
    ended: Ended
    changes: int
    """Files it changed."""
    afterwards: int
    """Files it changed after the signal."""

    def complaint(self) -> str:
        """What is wrong with how it ended; empty if nothing is."""
        if not self.where:
            return self.ended.told() if self.ended.code else ""
        if self.ended.hung:
            return "went on for ever"
        if self.signal != signal.SIGINT:
            return "" if self.ended.code in (-self.signal, 0) else self.ended.told()
        if self.ended.traceback:
            return f"showed a traceback: {self.ended.err.strip()[-800:]}"
        if self.ended.code == 0 and self.afterwards <= AFTERWARDS:
            return ""  # it had all but ended
        return "" if self.ended.code == INTERRUPTED else f"swallowed Ctrl-C, {self.ended.told()}"


def torture_with_kills(
    stages: Mapping[str, Stage], tally: Tally, rng: random.Random, count: int, deadline: float
) -> None:
    """Kill commands ``count`` times, and compare how they end with how they end undisturbed."""
    names, points = list(stages), set()
    turns = Turns("kills", count, deadline)
    for number in turns:
        stage = stages[names[number % len(names)] if number < len(names) else rng.choice(names)]
        kills = kill_and_repeat(stage, tally, rng, real=rng.random() < REAL)
        points |= {re.sub(r"[0-9a-f]{8,}", "…", f"{stage.scenario.name} {each.where}") for each in kills}
        turns.advance(len(kills))
    tally.notes.append(f"{len(points)} different places, over {', '.join(names)}")


def kill_and_repeat(stage: Stage, tally: Tally, rng: random.Random, real: bool) -> list[Kill]:
    """Kill a command some times in a row, then let it end; returns the kills that met it."""
    expected = stage.reference
    stage.fresh()
    left = expected.points
    kills: list[Kill] = []
    for _ in range(rng.randint(1, MOST_IN_A_ROW)):
        kill = _started_and_killed(stage, rng) if real else _killed(stage, rng, left)
        if complaint := kill.complaint():
            tally.fail(f"{_told(stage, [*kills, kill])}: {complaint}")
        if not kill.where:
            break
        kills.append(kill)
        tally.tried[f"{signal.Signals(kill.signal).name}{' of real processes' if real else ''}"] += 1
        left = max(left - kill.changes, 2)
    ended = run(stage.scenario.action(), stage.work)
    wrong = [ended.told()] if ended.code else differences(expected.tree, tree_of(stage.work))
    wrong = wrong or printed_otherwise(expected.ended, ended)
    if wrong:
        tally.fail(f"{_told(stage, kills)}: {'; '.join(wrong[:5])} (kept in {keep(stage)})")
    return kills


def keep(stage: Stage) -> Path:
    """Copy the folder of a command that failed to where it stays."""
    return copy_tree(stage.work, stage.work.with_name(f"failed-{time.monotonic_ns()}"))


def _told(stage: Stage, kills: Sequence[Kill]) -> str:
    each = [f"{signal.Signals(kill.signal).name} {kill.where}" for kill in kills]
    return f"{stage.scenario.name}, {', then '.join(each)}"


def _killed(stage: Stage, rng: random.Random, left: int) -> Kill:
    """Start the command and kill it: half of the times before a change of a file, else by the clock."""
    number = rng.choice(SIGNALS)
    before: list[int] = []

    def act(_: str) -> None:
        os.kill(os.getpid(), number)
        if number != signal.SIGINT:
            time.sleep(60)

    by_clock = rng.random() < 0.5
    at = None if by_clock else rng.randrange(left)
    points = Points(stage.work, at, act)
    process = forked(stage.scenario.action(), stage.work, [points.install])
    where = ""
    if by_clock:
        delay, share = rng.uniform(0, stage.reference.ended.seconds), rng.random()
        until = time.monotonic() + delay
        # By progress too: on a machine that is busy now and then, seconds alone say little.
        while process.running() and time.monotonic() < until and points.count < share * left:
            time.sleep(0.001)
        if process.running():
            where = f"after {points.count} changes"
            before.append(points.count)
            process.send(number)
    ended = process.wait()
    if not by_clock and at is not None and points.where:
        where = f"before {points.where}"
        before.append(at)
    return Kill(number, where, ended, points.count, points.count - before[0] if before else 0)


def _started_and_killed(stage: Stage, rng: random.Random) -> Kill:
    """Start the command as a user does, with all imports, and kill it by the clock."""
    number = rng.choice([signal.SIGKILL, signal.SIGTERM])
    process = started(stage.scenario.words, stage.work)
    delay = rng.uniform(0, IMPORTS + stage.reference.ended.seconds)
    until = time.monotonic() + delay
    while process.running() and time.monotonic() < until:
        time.sleep(0.01)
    where = f"after {delay:.1f} s" if process.running() else ""
    process.send(number)
    return Kill(number, where, process.wait(), 0, 0)
