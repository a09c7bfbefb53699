"""Which anomalies are labelled ones, to learn from and to choose by: so many of them, kinds in turn."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from latent_env.data.groups import groups_of
from latent_env.data.samples import Sample

S = TypeVar("S", bound=Sample)


def pick_labelled(
    samples: Sequence[S], count: int, seed: int, pattern: str | None = None
) -> tuple[list[S], list[S], list[S]]:
    """So many of the anomalous ``samples``, chosen at random: kinds in turn, and of a group once.

    :param pattern: see :func:`latent_env.data.groups.group_finder`.
    :returns: the chosen ones, their siblings (others of the same groups), and the rest, in the given order.
    """
    group_of = dict(enumerate(range(len(samples))))
    for number, members in enumerate((groups_of(samples, pattern) or {}).values()):
        group_of |= dict.fromkeys(members, -1 - number)
    kinds: dict[str, list[int]] = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(samples)).tolist():
        kinds[samples[index].kind].append(index)
    chosen: set[int] = set()
    # Siblings come last: so few labelled anomalies should be of different patients or parts.
    for fresh in (True, False):
        while len(chosen) < count:
            before = len(chosen)
            for kind in sorted(kinds):
                known = {group_of[index] for index in chosen}
                free = [i for i in kinds[kind] if i not in chosen and not (fresh and group_of[i] in known)]
                if free and len(chosen) < count:
                    chosen.add(free[0])
            if len(chosen) == before:
                break
    known = {group_of[index] for index in chosen}
    parts: tuple[list[S], list[S], list[S]] = ([], [], [])
    for index, sample in enumerate(samples):
        parts[0 if index in chosen else 1 if group_of[index] in known else 2].append(sample)
    return parts


def limit_labelled(labelled: Sequence[S], count: int, seed: int, pattern: str | None = None) -> list[S]:
    """At most so many of the anomalies that a data set gives as labelled ones."""
    return list(labelled) if len(labelled) <= count else pick_labelled(labelled, count, seed, pattern)[0]
