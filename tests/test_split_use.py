"""The test split is read once: by the comparison, when all is trained and chosen."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import TINY, TINY_PPO, RunHere

import train_detector
import train_ppo
from latent_env.data import Dataset, Split
from stages import training_data
from stages.augmentation import stage
from stages.detector.base import FinishedDetector


class Guarded:
    """A test split that counts how often its contents are read, and refuses while it isn't open."""

    def __init__(self, split: Split) -> None:
        self.split, self.open, self.reads = split, True, 0

    def __getattr__(self, name: str) -> Any:
        if name in ("images", "labels", "masks", "subset", "normal"):
            assert self.open, f"{name} of the test split is read too early"
            self.reads += 1
        return getattr(self.split, name)

    def __len__(self) -> int:
        return len(self.split)


@pytest.fixture
def guarded(monkeypatch: pytest.MonkeyPatch) -> list[Guarded]:
    """The test splits of the data sets that commands load; the fingerprint was taken before."""
    found: list[Guarded] = []
    load = training_data.load_training_data

    def loading(*arguments: Any) -> Any:
        data = load(*arguments)
        found.append(Guarded(data.dataset.test))
        dataset: Dataset = dataclasses.replace(data.dataset, test=found[-1])  # type: ignore[arg-type]
        found[-1].open, found[-1].reads = False, 0  # from here on, after the data set has checked its shapes
        return dataclasses.replace(data, dataset=dataset)

    for module in (train_ppo, train_detector):
        monkeypatch.setattr(module, "load_training_data", loading)
    return found


def opening(guarded: list[Guarded], function: Any) -> Any:
    """``function``, which may read the test split."""

    def call(*arguments: Any) -> Any:
        guarded[-1].open = True
        return function(*arguments)

    return call


def test_an_experiment_reads_it_in_the_comparison_alone(
    guarded: list[Guarded], tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "write_comparison", opening(guarded, stage.write_comparison))
    code, out, said = run_here(train_ppo.main, "train_ppo", *TINY_PPO, cwd=tmp_path)
    assert code == 0, said
    assert "image_AUROC" in out
    assert guarded[0].reads > 0


@pytest.mark.parametrize("detector", ["transformer", "gaussian", "reconstruction"])
def test_a_detector_reads_it_when_it_is_evaluated(
    detector: str, guarded: list[Guarded], tmp_path: Path, run_here: RunHere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FinishedDetector, "evaluate", opening(guarded, FinishedDetector.evaluate))
    budget = TINY if detector == "transformer" else TINY[:5]
    arguments = [*budget, f"detector={detector}"]
    code, out, said = run_here(train_detector.main, "train_detector", *arguments, cwd=tmp_path)
    assert code == 0, said
    assert "image_AUROC" in out
    assert guarded[0].reads > 0


def test_a_guard_that_is_closed_refuses(guarded: list[Guarded], tmp_path: Path, run_here: RunHere) -> None:
    with pytest.raises(AssertionError, match="too early"):
        run_here(train_detector.main, "train_detector", *TINY, cwd=tmp_path)
    assert sys.exc_info() == (None, None, None)
