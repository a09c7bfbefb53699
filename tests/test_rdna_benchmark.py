"""The comparison of `detector=rdna` with itself without discriminators and with the transformer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import rdna
from benchmarks.rdna_report import METRICS, Outcome, Setting, differences, report
from detectors.metrics import image_AUROC

FULL = rdna.SETTINGS["full"]
FACTS = {"command": "python -m benchmarks.rdna", "commit": "abc", "keys": ()}
SMALL = ["dataset.train=24", "dataset.valid=16", "dataset.test=12", "autoencoder.width=8"]
SMALL += ["detector.steps=2", "autoencoder.steps=2", "threads=1", "device=cpu"]


def outcome(arm: str, seed: int, gain: float, dataset: str = "bottle") -> Outcome:
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], 40)
    scores = (rng.normal(size=80) + (1 + gain) * labels).astype(np.float32)
    metrics = {name: 0.8 + gain / 10 + rng.normal() / 1000 for name in METRICS}
    metrics["image_AUROC"] = image_AUROC(scores, labels)
    return Outcome(dataset, arm, seed, metrics, scores, labels)


def test_it_goes_on_where_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    arguments = ["--datasets", "phantom", "--quick", "--out", str(out), *SMALL]
    rdna.main(arguments)
    first = capsys.readouterr().out
    assert "| rdna minus " in first
    assert "hardly trained" in first
    assert str(tmp_path) not in first
    held = json.loads((out / "rdna.json").read_text())
    assert [row["arm"] for row in held["rows"]] == list(rdna.ARMS)
    assert all(0 <= row[name] <= 1 for row in held["rows"] for name in METRICS)
    assert {found["minus"] for found in held["differences"]} == {rdna.PLAIN, rdna.TRANSFORMER}
    kept = {path: path.stat().st_mtime_ns for path in out.glob("runs/**/metrics.json")}
    assert len(list(out.glob("runs/phantom/rdna/*/scores.npz"))) == 3
    assert len(list(out.glob("runs/phantom/autoencoder/*"))) == 1  # shared
    rdna.main(arguments)
    assert capsys.readouterr().out == first
    assert kept == {path: path.stat().st_mtime_ns for path in out.glob("runs/**/metrics.json")}


def test_differences_are_paired_by_seed() -> None:
    outcomes = [outcome(rdna.RDNA, seed, 0.5) for seed in range(4)]
    outcomes += [outcome(rdna.TRANSFORMER, seed, 0.0) for seed in (1, 2, 3, 9)]
    found = differences(outcomes, rdna.TRANSFORMER)
    assert found.keys() == set(METRICS)
    for metric in ("pixel_AUROC", "pixel_AP", "pixel_AUPRO"):
        assert found[metric].mean == pytest.approx(0.05, abs=1e-9)  # the same luck for both
        assert found[metric].excludes_zero
    images = found["image_AUROC"]
    assert images.low is not None
    assert images.high is not None
    assert images.low < images.mean < images.high
    assert images.mean > 0.02
    assert differences(outcomes, rdna.PLAIN) == {}


def test_the_report_says_what_is_reached_and_what_is_missing() -> None:
    outcomes = [outcome(arm, seed, 0.0) for arm in (rdna.RDNA, rdna.PLAIN) for seed in range(3)]
    text = report(outcomes, 9, FULL, FACTS)
    assert "Not finished: 6 of 9 trainings." in text
    assert "0.985 is not reached" in text
    assert "0.728 is reached" in text
    assert "| without discriminators | +0.0000 " in text
    assert "Published" not in report(outcomes, 6, rdna.SETTINGS["reduced"], FACTS)
    assert "Published" not in report(outcomes, 6, FULL, {**FACTS, "keys": ["dataset.size=128"]})
    other = [outcome(rdna.RDNA, 0, 0.0, "magnetic_tile")]
    assert "Published" not in report(other, 1, FULL, FACTS)
    assert "rdna minus" not in report(other, 1, FULL, FACTS)


def test_without_masks_there_are_no_pixel_metrics() -> None:
    made = [outcome(arm, 0, 0.0) for arm in rdna.ARMS]
    plain = [
        Outcome("x", o.arm, 0, {"image_AUROC": o.metrics["image_AUROC"]}, o.scores, o.labels) for o in made
    ]
    assert differences(plain, rdna.PLAIN).keys() == {"image_AUROC"}
    assert "## x" in report(plain, 3, Setting("some", (), ()), FACTS)


def test_keys_of_discriminators_leave_the_others_alone(tmp_path: Path) -> None:
    options = rdna.parser().parse_args(["detector.adversarial_weight=0.3", "seed=4", "--out", str(tmp_path)])
    for arm in rdna.ARMS:
        given = rdna.Case("bottle", arm, 0).overrides(options)
        assert ("detector.adversarial_weight=0.3" in given) == (arm == rdna.RDNA)
        assert given[-1] == "seed=4"
    assert len(rdna.cases(options)) == 2 * 3 * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "bottle", "--data", "nowhere"], "bottle: nowhere/mvtec/bottle is missing"),
        (["--datasets", "phantom", "--seeds", "0"], "--seeds 0 must be at least 1"),
        (
            ["--datasets", "phantom", "--quick", "detector.depth"],
            "detector.depth: give keys of train_detector.py as key",
        ),
        (["--datasets", "phantom", "--quick", "detector.stepz=3"], "detector.stepz=3 is an unknown key"),
    ],
)
def test_mistakes(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        rdna.main([*arguments, "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
