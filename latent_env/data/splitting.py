"""Dividing images into splits, without putting images of one group (such as a patient) into two of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np

from latent_common.errors import UserError
from latent_env.data.dataset import check_labelled_count, check_track
from latent_env.data.groups import FEWEST_GROUPS, group_finder, groups_of
from latent_env.data.labelled import limit_labelled, pick_labelled
from latent_env.data.samples import Sample

S = TypeVar("S", bound=Sample)

TEST_SHARE = 0.2
"""The share of normal images that is set aside for testing if none are given; anomalib's default."""


def set_aside(
    samples: Sequence[S], share: float, seed: int | tuple[int, int], pattern: str | None = None
) -> tuple[list[S], list[S], str]:
    """Split samples at random into those that stay and about ``share`` set aside; neither part is empty.

    :param pattern: see :func:`group_finder`; groups aren't divided.
    :returns: the two parts, both in the given order, and a remark if the names have groups.
    """
    groups = groups_of(samples, pattern)
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
    if groups_of(samples, pattern):
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
    :param labelled: so many labelled anomalies in valid; None for what the images and the track give.
    :param labelled_seed: of the choice of these; None for ``seed``.
    """

    track: str = "auto"
    seed: int = 0
    valid_fraction: float = 0.15
    group: str | None = None
    limit: int | None = None
    labelled: int | None = None
    labelled_seed: int | None = None

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
        self,
        normal: Sequence[S],
        test_normal: Sequence[S],
        anomalous: Sequence[S],
        labelled: Sequence[S] = (),
    ) -> tuple[dict[str, list[S]], list[str]]:
        """Train, valid and test, from images of a train and a test split, and remarks for the user.

        :param labelled: anomalies to learn from; without any, ``labelled`` and ``track`` take some from test.
        """
        normal, test_normal = (
            evenly_spaced_samples(normal, self.limit),
            evenly_spaced_samples(test_normal, self.limit),
        )
        anomalous = evenly_spaced_samples(anomalous, self.limit)
        train, valid, by_group = set_aside(normal, self.valid_fraction, self.seed, self.group)
        remarks = [f"valid is {by_group} of the training images"] if by_group else []
        if anomalous and not labelled and self.track == "few_labelled":
            anomalous, labelled = set_aside_anomalies(anomalous, self.valid_fraction, self.seed, self.group)
            remarks.append(_moved(len(labelled), "track=few_labelled"))
        splits = {"train": train, "valid": [*valid, *labelled], "test": [*test_normal, *anomalous]}
        return splits, [*remarks, *self.count_labelled(splits)]

    def set_aside_test(self, normal: Sequence[S], given: str, missing: str) -> tuple[list[S], list[S], str]:
        """The normal images that stay to learn from and to validate on, those to test on, and a remark.

        :param given: what the images are called in messages.
        :param missing: what could have given images to test on.
        """
        stay, aside, by_group = set_aside(normal, TEST_SHARE, self.seed + 1, self.group)
        if len(stay) < 2:
            raise UserError(f"{given} holds too few images to set test and valid aside: add normal images")
        how = by_group or f"{len(aside)} of them"
        return stay, aside, f"test's normal images are {how}, set aside from {given} (no {missing})"

    @property
    def choice_seed(self) -> int:
        """The seed by which labelled anomalies are chosen."""
        return self.seed if self.labelled_seed is None else self.labelled_seed

    def count_labelled(self, splits: dict[str, list[S]]) -> list[str]:
        """Leave as many labelled anomalies in valid as are wanted, or move them there from test.

        :returns: remarks for the user.
        """
        if self.labelled is None:
            return []
        given = [sample for sample in splits["valid"] if sample.label]
        normal = [sample for sample in splits["valid"] if not sample.label]
        if given:
            check_labelled_count(self.labelled, len(given), "the set labels")
            chosen = limit_labelled(given, self.labelled, self.choice_seed, self.group)
            splits["valid"] = [*normal, *chosen]
            left = len(given) - len(chosen)
            return (
                [f"{left} labelled anomalies were left out (labelled.count={self.labelled})"] if left else []
            )
        anomalous = [sample for sample in splits["test"] if sample.label]
        spare = max(len(anomalous) - 1, 0)
        check_labelled_count(self.labelled, spare, "test must keep one, so it can give")
        chosen, siblings, rest = pick_labelled(anomalous, self.labelled, self.choice_seed, self.group)
        remarks = [_moved(len(chosen), f"labelled.count={self.labelled}")] if chosen else []
        if len(rest) >= len(siblings):
            if siblings:
                remarks.append(f"{len(siblings)} anomalies of the same groups were left out of test")
        elif siblings:
            remarks.append(f"{len(siblings)} anomalies of test are of the same groups as labelled ones")
            rest = [sample for sample in anomalous if sample not in chosen]
        test_normal = [sample for sample in splits["test"] if not sample.label]
        splits["valid"], splits["test"] = [*normal, *chosen], [*test_normal, *rest]
        return remarks

    def settings(self) -> dict[str, Any]:
        """Plain values that the splits depend on."""
        # Tracks without labelled anomalies drop them from valid after preparation, so they share one.
        return {**asdict(self), "track": self.track == "few_labelled"}


def _moved(count: int, why: str) -> str:
    return (
        f"{count} anomalies were moved from test to valid ({why}), so figures don't compare with those on "
        "the whole test split"
    )
