"""The groups of images, such as the slices of a patient, found from names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

from latent_common.errors import UserError

NUMBERED = re.compile(r"[^\s_./-]*\d[^\s_./-]*")
"""A part of a name between separators that holds a number."""

FEWEST_GROUPS = 3
"""With fewer groups, images are split one by one."""

MOST_LEVELS = 4
"""At most so many numbers of a name are tried as the end of its group."""


OF_NO_KIND = ("train", "valid", "val", "test", "img", "image", "images")
"""Folders that are called after a split or after what they hold."""


class HasName(Protocol):
    """What the group of an image is found by."""

    @property
    def name(self) -> str:
        """A unique name, such as the path below the data set's folder."""

    @property
    def kind(self) -> str:
        """The kind of defect, or the class."""


class Named(NamedTuple):
    """An image of which only this is known."""

    name: str
    kind: str


def kind_of(name: str) -> str:
    """The kind of an anomalous image: the folder that it lies in, or nothing where that says none."""
    folders = PurePosixPath(name.replace("\\", "/")).parent.parts
    return next((folder for folder in reversed(folders) if folder.lower() not in OF_NO_KIND), "")


def group_finder(pattern: str | None, level: int = 0) -> Callable[[HasName], str]:
    """A function that returns the group (patient, volume, object) of a sample, from its name.

    :param pattern: a regular expression; the group is its first parenthesis, or all that it matches.
        ``None`` looks for names such as ``patient07_slice012`` or ``volume-3/45``; an empty one
        makes every image a group of its own.
    :param level: without a pattern, how many numbers of the name to skip: in ``BraTS20_007_slice_12`` the
        first is that of the data set, the second that of the patient.
    """
    if pattern is None:
        return lambda sample: _prefix(_inner_name(sample), level) or sample.name
    if not pattern:
        return lambda sample: sample.name
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"dataset.group={pattern} is not a regular expression ({error})") from error
    return lambda sample: _match(compiled, sample.name) or sample.name


def _prefix(name: str, level: int) -> str | None:
    """The name down to one of its numbers, if it goes on and ends with another."""
    ends = [part.end() for part in NUMBERED.finditer(name)]
    if len(ends) < 2 or ends[-1] < len(name) or not name[-1].isdigit():
        return None
    return name[: ends[:-1][min(level, len(ends) - 2)]]


def _inner_name(sample: HasName) -> str:
    """The name without its ending and without the folders down to that of its kind.

    One patient may have images in the folders of several kinds.
    """
    path = PurePosixPath(sample.name)
    parts = (path.with_suffix("") if path.name else path).parts
    first = parts.index(sample.kind) + 1 if sample.kind in parts[:-1] else 0
    return "/".join(parts[first:])


def _match(pattern: re.Pattern[str], name: str) -> str | None:
    found = pattern.search(name)
    return None if found is None else found.group(1 if pattern.groups else 0)


def groups_of(samples: Sequence[HasName], pattern: str | None) -> dict[str, list[int]] | None:
    """The positions of each group's samples; None if the names have no groups."""
    for level in range(MOST_LEVELS if pattern is None else 1):
        find_group = group_finder(pattern, level)
        groups: dict[str, list[int]] = defaultdict(list)
        for index, sample in enumerate(samples):
            groups[find_group(sample)].append(index)
        # The widest groups come first: series and modalities of a patient belong together.
        if FEWEST_GROUPS <= len(groups) < len(samples):
            return groups
    return None
