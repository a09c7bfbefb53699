"""How the members of an ensemble are chosen and weighted on validation, and the scripts with ensembles."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_backbones
from conftest import TINY, TINY_AGENT, TINY_PPO, RunHere, later_wins

import train_detector
import train_ppo
from detectors.distances.gaussian import GaussianDetector
from detectors.distances.knn import KnnDetector
from detectors.ensemble import EnsembleDetector
from detectors.latent_transformer import LatentTransformerDetector
from detectors.metrics import image_AUROC, pixel_AUPRO
from detectors.reconstruction import ReconstructionDetector
from detectors.training.ensemble_selection import plateau_middle, select_map_weight, select_member
from latent_env.worlds.artifacts import load_detector

# --- choosing on validation ---


def random_scores(
    count: int, seed: int, distance: float
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Scores of as many normal images as anomalies, ``distance`` standard deviations apart, and labels."""
    labels = np.repeat([0, 1], count)
    scores = np.random.default_rng(seed).normal(size=2 * count) + distance * labels
    return scores.astype(np.float32), labels


def selection_of(trained: float, **others: float) -> tuple[str, float]:
    """What is chosen of detectors that tell anomalies from normal images by so many standard deviations."""
    first, labels = random_scores(3000, 0, trained)
    scores = {
        name: random_scores(3000, 1 + i, apart)[0] * 7 + 3 for i, (name, apart) in enumerate(others.items())
    }
    return select_member(first, scores, labels, np.flatnonzero(labels == 0))[:2]


def test_noise_gets_no_weight() -> None:
    assert selection_of(1.5, noise=0) == ("noise", 1.0)
    assert selection_of(0, good=1.5) == ("good", 0.0)


def test_the_better_detector_gets_more_weight() -> None:
    assert 0 < selection_of(1, better=2)[1] < 0.5 < selection_of(2, worse=1)[1] < 1
    assert selection_of(1.5, equal=1.5)[1] == pytest.approx(0.5, abs=0.1)


def test_the_best_of_several_is_chosen() -> None:
    name, weight = selection_of(1, noise=0, better=2, good=1)
    assert name == "better"
    assert 0 < weight < 0.5


def test_where_nothing_is_better_weights_are_equal() -> None:
    assert selection_of(50, perfect=50) == ("perfect", 0.5)


def test_scores_that_do_not_differ_are_no_reason() -> None:
    first, labels = random_scores(50, 0, 1.0)
    found = select_member(first, {"dumb": np.zeros_like(first)}, labels, np.flatnonzero(labels == 0))
    assert 0 < found.weight <= 1
    assert found.candidates["dumb"][0] == 0.5
    assert found.candidates["dumb"][-1] == image_AUROC(first, labels)


def test_maps_are_weighted_by_where_the_anomaly_is() -> None:
    masks, labels = np.zeros((40, 16, 16), bool), np.repeat([0, 1], 20)
    masks[20:, 3:9, 5:12] = True
    rng = np.random.default_rng(0)
    blind, right = (rng.normal(size=masks.shape).astype(np.float32) for _ in range(2))
    right += 3 * masks
    assert select_map_weight(right, blind, masks, labels)[0] > 0.7
    assert select_map_weight(blind, right, masks, labels)[0] < 0.3
    calls: list[int] = []
    weight, found = select_map_weight(right, right, masks, labels, lambda: calls.append(1))
    assert weight == 0.5
    assert found == pytest.approx([pixel_AUPRO(right, masks)] * len(calls))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.1, 0.2, 0.9, 0.2, 0.1], 2),
        ([0.9, 0.9, 0.9, 0.2, 0.1], 1),
        ([0.9, 0.9, 0.2, 0.2, 0.1], 1),
        ([0.1, 0.2, 0.2, 0.9, 0.9], 3),
        ([0.5] * 5, 2),
        ([0.1, 0.2, 0.2, 0.895, 0.9], 3),
        ([0.9, 0.1, 0.2, 0.9, 0.2], 3),
        ([0.1, 0.2, 0.2, 0.2, 0.9], 4),
    ],
)
def test_the_middle_of_the_best_plateau(values: list[float], expected: int) -> None:
    assert plateau_middle(values, 0.01) == expected


# --- the scripts ---


def only_run(here: Path, stage: str, dataset: str = "digits") -> Path:
    (path,) = here.glob(f"runs/{dataset}/{stage}/*/metrics.json")
    return path.parent


def metrics_of(run: Path) -> dict[str, float]:
    loaded: dict[str, float] = json.loads((run / "metrics.json").read_text())
    return loaded


def test_the_reconstruction_error_from_nothing(tmp_path: Path, run_here: RunHere) -> None:
    tiny = [*TINY[:-2], "detector=reconstruction"]
    code, out, error = run_here(train_detector.main, "train_detector", *tiny, cwd=tmp_path)
    assert code == 0, error
    run = only_run(tmp_path, "detector")
    assert isinstance(load_detector(run), ReconstructionDetector)
    assert f"image_AUROC  {metrics_of(run)['image_AUROC']:.4f}" in out
    assert (run / "pictures/test_detections.png").is_file()
    assert (run / "pictures/test_curves.png").is_file()
    _, again, error = run_here(train_detector.main, "train_detector", *tiny, cwd=tmp_path)
    assert again == out
    assert "detector: using" in error


def test_all_that_can_join_an_ensemble_of_images_are_candidates(tmp_path: Path, run_here: RunHere) -> None:
    baselines = "detector.baselines=[knn]"
    code, out, error = run_here(
        train_detector.main, "train_detector", *TINY, "detector=ensemble", baselines, cwd=tmp_path
    )
    assert code == 0, error
    run = only_run(tmp_path, "detector")
    told = json.loads((run / "ensemble.json").read_text())
    (by_candidate,) = (value for value in told.values() if isinstance(value, dict))
    assert set(by_candidate) == {"reconstruction", "knn", "positional_knn", "gaussian"}
    assert f"{told['member']}_image_AUROC" in metrics_of(run)
    assert "knn" in out.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["gradient", "ppo"])
def test_an_agent_works_where_a_member_of_the_ensemble_reads_latents(
    agent: str, tmp_path: Path, run_here: RunHere
) -> None:
    short = TINY_PPO if agent == "ppo" else TINY_AGENT
    tiny = [*short, "detector=ensemble", "detector.members=[knn]", f"agent={agent}", "share=0.5"]
    code, out, error = run_here(train_ppo.main, "train_ppo", *tiny, cwd=tmp_path)
    assert code == 0, error
    assert "image_AUROC" in out
    for stage in ("detector", "agent"):
        joined = load_detector(only_run(tmp_path, stage))
        assert isinstance(joined, EnsembleDetector)
        assert joined.input == "both"
    assert gym.make("LatentAug-v0", artifacts=str(only_run(tmp_path, "agent"))).reset(seed=0)


def test_an_ensemble_from_nothing(tmp_path: Path, run_here: RunHere) -> None:
    tiny = [*TINY, "detector=ensemble", "detector.members=[reconstruction]"]
    code, out, error = run_here(train_detector.main, "train_detector", *tiny, "export=out", cwd=tmp_path)
    assert code == 0, error
    run = only_run(tmp_path, "detector")
    assert sorted(out.splitlines()[0].split()) == ["ensemble", "reconstruction", "transformer"]
    metrics = metrics_of(run)
    assert {"transformer_image_AUROC", "reconstruction_image_AUROC"} <= metrics.keys()
    assert metrics["weight_transformer"] + metrics["weight_reconstruction"] == pytest.approx(1)
    told = json.loads((run / "ensemble.json").read_text())
    assert told["member"] == "reconstruction"
    assert told["weight"] == metrics["weight_transformer"]
    assert "ensemble: transformer × " in error
    assert "weight_of_map" not in told, "there are no masks"
    assert gym.make("LatentAug-v0", artifacts=str(tmp_path / "out")).reset(seed=0)[0].shape == (16 + 32,)
    _, again, error = run_here(train_detector.main, "train_detector", *tiny, cwd=tmp_path)
    assert again.splitlines()[:4] == out.splitlines()[:4]


def test_where_masks_are_known_maps_have_weights_of_their_own(tmp_path: Path, run_here: RunHere) -> None:
    small = ["dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=8", "dataset.test=8"]
    tiny = later_wins(*TINY, *small, "detector=ensemble", "detector.members=[reconstruction]")
    code, _, error = run_here(train_detector.main, "train_detector", *tiny, cwd=tmp_path)
    assert code == 0, error
    assert "ensemble's map: transformer × " in error
    run = only_run(tmp_path, "detector", "phantom")
    told, metrics = json.loads((run / "ensemble.json").read_text()), metrics_of(run)
    weight = told["weight_of_map"]
    (by_candidate,) = (value for value in told.values() if isinstance(value, list))
    assert by_candidate[round(10 * weight)] >= max(by_candidate) - 0.1
    given = metrics["weight_of_map_transformer"], metrics["weight_of_map_reconstruction"]
    assert given == pytest.approx((weight, 1 - weight))
    joined = load_detector(run)
    assert isinstance(joined, EnsembleDetector)
    assert joined.map_weights == pytest.approx(given)


def test_before_and_after_are_ensembles(tmp_path: Path, run_here: RunHere) -> None:
    tiny = [*TINY_AGENT, "detector=ensemble", "agent=random", "share=0.5"]
    code, out, error = run_here(train_ppo.main, "train_ppo", *tiny, cwd=tmp_path)
    assert code == 0, error
    assert "image_AUROC" in out
    for stage in ("detector", "agent"):
        assert isinstance(load_detector(only_run(tmp_path, stage)), EnsembleDetector)
    before, after = (only_run(tmp_path, stage) / "detector.safetensors" for stage in ("detector", "agent"))
    assert before.read_bytes() != after.read_bytes()
    assert (only_run(tmp_path, "agent") / "with_agent_0.5/ensemble.json").is_file()


DATA = ["dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=8", "dataset.test=8"]
BACKBONE = ["autoencoder=pretrained", "autoencoder.backbone=mobilenet", "autoencoder.grid=4"]
DECODER = [
    "autoencoder.components=8",
    "autoencoder.width=4",
    "autoencoder.steps=3",
    "autoencoder.batch_size=4",
]
SHORT = ["detector.steps=3", "detector.width=16", "detector.heads=2", "synthesis.pool=8"]
PRETRAINED = [*DATA, "device=cpu", "threads=1", *BACKBONE, *DECODER]


def test_pretrained_backbone(tmp_path: Path, run_here: RunHere) -> None:
    tiny_backbones.mobilenet(tmp_path / "mobilenet")

    def command(*arguments: str) -> str:
        code, out, error = run_here(
            train_detector.main, "train_detector", *PRETRAINED, *arguments, cwd=tmp_path
        )
        assert code == 0, error
        return out.splitlines()[0]

    assert command("detector=reconstruction", "detector.position_wise=true").startswith("image_AP")
    second = ["detector=ensemble", "detector.members=[gaussian,knn]", "detector.baselines=[gaussian,knn]"]
    assert sorted(command(*SHORT, *second).split()) == ["ensemble", "gaussian", "knn", "transformer"]
    (run,) = tmp_path.glob("runs/phantom/detector/ensemble*")
    kinds = [type(part) for part in load_detector(run).named_members().values()]  # type: ignore[attr-defined]
    assert kinds[0] is LatentTransformerDetector
    assert kinds[1] in (GaussianDetector, KnnDetector)
    assert gym.make("LatentAug-v0", artifacts=str(run)).reset(seed=0)[0].shape == (8 * 4 * 4 + 27,)


MISTAKES = [
    (["detector.members=[nobody]"], "detector.members=nobody is unknown: choose among reconstruction"),
    (
        ["detector.members=[reconstruction]", "detector.input=latent"],
        "detector.members=reconstruction doesn't read what the transformer reads, with "
        "detector.input=latent: choose among knn, positional_knn, gaussian",
    ),
    (["detector.members=[]"], "detector.members=[] leaves no candidate"),
    (["detector.input=smell"], "detector.input=smell is unknown"),
    (["detector=knn", "detector.name=mine"], "detector.name=mine is unknown"),
]


@pytest.mark.parametrize(("mistake", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_a_mistake_is_one_clear_line(
    mistake: list[str], message: str, tmp_path: Path, run_here: RunHere
) -> None:
    arguments = ["dataset=digits", "device=cpu", "threads=1", *mistake]
    if "detector=knn" not in mistake:
        arguments.append("detector=ensemble")
    code, _, error = run_here(train_detector.main, "train_detector", *arguments, cwd=tmp_path)
    assert code == 2, error
    (line,) = [line for line in error.splitlines() if line.startswith("train_detector.py: ")]
    assert message in line
    assert not list(tmp_path.glob("runs/**/metrics.json"))  # nothing was made before it was noticed
