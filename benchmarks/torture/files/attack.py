"""Damaged and hostile files: each is opened as a user would, in a process that is watched."""

from __future__ import annotations

import random
import re
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.torture.audit import Guard
from benchmarks.torture.children import Action, Ended, run
from benchmarks.torture.files.contents import mutations_of
from benchmarks.torture.files.damage import OUTSIDE
from benchmarks.torture.files.kinds import KINDS, Kind
from benchmarks.torture.scenarios import Stage
from benchmarks.torture.tally import Tally, Turns
from benchmarks.torture.trees import copy_tree
from latent_common.errors import UserError
from stages.cli.mistakes import MISTAKE

MOST_SECONDS, MOST_WAIT = 10, 60.0
"""Seconds of a processor that opening a file may take, and seconds that it may take at all."""

MOST_MEMORY = 2**31
"""Bytes that opening a file of a few kB may take beside what the process has already."""

NO_NUMBER = re.compile(r"\b(nan|inf)\b", re.IGNORECASE)


def torture_with_hostile_files(
    stages: Mapping[str, Stage], tally: Tally, rng: random.Random, count: int, deadline: float
) -> None:
    """Damage ``count`` files of all kinds, and open each."""
    root = next(iter(stages.values())).work.parent
    opened: list[tuple[Kind, Path, Ended]] = []
    for kind in KINDS:
        if not set(kind.needs) <= set(stages):
            tally.notes.append(f"without {kind.name}: the stages {', '.join(kind.needs)} are left out")
            continue
        harmless = root / "kinds" / kind.name.replace(" ", "-")
        kind.make(harmless, stages)
        ended = _open(kind, harmless, root)[0]
        if ended.code:
            raise RuntimeError(f"{kind.name} can't be opened undamaged: {ended.err}")
        opened.append((kind, harmless, ended))
    outcomes: Counter[str] = Counter()
    for number in Turns("hostile files", count, deadline):
        kind, harmless, expected = opened[number % len(opened)]
        name, mutate = "", None
        files = sorted(path.relative_to(harmless) for glob in kind.files for path in harmless.glob(glob))
        file = rng.choice(files)
        every = mutations_of(file)
        name = rng.choice(sorted(every))
        mutate = every[name]
        ended, seen = _open(kind, harmless, root, lambda here: mutate(here / file, rng))  # noqa: B023
        tally.tried[kind.name] += 1
        outcomes["refused" if ended.code == MISTAKE else "used"] += 1
        if wrong := _complaint(kind, expected, ended, seen):
            tally.fail(f"{kind.name}, {file}: {name}: {wrong}")
    tally.notes.append(f"{len(opened)} kinds; {', '.join(f'{n} {what}' for what, n in outcomes.items())}")


def _open(
    kind: Kind, harmless: Path, root: Path, change: Callable[[Path], None] | None = None
) -> tuple[Ended, str]:
    """Open a copy of a kind's files after a change; how that ended, and what it did that it mustn't."""
    attack = root / "attack"
    shutil.rmtree(attack, ignore_errors=True)
    (attack / OUTSIDE).mkdir(parents=True)
    shutil.copy(Path(__file__), attack / OUTSIDE / "secret.png")
    here = copy_tree(harmless, attack / "here")
    if change is not None:
        change(here)
    guard = Guard(here, attack / OUTSIDE)
    ended = run(_opening(kind), here, [_limit, guard.install], MOST_WAIT)
    return ended, guard.seen


def _opening(kind: Kind) -> Action:
    def action() -> None:
        try:
            print(kind.door())
        except UserError as error:
            print(f"refused: {error}", file=sys.stderr)
            sys.exit(MISTAKE)

    return action


def _limit() -> None:
    """Let this process take so much time, and so much more memory than it has."""
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS + 1))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return
    most = pages * resource.getpagesize() + MOST_MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _complaint(kind: Kind, expected: Ended, ended: Ended, seen: str) -> str:
    """What is wrong with how a damaged file was met; empty if nothing is."""
    if seen:
        return f"it did what it mustn't: {seen}"
    if ended.hung or ended.code == -signal.SIGXCPU:
        return f"it took more than {MOST_SECONDS} s"
    if ended.traceback or ended.code not in (0, MISTAKE):
        return f"{ended.code}: {ended.err.strip()[-500:]}"
    if ended.code == MISTAKE:
        return "" if ended.err.strip() else "it was refused without a word"
    if kind.numbers and NO_NUMBER.search(ended.out):
        return f"it led to what is no number: {ended.out.strip()[-200:]}"
    return (
        f"it led to another result: {ended.out.strip()[-200:]}"
        if kind.exact and ended.out != expected.out
        else ""
    )
