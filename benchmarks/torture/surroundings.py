"""Several processes in one folder, disks that fill up, and folders that can't be written."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.torture.audit import Points
from benchmarks.torture.children import Ended, forked, run
from benchmarks.torture.kills import keep
from benchmarks.torture.scenarios import Stage, printed_otherwise
from benchmarks.torture.tally import Tally, Turns
from benchmarks.torture.trees import copy_tree, differences, tree_of
from stages.cli.mistakes import MISTAKE

CROWD = (3, 3, 2)
"""How many processes work in a folder at once, in turn."""

STAGGER = 0.3
"""They begin within so many seconds."""

BLOCK = 4096
ENOUGH = "size=64m"

WITHOUT_EXPORT = ("prepare", "autoencoder", "gaussian", "mpo", "decision transformer")
"""Scenarios that only use what is finished, and so need no disk that can be written."""


def torture_with_crowds(
    stages: Mapping[str, Stage], tally: Tally, rng: random.Random, count: int, deadline: float
) -> None:
    """Start the same command several times at once, in one folder; all must end as one does alone."""
    chosen = list(stages.values())
    for number in Turns("several at once", count, deadline):
        stage, crowd = chosen[-1 - number % len(chosen)], CROWD[number % len(CROWD)]
        expected = stage.reference
        stage.fresh()
        processes = []
        for _ in range(crowd):
            processes.append(forked(stage.scenario.action(), stage.work))
            time.sleep(rng.uniform(0, STAGGER))
        ends = [process.wait() for process in processes]
        tally.tried[f"times {crowd} processes"] += 1
        wrong = [each.told() for each in ends if each.code]
        wrong += differences(expected.tree, tree_of(stage.work))
        wrong += [text for each in ends for text in printed_otherwise(expected.ended, each)]
        if wrong:
            tally.fail(
                f"{stage.scenario.name}, {crowd} at once: {'; '.join(wrong[:5])} (kept in {keep(stage)})"
            )


def torture_with_full_disks(
    stages: Mapping[str, Stage], tally: Tally, rng: random.Random, count: int, deadline: float
) -> None:
    """Let the disk refuse to take more at any moment; with room again, the command must end as ever."""
    ways: list[Callable[[Stage, random.Random], Ended]] = [_refused, _limited]
    if _can_mount(next(iter(stages.values())).work):
        ways.append(_small_disk)
    else:
        tally.notes.append("without real small disks: this user may not mount one")
    chosen = list(stages.values())
    for number in Turns("full disks", count, deadline):
        stage, way = chosen[number % len(chosen)], ways[number % len(ways)]
        expected = stage.reference
        stage.fresh()
        ended = way(stage, rng)
        tally.tried[f"by {way.__name__.strip('_').replace('_', ' ')}"] += 1
        wrong = _not_one_line(stage, ended)
        again = run(stage.scenario.action(), stage.work)
        if again.code:
            wrong.append(f"with room again, {again.told()}")
        else:
            wrong += differences(expected.tree, tree_of(stage.work))
        if wrong:
            told = f"{stage.scenario.name}, {way.__name__}: {'; '.join(wrong[:5])}"
            tally.fail(f"{told} (kept in {keep(stage)})")


def _not_one_line(stage: Stage, ended: Ended) -> list[str]:
    """What is wrong with how a refused command ended: it must say what the system refused, in a line."""
    if ended.traceback:
        return [f"traceback: {ended.err.strip()[-800:]}"]
    told = ended.code in (0, MISTAKE, stage.scenario.refusal) and not ended.hung
    return [] if told else [ended.told()]


def _refused(stage: Stage, rng: random.Random) -> Ended:
    """From a change of a file on, every one fails that would take room."""
    at = rng.randrange(stage.reference.points)

    def act(path: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    points = Points(stage.work, at, act)
    return run(stage.scenario.action(), stage.work, [points.install])


def _limited(stage: Stage, rng: random.Random) -> Ended:
    """No file may become larger than some size."""
    largest = rng.choice([0, 1, 512, BLOCK, 16 * BLOCK, rng.randrange(1, 64 * BLOCK)])

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))

    return run(stage.scenario.action(), stage.work, [limit])


def _small_disk(stage: Stage, rng: random.Random) -> Ended:
    """The folder lies on a disk that is too small for what the command makes."""
    used, needed = _blocks(stage.work), _blocks(stage.done)
    room = used + rng.randrange(1, max(needed - used, 2)) + 8
    with _own_disk(stage.work, f"size={room * BLOCK}"):
        return run(stage.scenario.action(), stage.work)


@contextmanager
def _own_disk(folder: Path, options: str) -> Iterator[None]:
    """A context in which ``folder``, with all in it, lies on a disk of its own; what is made there stays."""
    aside = folder.rename(folder.with_name("aside"))
    folder.mkdir()
    _mount(folder, options)
    try:
        shutil.copytree(aside, folder, symlinks=True, dirs_exist_ok=True)
        yield
        shutil.rmtree(aside)
        shutil.copytree(folder, aside, symlinks=True)
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)
        folder.rmdir()
        aside.rename(folder)


def _blocks(folder: Path) -> int:
    """How many blocks of a disk a folder needs, about."""
    return sum(1 + path.stat().st_size // BLOCK for path in folder.rglob("*"))


def _mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True)


def _can_mount(folder: Path) -> bool:
    folder.mkdir(exist_ok=True)
    try:
        with _own_disk(folder, ENOUGH):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def torture_with_read_only_folders(
    stages: Mapping[str, Stage], tally: Tally, rng: random.Random, count: int, deadline: float
) -> None:
    """Finished work on a disk that can't be written must be used, unfinished work refused in one line."""
    chosen = [stages[name] for name in WITHOUT_EXPORT if name in stages]
    if os.getuid() == 0 and not _can_mount(next(iter(stages.values())).work):
        tally.notes.append("left out: nothing is read-only for this user, who may not mount a disk either")
        return
    rng.shuffle(chosen)
    for number in Turns("read-only folders", count, deadline):
        stage, finished = chosen[number // 2 % len(chosen)], number % 2 == 0
        expected = stage.reference
        stage.fresh()
        if finished:
            shutil.rmtree(stage.work)
            copy_tree(stage.done, stage.work)
        before = tree_of(stage.work)
        with _read_only(stage.work):
            ended = run(stage.scenario.action(), stage.work)
        tally.tried["finished" if finished else "unfinished"] += 1
        wrong = differences(before, tree_of(stage.work)) + _not_one_line(stage, ended)
        if finished and (ended.code or printed_otherwise(expected.ended, ended)):
            wrong.append(f"finished work isn't used: {ended.told()}")
        if not finished and ended.code != MISTAKE:
            wrong.append(f"unfinished work: {ended.told()}")
        if wrong:
            tally.fail(f"{stage.scenario.name}, read-only: {'; '.join(wrong[:5])}")


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """A context in which nothing below ``folder`` can be written: on a disk of its own, or by permissions."""
    if os.getuid() == 0:  # whom permissions don't stop
        with _own_disk(folder, ENOUGH):
            _mount(folder, "remount,ro")
            yield
        return
    paths = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path, mode in zip(paths, modes, strict=True):
        path.chmod(mode & 0o555)
    try:
        yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)
