"""Dividing images into splits, without putting images of one group (such as a patient) into two of them."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

import numpy as np

from latent_common.errors import UserError
from latent_env.data.dataset import check_track
from latent_env.data.samples import Sample

S = TypeVar("S", bound=Sample)

NUMBERED = re.compile(r"[^\s_./-]*\d[^\s_./-]*")
"""A part of a name between separators that holds a number."""

FEWEST_GROUPS = 3
"""With fewer groups, images are split one by one."""

MOST_LEVELS = 4
"""At most so many numbers of a name are tried as the end of its group."""


def group_finder(pattern: str | None, level: int = 0) -> Callable[[Sample], str]:
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


def _inner_name(sample: Sample) -> str:
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


def _groups(samples: Sequence[Sample], pattern: str | None) -> dict[str, list[int]] | None:
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


def set_aside(
    samples: Sequence[S], share: float, seed: int | tuple[int, int], pattern: str | None = None
) -> tuple[list[S], list[S], str]:
    """Split samples at random into those that stay and about ``share`` set aside; neither part is empty.

    :param pattern: see :func:`group_finder`; groups aren't divided.
    :returns: the two parts, both in the given order, and a remark if the names have groups.
    """
    groups = _groups(samples, pattern)
    if pattern and not groups:
        raise UserError(
            f"dataset.group={pattern} finds fewer than {FEWEST_GROUPS} groups, or one an image, in names "
            f"such as {samples[0].name}: choose another pattern, or null to find groups automatically"
        )
    members = list(groups.values()) if groups else [[index] for index in range(len(samples))]
    wanted = min(max(round(share * len(samples)), 1), len(samples) - 1)
    # Groups that are too large stay, so that enough images are left to learn from.
    most = max(wanted, min(map(len, members), default=0))
    aside: set[int] = set()
    taken = 0
    for position in np.random.default_rng(seed).permutation(len(members)):
        if len(aside) >= wanted:
            break
        if len(aside) + len(members[position]) > most:
            continue  # a smaller group may still fit
        aside.update(members[position])
        taken += 1
    stay = [sample for index, sample in enumerate(samples) if index not in aside]
    chosen = [sample for index, sample in enumerate(samples) if index in aside]
    remark = f"{taken} of {len(members)} groups such as {next(iter(groups))}" if groups else ""
    return stay, chosen, remark


def set_aside_anomalies(
    samples: Sequence[S], share: float, seed: int, pattern: str | None = None
) -> tuple[list[S], list[S]]:
    """Split anomalous samples like :func:`set_aside`: by group, or else kind by kind."""
    if _groups(samples, pattern):
        return set_aside(samples, share, seed, pattern)[:2]
    kinds: dict[str, list[S]] = defaultdict(list)
    for sample in samples:
        kinds[sample.kind].append(sample)
    stay: list[S] = []
    aside: list[S] = []
    for number, members in enumerate(kinds.values()):
        if len(members) < 2:
            stay += members
            continue
        rest, part, _ = set_aside(members, share, (seed, number), "")
        stay += rest
        aside += part
    return stay, aside


def evenly_spaced_samples(samples: Sequence[S], limit: int | None) -> list[S]:
    """At most ``limit`` of the samples, evenly spaced so that every kind keeps its share."""
    if limit is None or len(samples) <= limit:
        return list(samples)
    return [samples[i] for i in np.linspace(0, len(samples) - 1, limit).round().astype(int)]


@dataclass(frozen=True)
class Splitting:
    """How images without an official split are divided, and how many of all are used.

    :param track: ``few_labelled`` moves a share of the anomalies from test to valid.
    :param seed: of the random choice of images.
    :param valid_fraction: the share of the normal training images that becomes valid.
    :param group: see :func:`group_finder`.
    :param limit: use at most so many normal and so many anomalous images of each split.
    """

    track: str = "auto"
    seed: int = 0
    valid_fraction: float = 0.15
    group: str | None = None
    limit: int | None = None

    def __post_init__(self) -> None:
        check_track(self.track)
        if self.limit is not None and self.limit < 2:
            raise UserError(
                f"limit={self.limit} leaves too few images: give 2 or more, or null for all of them."
            )
        if not 0 < self.valid_fraction < 1:
            raise UserError(f"valid_fraction={self.valid_fraction} must lie between 0 and 1, say 0.15.")
        group_finder(self.group)

    def divide(
        self, normal: Sequence[S], test_normal: Sequence[S], anomalous: Sequence[S]
    ) -> tuple[dict[str, list[S]], list[str]]:
        """Train, valid and test, from images of a train and a test split, and remarks for the user."""
        normal, test_normal = (
            evenly_spaced_samples(normal, self.limit),
            evenly_spaced_samples(test_normal, self.limit),
        )
        anomalous = evenly_spaced_samples(anomalous, self.limit)
        train, valid, by_group = set_aside(normal, self.valid_fraction, self.seed, self.group)
        remarks = [f"valid is {by_group} of the training images"] if by_group else []
        if self.track == "few_labelled":
            anomalous, labelled = set_aside_anomalies(anomalous, self.valid_fraction, self.seed, self.group)
            valid += labelled
            remarks.append(
                f"{len(labelled)} anomalies were moved from test to valid (track=few_labelled), so "
                "figures don't compare with those on the whole test split"
            )
        return {"train": train, "valid": valid, "test": [*test_normal, *anomalous]}, remarks

    def settings(self) -> dict[str, Any]:
        """Plain values that the splits depend on."""
        # Tracks without labelled anomalies drop them from valid after preparation, so they share one.
        return {**asdict(self), "track": self.track == "few_labelled"}
