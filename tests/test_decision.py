"""Thresholds keep what they promise, say where they can't, and are stored with the detector they are of."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_world
from hypothesis import given
from hypothesis import strategies as st

from latent_common.errors import UserError
from latent_env.worlds.artifacts import save_detector
from latent_env.worlds.decision import load_decision, save_decision
from latent_env.worlds.half_precision import halve
from latent_env.worlds.store import copy_world, load_world, save_world
from latent_env.worlds.thresholds import Decision
from stages.detector.thresholds import ThresholdReport

SCORES = st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=60)


def decision_of(normal: list[float], anomalous: list[float] | None = None) -> Decision:
    ordered = np.sort(np.array(normal, np.float32))
    return Decision(ordered, ordered + 1, np.sort(np.array(anomalous or [], np.float32)), "mine")


@given(SCORES, st.floats(-60, 60, width=32))
def test_p_values_count_the_normal_images_that_score_as_high(normal: list[float], score: float) -> None:
    expected = (1 + sum(each >= score for each in normal)) / (len(normal) + 1)
    assert decision_of(normal).p_values([score])[0] == pytest.approx(expected)


@given(SCORES, st.floats(0.001, 0.999), st.floats(-60, 60, width=32))
def test_above_the_threshold_is_where_the_p_value_is_small(
    normal: list[float], rate: float, score: float
) -> None:
    decision = decision_of(normal)
    threshold, p = decision.for_false_alarms(rate), decision.p_values([score])[0]
    assert threshold.promised is not None
    assert (score > threshold.score) == (p <= threshold.promised + 1e-12)
    if not threshold.note:
        assert threshold.promised <= rate + 1e-9


def test_too_few_images_say_what_they_can_promise() -> None:
    threshold = decision_of([float(each) for each in range(30)]).for_false_alarms(0.01)
    assert threshold.promised == pytest.approx(1 / 31)
    assert "the best that can be promised with them is 1/31 = 3.226%" in threshold.note
    assert "99 would be enough" in threshold.note
    enough = decision_of([float(each) for each in range(99)]).for_false_alarms(0.01)
    assert (enough.promised, enough.note) == (0.01, "")


@pytest.mark.parametrize("rate", [0, 1, -0.1, 2, math.nan])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(UserError, match="must lie above 0 and below 1"):
        decision_of([1.0]).for_false_alarms(rate)


def test_the_promise_holds_for_exchangeable_images() -> None:
    """Over many draws the mean share of false alarms is what was promised, whatever the distribution."""
    rng, rate = np.random.default_rng(0), 0.05
    shares = []
    for _ in range(400):
        scores = rng.standard_t(2, 119 + 200)
        threshold = decision_of(list(scores[:119])).for_false_alarms(rate)
        shares.append(float((scores[119:].astype(np.float32) > threshold.score).mean()))
    assert np.mean(shares) == pytest.approx(rate, abs=3 * np.std(shares) / 20)


def test_scores_keep_their_order_and_are_a_half_at_the_threshold() -> None:
    decision = decision_of(list(np.linspace(-3, 2, 200)))
    threshold = decision.for_false_alarms(0.05)
    scaled = decision.scaled(np.linspace(-10, 10, 101), threshold)
    assert (np.diff(scaled) > 0).all()
    assert scaled.min() >= 0
    assert scaled.max() <= 1
    assert decision.scaled([threshold.score], threshold)[0] == 0.5
    assert np.isfinite(decision_of([0.0]).scaled([1e30, -1e30], threshold)).all()


def test_the_best_f1_lies_between_what_it_parts() -> None:
    threshold = decision_of([0, 1, 2, 3], [2.5, 5, 6]).best_f1()
    assert threshold is not None
    assert threshold.f1 == pytest.approx(6 / 7)
    assert 2 < threshold.score < 2.5  # one false alarm for one more anomaly is the better F1
    assert decision_of([0, 1]).best_f1() is None
    separated = decision_of([0, 1], [4, 5]).best_f1()
    assert separated is not None
    assert (separated.score, separated.f1) == (2.5, 1)


def test_a_report_says_when_more_false_alarms_came_than_chance_explains() -> None:
    rng = np.random.default_rng(0)
    decision = decision_of(list(rng.normal(size=199)), [4.0])
    labels = np.repeat([0, 1], 100)
    as_promised = rng.normal(size=200).astype(np.float32)
    report = ThresholdReport(decision, labels, as_promised)
    assert "more than chance explains" not in report.as_text()
    assert "1% false alarms" in report.as_text()
    shifted = ThresholdReport(decision, labels, as_promised + 2)
    assert "more than chance explains" in shifted.as_text()
    facts = shifted.facts()["false_alarms"]
    assert facts["chance"] < 0.01
    assert facts["promised"] == pytest.approx(0.01)
    assert sum(facts["test"].values()) == 200
    assert facts["false_alarms_on_test"] == facts["test"]["false_positives"] / 100


def test_a_decision_comes_back_with_its_world(tmp_path: Path) -> None:
    decision = decision_of([1, 2, 3], [4])
    save_world(tmp_path / "world", make_world(), decision)
    copy_world(tmp_path / "world", tmp_path / "copy")
    load_world(str(tmp_path / "copy"), torch.device("cpu"))
    again = load_decision(tmp_path / "copy")
    assert np.array_equal(again.normal, decision.normal)
    assert np.array_equal(again.highest, decision.highest)
    assert np.array_equal(again.anomalous, decision.anomalous)
    assert again.dataset == "mine"
    halve(tmp_path / "copy")
    assert np.array_equal(load_decision(tmp_path / "copy").normal, decision.normal)
    save_world(tmp_path / "copy", make_world())
    assert not (tmp_path / "copy" / "decision.json").exists()


def test_a_decision_of_another_detector_is_refused(tmp_path: Path) -> None:
    save_world(tmp_path, make_world(), decision_of([1, 2, 3]))
    other = make_world().detector
    other.out.bias.data += 1  # type: ignore[attr-defined]
    save_detector(tmp_path, other)
    with pytest.raises(UserError, match="its detector is not the one that the threshold was measured with"):
        load_decision(tmp_path)


def test_a_decision_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    save_world(tmp_path, make_world(), decision_of([1, 2, 3]))
    numbers = [np.array(each, np.float32) for each in ([3, 1], [4, 5], [])]
    save_decision(tmp_path, Decision(*numbers, "mine"))
    with pytest.raises(UserError, match="doesn't describe scores in order"):
        load_decision(tmp_path)
    description = json.loads((tmp_path / "decision.json").read_text())
    (tmp_path / "decision.json").write_text(json.dumps({**description, "format": 2}))
    with pytest.raises(UserError, match="has format 2, but this version reads"):
        load_decision(tmp_path)
    (tmp_path / "decision.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        load_decision(tmp_path)
