"""Folders as plain values, so that two of them compare file by file."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

VOLATILE = re.compile(r"(.*/)?events\.out\.tfevents\.[^/]*|study/(logs/.*|cases/.*|runs\.csv)")
"""Files that hold times: TensorBoard's, whose points are compared, and notes of what a study's runs took."""

TIMED_MEMBER = "data"
"""The member of Stable-Baselines3's ``policy.zip`` that holds when a training began."""

TIMED = re.compile(r"time/.*|charts/SPS")
"""Curves of how long something took."""

# It warns of steps that come again after a kill, which is how it is told to drop what was logged before.
logging.getLogger("tensorboard").setLevel(logging.ERROR)

NOTED = {"RESULTS.md": re.compile(rb"^Commit .* hours\.", re.MULTILINE)}
"""Lines of files, by name, that say what ran and for how long: a study says so where it has lost a note."""

Tree = dict[str, str]
"""A digest of every file by its path, ``folder`` for a folder."""


def tree_of(folder: Path) -> Tree:
    """All that lies below ``folder``, without files whose bytes depend on the time."""
    found: Tree = {}
    for above, _, names in os.walk(folder):
        found[os.path.relpath(above, folder)] = "folder"
        for name in names:
            path = Path(above, name)
            if not VOLATILE.fullmatch(os.path.relpath(path, folder)):
                found[os.path.relpath(path, folder)] = _digest(path)
    return found | {f"{path} (points)": digest for path, digest in _curves(folder)}


def _digest(path: Path) -> str:
    if path.suffix == ".zip" and zipfile.is_zipfile(path):  # members carry the time of their making
        with zipfile.ZipFile(path) as archive:
            members = sorted((each.filename, each.CRC) for each in archive.infolist())
            content = repr([each for each in members if each[0] != TIMED_MEMBER]).encode()
    else:
        content = path.read_bytes()
        if path.name in NOTED:
            content = NOTED[path.name].sub(b"", content)
    return hashlib.sha256(content).hexdigest()[:16]


def _curves(folder: Path) -> Iterator[tuple[str, str]]:
    """The points of all curves that TensorBoard shows of a folder, as digests.

    A point may stand there twice, if both are equal: a figure is logged before what it tells of is stored.
    """
    for above in sorted({path.parent for path in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(above), {"scalars": 0}).Reload()
        points = {
            tag: sorted({(each.step, each.value) for each in events.Scalars(tag)})
            for tag in sorted(events.Tags()["scalars"])
            if not TIMED.fullmatch(tag)
        }
        yield os.path.relpath(above, folder), hashlib.sha256(repr(points).encode()).hexdigest()[:16]


def differences(expected: Tree, found: Tree) -> list[str]:
    """What is missing, left over or different in ``found``, in words."""
    named = [f"missing: {path}" for path in expected.keys() - found.keys()]
    named += [f"left over: {path}" for path in found.keys() - expected.keys()]
    named += [
        f"different: {path}" for path in expected.keys() & found.keys() if expected[path] != found[path]
    ]
    return sorted(named)


def copy_tree(source: Path, target: Path) -> Path:
    """Copy a folder with its times; returns where it is now."""
    shutil.copytree(source, target, symlinks=True)
    return target
