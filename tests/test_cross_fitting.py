"""Labelled anomalies that detectors learn from are judged by detectors that learned from the others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_backbones
import torch
from conftest import RunHere
from hypothesis import given
from hypothesis import strategies as st

import latent_env
import train_detector
import train_ppo
from agents.rollout import load_augmented
from detectors.training.samples import SampleSource
from latent_env.data import Split
from latent_env.training.run_folder import Run
from latent_env.worlds.decision import load_decision
from latent_env.worlds.labelled_anomalies import load_labelled_anomalies
from latent_env.worlds.thresholds import Decision, Folds
from stages.detector import cross_fitting
from stages.detector.cross_fitting import divide
from stages.detector.trainers.probe import ProbeTrainer

KEYS = [
    *("dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=12", "dataset.test=8"),
    *("device=cpu", "threads=1", "autoencoder.steps=3", "autoencoder.width=8"),
    *("detector.backbone=mobilenet", "detector.grid=4", "detector.components=8"),
]
PROBE = [*KEYS, "detector=probe", "detector.baselines=[]"]
PANEL = [
    *KEYS,
    *("detector=panel", "detector.steps=4", "detector.width=16", "detector.batch_size=4"),
]
RANDOM = ["agent=random", "env.num_envs=4", "samples=96", "rounds=1", "reward_ensemble.count=0"]


@pytest.fixture
def here(tmp_path: Path) -> Path:
    tiny_backbones.mobilenet(tmp_path / "mobilenet")
    return tmp_path


def only_run(here: Path, stage: str) -> Path:
    (path,) = here.glob(f"runs/phantom/{stage}/*/metrics.json")
    return path.parent


def split_of(names: Sequence[str], anomalies: int) -> Split:
    """Images whose names alone matter, the first ones anomalous."""
    labels = (np.arange(len(names)) < anomalies).astype(np.int64)
    return Split(np.zeros((len(names), 1, 8, 8), np.uint8), labels, None, tuple(names))


def folds_of(names: Sequence[str], most: int = 5, pattern: str | None = None) -> tuple[str, list[list[str]]]:
    """What folds of the anomalies with these names are of, and their names; there are normal images too."""
    valid = split_of([*names, *(f"valid/good/{number}.png" for number in range(len(names)))], len(names))
    of, folds = divide(valid, np.arange(len(names)), most, pattern)
    return of, [[names[row] for row in fold] for fold in folds]


# --- folds ---


def test_folds_are_of_kinds_where_there_are_several() -> None:
    names = ["train/dent/0.png", "train/dent/1.png", "train/scratch/0.png", "train/crack/7.png"]
    assert folds_of(names) == ("kinds", [names[:2], names[2:3], names[3:]])
    of, folds = folds_of([f"train/{kind}/{number}.png" for kind in "abcdefg" for number in range(2)])
    assert (of, len(folds)) == ("kinds", 5)
    assert all(len({name.split("/")[1] for name in fold} & set("abcdefg")) * 2 == len(fold) for fold in folds)


def test_folds_are_of_groups_where_names_have_some() -> None:
    names = [f"train/tumour/patient{patient}_slice{number}.png" for patient in (3, 5, 9) for number in (1, 2)]
    assert folds_of(names) == ("groups", [names[:2], names[2:4], names[4:]])
    odd = [f"train/tumour/{letter}-{number}-x.png" for letter in "uvw" for number in (1, 2)]
    assert folds_of(odd)[0] == "images"
    assert folds_of(odd, pattern="([uvw])-") == ("groups", [odd[:2], odd[2:4], odd[4:]])


@pytest.mark.parametrize("names", [["valid/0", "valid/1", "valid/2"], ["train/dent/a.png", "valid/b.png"]])
def test_other_folds_are_of_images(names: list[str]) -> None:
    assert folds_of(names) == ("images", [[name] for name in names])


def test_one_anomaly_or_no_fold_is_no_division() -> None:
    assert folds_of(["train/dent/0.png"]) == ("images", [])
    assert folds_of(["valid/0", "valid/1"], most=0) == ("images", [])


@given(st.lists(st.integers(0, 6), min_size=2, max_size=30), st.integers(2, 8))
def test_every_anomaly_is_in_one_fold_and_no_kind_in_two(kinds: list[int], most: int) -> None:
    names = [f"train/kind{kind}/x{number}.png" for number, kind in enumerate(kinds)]
    of, folds = folds_of(names, most)
    assert sorted(name for fold in folds for name in fold) == sorted(names)
    assert len(folds) == min(most, len(set(kinds)) if of == "kinds" else len(names))
    if of == "kinds":
        where: dict[str, int] = {}
        for number, fold in enumerate(folds):
            for name in fold:
                assert where.setdefault(name.split("/")[1], number) == number


# --- scores of several detectors ---


def test_scores_of_another_detector_are_told_in_the_units_of_this_one() -> None:
    normal = np.sort(np.random.default_rng(0).normal(size=200)).astype(np.float32)
    anomalous = np.array([-1, 0, 3], np.float32)
    here = Decision(normal, normal, np.zeros(0, np.float32), "mine")
    other = Decision(normal * 7 - 40, normal, anomalous * 7 - 40, "mine")
    assert np.allclose(here.rescaled(other), anomalous, atol=1e-4)


# --- commands ---


def test_five_labelled_anomalies_are_judged_by_five_other_detectors(here: Path, run_here: RunHere) -> None:
    code, out, error = run_here(train_detector.main, "train_detector", *PANEL, "labelled.count=5", cwd=here)
    assert code == 0, error
    run = only_run(here, "detector")
    assert "detector, fold 1 of 5" in error
    assert "each of the 5 labelled anomalies was judged by a detector that hadn't learned from it" in out
    assert "5 folds of images" in out
    decision = load_decision(run)
    assert (len(decision.anomalous), decision.folds) == (5, Folds(5, "images"))
    assert not list(run.glob("fold_*"))
    detector = latent_env.load_detector(str(run)).with_best_f1()
    assert detector.threshold.f1 is not None


@pytest.mark.parametrize(
    ("keys", "folds"),
    [
        (["labelled.count=1"], None),
        (["labelled.count=2"], Folds(2, "images")),
        (["labelled.count=5", "labelled.folds=0"], None),
    ],
    ids=str,
)
def test_as_many_folds_as_there_can_be(
    here: Path, run_here: RunHere, keys: list[str], folds: Folds | None
) -> None:
    code, out, error = run_here(train_detector.main, "train_detector", *PROBE, *keys, cwd=here)
    assert code == 0, error
    decision = load_decision(only_run(here, "detector"))
    assert decision.folds == folds
    count = int(keys[0].partition("=")[2])
    assert len(decision.anomalous) == (count if folds else 0)
    assert ("cross-fitted" in out) == (folds is not None)


def test_anomalies_that_nothing_learned_from_need_no_folds(here: Path, run_here: RunHere) -> None:
    keys = [*PROBE, "labelled.count=6", "labelled.few=0"]
    code, out, error = run_here(train_detector.main, "train_detector", *keys, cwd=here)
    assert code == 0, error
    decision = load_decision(only_run(here, "detector"))
    assert (len(decision.anomalous), decision.folds) == (3, None)
    assert "cross-fitted" not in out


@pytest.mark.slow
def test_detectors_that_take_long_are_trained_once_unless_folds_are_asked_for(
    here: Path, run_here: RunHere
) -> None:
    keys = [*KEYS, "labelled.count=2", "detector.baselines=[]", "detector.steps=2", "detector.width=16"]
    keys += ["detector.heads=2", "detector.batch_size=4", "synthesis.pool=4", "detector=transformer"]
    code, _, error = run_here(train_detector.main, "train_detector", *keys, cwd=here)
    assert code == 0, error
    assert load_decision(only_run(here, "detector")).folds is None
    (only_run(here, "detector") / "metrics.json").unlink()
    code, _, error = run_here(train_detector.main, "train_detector", *keys, "labelled.folds=2", cwd=here)
    assert code == 0, error
    assert load_decision(only_run(here, "detector")).folds == Folds(2, "images")


def test_a_single_fold_is_refused(here: Path, run_here: RunHere) -> None:
    code, _, error = run_here(
        train_detector.main, "train_detector", *PROBE, "labelled.count=5", "labelled.folds=1", cwd=here
    )
    assert code == 2
    assert "labelled.folds=1: what one fold judges the others must teach" in error
    assert not list(here.glob("runs/phantom/*/*/metrics.json"))


class KilledError(Exception):
    pass


def test_a_command_that_was_killed_goes_on_with_the_fold_that_it_was_in(
    here: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [*PANEL, "labelled.count=3"]
    code, _, error = run_here(train_detector.main, "train_detector", *keys, "runs=whole", cwd=here)
    assert code == 0, error
    decide, calls = cross_fitting.decide, 0

    def killed_in_the_second_fold(*arguments: Any) -> Decision | None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KilledError
        return decide(*arguments)

    monkeypatch.setattr(cross_fitting, "decide", killed_in_the_second_fold)
    with pytest.raises(KilledError):
        run_here(train_detector.main, "train_detector", *keys, cwd=here)
    capsys.readouterr()
    code, _, error = run_here(train_detector.main, "train_detector", *keys, cwd=here)
    assert code == 0, error
    assert "detector, fold 1 of 3" not in error
    assert "detector, fold 2 of 3: going on from step 4 of 4" in error
    (whole,) = here.glob("whole/phantom/detector/*")
    run = only_run(here, "detector")
    assert np.array_equal(load_decision(run).anomalous, load_decision(whole).anomalous)
    assert not list(run.glob("fold_*"))


@pytest.fixture
def trained_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Path, ProbeTrainer, list[int]]]]:
    """The folder, the trainer and the numbers of samples of every probe that is trained."""
    found: list[tuple[Path, ProbeTrainer, list[int]]] = []
    train = ProbeTrainer.train

    def noting(trainer: ProbeTrainer, run: Run, label: str, sources: Sequence[SampleSource] = ()) -> Any:
        found.append((run.path, trainer, [len(source.samples.labels) for source in sources]))
        return train(trainer, run, label, sources)

    monkeypatch.setattr(ProbeTrainer, "train", noting)
    return found


def test_what_has_anything_of_an_anomaly_is_left_out_where_it_is_judged(
    here: Path, run_here: RunHere, trained_on: list[tuple[Path, ProbeTrainer, list[int]]]
) -> None:
    keys = [*PROBE, *RANDOM, "labelled.count=3", "env.horizon=2", "env.shell_ratio=1.2"]
    code, out, error = run_here(train_ppo.main, "train_ppo", *keys, cwd=here)
    assert code == 0, error
    run = only_run(here, "agent")
    made, anomalies = load_augmented(run / "augmented.npz"), load_labelled_anomalies(run)
    assert anomalies is not None
    assert bool(made.contains[made.copied >= 0].any(1).all())  # what was mostly copied is in it
    folds = [
        each for each in trained_on if each[0].parent.name == run.name and each[0].name.startswith("fold_")
    ]
    assert len(folds) == 3
    for _, trainer, counts in folds:
        valid = trainer.data.dataset.valid
        (held_out,) = np.setdiff1d(np.flatnonzero(valid.labels), trainer.labelled_split.train)
        image = torch.from_numpy(np.array(valid.images[held_out]))
        (number,) = [at for at, other in enumerate(anomalies.images) if torch.equal(image, other)]
        assert counts == [int((~made.contains[:, number]).sum())]
        assert counts[0] < len(made)
    assert load_decision(run).folds == Folds(3, "images")
    assert not list(run.glob("fold_*"))
    found = json.loads((run / "report.json").read_text())["thresholds"]
    assert found["folds"] == {"number": 3, "of": "images"}
    assert 0 <= found["cross_fitted_image_AUROC"] <= 1
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "each of the 3 labelled anomalies was judged by a detector that hadn" in page
    assert "best_f1" in found
    assert "## Thresholds" not in out
