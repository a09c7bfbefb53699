"""What a run has logged for TensorBoard, read back."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LENGTH, CHECKSUM = 8, 4
"""Bytes of a record's length, and of each of its two checksums."""

LARGEST = 2**16
"""Larger records hold pictures, and are skipped: checking and parsing them takes seconds."""


def logged(folder: Path, tag: str) -> list[tuple[float, float]]:
    """The step and the value of every number that was logged as ``tag`` in ``folder``, in order of steps.

    Of a step that was repeated after a stop, the last value counts.
    """
    found: dict[int, float] = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in _events(path):
            for each in event.summary.value:
                if each.tag == tag:
                    found[event.step] = each.simple_value
    return [(float(step), found[step]) for step in sorted(found)]


def _events(path: Path) -> Iterator[Any]:
    """The events of one file; what a killed process wrote in part at its end is left out."""
    from tensorboard.compat.proto.event_pb2 import Event  # slow to import

    with path.open("rb") as file:
        while len(head := file.read(LENGTH + CHECKSUM)) == LENGTH + CHECKSUM:
            (length,) = struct.unpack("<Q", head[:LENGTH])
            if length > LARGEST:
                file.seek(length + CHECKSUM, 1)
                continue
            content = file.read(length)
            if len(file.read(CHECKSUM)) < CHECKSUM:
                return
            yield Event.FromString(content)
