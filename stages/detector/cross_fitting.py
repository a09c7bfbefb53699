"""Cross-fitting: each labelled anomaly is judged by a detector that learned from the others alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from conf.schema.runs import LabelledConfig
from detectors.training.samples import SampleSource
from latent_common.errors import UserError
from latent_env.data import Split
from latent_env.data.groups import Named, groups_of, kind_of
from latent_env.training.run_folder import Run
from latent_env.worlds.decision import has_decision, load_decision, save_decision
from latent_env.worlds.thresholds import Decision, Folds
from latent_env.worlds.world import World
from stages.detector.decisions import decide, unseen
from stages.detector.labelled_split import Positions
from stages.detector.trainers.base import DetectorTrainer

FOLD = "fold_"
"""What the folder names of folds begin with."""

KINDS, GROUPS, IMAGES = "kinds", "groups", "images"
"""What folds may be of; a group is for example the slices of a patient."""

SamplesWithout = Callable[[Positions], Sequence[SampleSource]]
"""Positions of labelled validation anomalies to the samples that have nothing of them."""


class Division(NamedTuple):
    """Labelled anomalies in folds."""

    of: str
    """What stays together: :data:`KINDS`, :data:`GROUPS` or :data:`IMAGES`."""
    folds: Sequence[Positions]
    """Positions in the validation split, disjoint; none where there is nothing to divide."""


def check_folds(labelled: LabelledConfig) -> None:
    """Refuse a single fold: nothing would be left to learn from."""
    if labelled.folds == 1:
        raise UserError(
            "labelled.folds=1: what one fold judges the others must teach; give 2 or more, or 0 for none"
        )


def divide(valid: Split, rows: Positions, most: int, pattern: str | None = None) -> Division:
    """The anomalies at ``rows`` in at most so many folds of about the same size.

    Folds are of kinds where there are several, else of groups, else of images.

    :param pattern: what a group is, see :func:`latent_env.data.groups.group_finder`.
    """
    found = [int(row) for row in rows]
    kinds = {row: kind_of(valid.names[row]) for row in found}
    ways = {GROUPS: _group_of(valid, pattern, found), IMAGES: {row: str(row) for row in found}}
    if len(set(kinds.values()) - {""}) > 1:
        ways = {KINDS: kinds, **ways}
    for of, unit_of in ways.items():
        together: dict[str, list[int]] = {}
        for row in found:
            together.setdefault(unit_of[row], []).append(row)
        number = min(len(together), most)
        if number > 1:
            return Division(of, _of_similar_size(list(together.values()), number))
    return Division(IMAGES, [])


def _group_of(valid: Split, pattern: str | None, rows: Sequence[int]) -> dict[int, str]:
    """The group of each of ``rows``; one for all where the names have none, or where each is its own."""
    groups = groups_of([Named(name, kind_of(name)) for name in valid.names], pattern) or {}
    found = {row: name for name, members in groups.items() for row in members}
    of_rows = {row: found.get(row, "") for row in rows}
    alone = len(set(of_rows.values())) == len(of_rows)
    return dict.fromkeys(rows, "") if alone else of_rows


def _of_similar_size(units: Sequence[Sequence[int]], number: int) -> list[Positions]:
    """``units`` in so many folds: the largest first, each to the smallest fold."""
    folds: list[list[int]] = [[] for _ in range(number)]
    for unit in sorted(units, key=len, reverse=True):
        min(folds, key=len).extend(unit)
    return [np.sort(np.array(fold, np.int64)) for fold in folds]


def judge(
    trainer: DetectorTrainer,
    run: Run,
    world: World,
    label: str = "detector",
    samples_without: SamplesWithout = lambda _: (),
) -> Decision | None:
    """What thresholds of the detector of ``world`` are chosen by; None without normal validation images.

    Where it learned from every labelled anomaly, a detector a fold is trained as it was, on the anomalies of
    the other folds, in a folder inside ``run``. Its scores of those left out count, in units in which normal
    images score as they do with the detector of ``world``.

    :param label: names progress bars.
    :param samples_without: what detectors learn from besides labelled and synthetic anomalies.
    """
    split, valid = trainer.labelled_split, trainer.features.dataset.valid
    decision = decide(world.detector, world.detector_inputs, trainer.features, unseen(split))
    if decision is None or len(decision.anomalous):
        return decision
    pattern = trainer.data.settings.get("group")
    division = divide(valid, split.train, trainer.labelled.folds, pattern)
    if not division.folds:
        return decision
    count = len(division.folds)
    found = []
    for number, held_out in enumerate(division.folds, 1):
        named = f"{label}, fold {number} of {count}"
        part = run.part(f"{FOLD}{number}")
        found.append(_judged_fold(trainer, part, world, named, held_out, samples_without))
    scores = np.concatenate([decision.rescaled(each) for each in found])
    return replace(decision, anomalous=np.sort(scores), folds=Folds(count, division.of))


def _judged_fold(
    trainer: DetectorTrainer,
    part: Run,
    world: World,
    label: str,
    held_out: Positions,
    samples_without: SamplesWithout,
) -> Decision:
    """The scores of normal images, and of the anomalies that are ``held_out`` of a detector's training."""
    with part.locked():
        if not has_decision(part.path):
            trained = trainer.judging(held_out).train(part, label, samples_without(held_out))
            part.writer.close()
            judging = world.with_detector(trained)
            found = decide(judging.detector, judging.detector_inputs, trainer.features, held_out)
            assert found is not None  # as of the detector that learned from all
            save_decision(part.path, found)
            part.forget_checkpoint()
    return load_decision(part.path)


def remove_folds(run: Run) -> None:
    """Remove what was only kept so that a stopped run could go on."""
    with suppress(OSError):  # a finished run may lie on a disk that can't be written
        for path in run.path.glob(f"{FOLD}*"):
            shutil.rmtree(path)
