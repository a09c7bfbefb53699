"""The study of augmentation: what is compared with what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.augmentation.collect import Row, Scores
from benchmarks.augmentation.comparisons import Drawn, compare_all, compare_pairs
from benchmarks.augmentation.plan import Planned
from benchmarks.augmentation.records import WHOLE, Outcome
from detectors.metrics import image_AUROC

LABELS = np.repeat([0, 1], [30, 20])


def made_up(agent: str, seed: int, scores: Any, folder: str = "nowhere") -> Row:
    """A row whose scores are known."""
    run = Planned("scratch", "one_class", "phantom", agent, seed, "default", ())
    metrics = {"image_AUROC": {"with": image_AUROC(scores, LABELS), "without": 0.5}}
    row = Row(run, Outcome(WHOLE, folder), {"metrics": metrics})
    row.__dict__["scores"] = Scores(LABELS, scores, scores)
    return row


@given(seed=st.integers(0, 1000), seeds=st.integers(1, 6), ties=st.booleans())
def test_comparisons_turned_round_change_their_sign(seed: int, seeds: int, ties: bool) -> None:
    values = np.random.default_rng(seed).normal(size=(2, seeds, 50)) + LABELS
    values = values.round() if ties else values
    one = [made_up("a", i, scores) for i, scores in enumerate(values[0])]
    other = [made_up("b", i, scores) for i, scores in enumerate(values[1])]
    there = compare_pairs("image_AUROC", list(zip(one, other, strict=True)), Drawn())
    back = compare_pairs("image_AUROC", list(zip(other, one, strict=True)), Drawn())
    assert there is not None
    assert back is not None
    assert there[0] == back[0] == seeds
    ends = (there[1].mean, there[1].low, there[1].high)
    assert ends == pytest.approx((-back[1].mean, -(back[1].high or 0), -(back[1].low or 0)), abs=1e-9)


def test_a_variant_is_compared_with_its_default_seed_by_seed() -> None:
    noise = np.random.default_rng(0).normal(size=(3, 50))
    usual = [made_up("a", seed, 3 * LABELS + noise[seed]) for seed in (0, 1)]
    worse = [made_up("a", seed, LABELS + noise[seed]) for seed in (1, 2)]
    worse = [replace(row, run=replace(row.run, variant="less")) for row in worse]
    for row, seed in zip(worse, (1, 2), strict=True):
        row.__dict__["scores"] = Scores(LABELS, LABELS + noise[seed], LABELS + noise[seed])
    (found,) = compare_all([*usual, *worse])
    assert (found.variant, found.agent, found.against, found.seeds) == ("less", "a", "default", 1)
    expected = image_AUROC(LABELS + noise[1], LABELS) - image_AUROC(3 * LABELS + noise[1], LABELS)
    assert found.estimate.mean == pytest.approx(expected)
    assert found.estimate.mean < 0
    assert not compare_all(worse)
