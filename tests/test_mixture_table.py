"""What the study says of each mixture by itself, and what it doesn't say of where things lie."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.augmentation.collect import Row
from benchmarks.augmentation.mixtures import mixtures_of
from benchmarks.augmentation.plan import Planned
from benchmarks.augmentation.records import MISSING, WHOLE, Outcome
from benchmarks.augmentation.wording import without_places

LEARNED, RANDOM = {"learned": 0.25}, {"random": 0.25}
BOTH = {"learned": 0.125, "random": 0.125}


def row(
    seed: int, values: list[tuple[dict[str, float], float]], chosen: dict[str, float], **about: str
) -> Row:
    """A run that tried mixtures with these image AUROC."""
    named = {"agent": "ppo", "variant": "default", "state": WHOLE, **about}
    run = Planned("scratch", "one_class", "phantom", named["agent"], seed, named["variant"], ())
    tried: list[dict[str, Any]] = [
        {"shares": shares, "test": {"image_AUROC": auroc}} for shares, auroc in values
    ]
    shares = {f"share_{name}": chosen.get(name, 0.0) for name in ("learned", "random")}
    return Row(run, Outcome(named["state"], "nowhere"), {"mixtures_tried": tried, **shares})


def test_every_mixture_by_itself() -> None:
    rows = [
        row(0, [({}, 0.8), (LEARNED, 0.9), (RANDOM, 0.7), (BOTH, 0.85)], LEARNED),
        row(1, [({}, 0.6), (LEARNED, 0.8), (RANDOM, 0.6), (BOTH, 0.60)], {}),
        row(2, [({}, 0.7), (LEARNED, 0.7), (RANDOM, 0.6), (BOTH, 0.70)], BOTH),
        row(3, [({}, 0.1), (LEARNED, 0.9)], {}, variant="all kept"),
        row(4, [({}, 0.1), (LEARNED, 0.9)], {}, state=MISSING),
    ]
    learned, random, both = mixtures_of(rows, ["image_AUROC", "pixel_AUPRO"])
    assert [each.named for each in (learned, random, both)] == [
        "25% learned",
        "25% random",
        "12% learned and 12% random",
    ]
    assert [each.chosen for each in (learned, random, both)] == [1, 0, 1]
    assert {each.seeds for each in (learned, random, both)} == {3}
    assert set(learned.differences) == {"image_AUROC"}  # nobody knows the other
    assert learned.differences["image_AUROC"].mean == pytest.approx(0.1)
    assert learned.to_random["image_AUROC"].mean == pytest.approx((0.2 + 0.2 + 0.1) / 3)
    assert learned.to_random["image_AUROC"].excludes_zero
    assert random.to_random == {}
    assert both.to_random["image_AUROC"].mean == pytest.approx((0.15 + 0.0 + 0.1) / 3)


def test_an_agent_without_random_samples_beside_it() -> None:
    (alone,) = mixtures_of([row(0, [({}, 0.8), (LEARNED, 0.9)], LEARNED, agent="random")], ["image_AUROC"])
    assert alone.to_random == {}
    assert alone.differences["image_AUROC"].low is None  # one seed


def test_runs_that_tried_nothing_have_no_table() -> None:
    assert not list(mixtures_of([row(0, [], {})], ["image_AUROC"]))


def test_a_report_names_no_folder() -> None:
    given = ["--data", "/home/me/images", "--out=/home/me/out", "--seeds", "5", "--backbone", "/models/eyes"]
    assert without_places(given) == ["--data", "…", "--out=…", "--seeds", "5", "--backbone", "…"]
