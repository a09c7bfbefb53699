"""The reconstruction error, ensembles of detectors, and their scores of decoded images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from random_latents import seeded
from torch import Tensor

from agents.baselines.gradient import GradientAgent
from agents.baselines.none_and_random import NoneAgent
from agents.rollout import collect
from detectors.base import BOTH, Detection, Detector, inputs_for
from detectors.blocks.tokens import at_size
from detectors.distances.gaussian import GaussianDetector
from detectors.distances.knn import KnnDetector
from detectors.ensemble import EnsembleDetector
from detectors.latent_transformer import LatentTransformerDetector
from detectors.metrics import image_AUROC
from detectors.reconstruction import ReconstructionDetector
from detectors.training.loop import InputsOf
from detectors.transformer import TransformerDetector
from latent_common.errors import UserError
from latent_common.image_source import ImageSource
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings
from latent_env.worlds.artifacts import load_detector, save_detector
from latent_env.worlds.store import load_world, save_world, seal_world
from latent_env.worlds.world import World

CPU = torch.device("cpu")
LATENT_SHAPE = (4, 5, 6)
ALL_INPUTS = pytest.mark.parametrize("reads", ["image", "latent", "both"])
BY_PLACE = pytest.mark.parametrize("position_wise", [False, True])


# --- reconstruction ---


def blurred(images: Tensor) -> Tensor:
    """An autoencoder of sorts: it knows no detail."""
    return torch.nn.functional.avg_pool2d(images, 5, 1, 2, count_include_pad=False)


def pictures(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Smooth images ``(count, 3, size, size)`` uint8 with a little noise and one edge."""
    ramp = torch.linspace(60, 120, size).expand(count, 3, size, size).clone()
    ramp[:, :, : size // 2] += 80
    generator = seeded(seed)
    much = 8 * torch.rand(count, 1, 1, 1, generator=generator)
    noise = much * torch.randn(ramp.shape, generator=generator)
    return (ramp + noise).clamp(0, 255).to(torch.uint8)


def fitted_reconstruction(size: int = 32, position_wise: bool = False) -> ReconstructionDetector:
    detector = ReconstructionDetector(3, size, position_wise)
    detector.fit(pictures(40, size), blurred)
    detector.calibrate(pictures(60, size, seed=1), blurred)
    return detector


def calibrated_predictions(detector: ReconstructionDetector, images: Tensor) -> Any:
    floats = images.float() / 255
    return detector(floats, blurred(floats))


@BY_PLACE
@pytest.mark.parametrize("size", [8, 32])
def test_a_spoilt_image_has_a_higher_score_than_a_clean_one(position_wise: bool, size: int) -> None:
    detector, clean = fitted_reconstruction(size, position_wise), pictures(4, size, seed=2)
    spoilt = clean.clone()
    spoilt[:, :, 1, 1:5] = 255  # where normal images are nothing but noise
    one, other = calibrated_predictions(detector, clean), calibrated_predictions(detector, spoilt)
    assert other.map.shape == (4, 1, size, size)
    assert (other.score > one.score).all()
    rows = other.map[:, 0].amax(2).argmax(1)
    if position_wise or size == 8:
        assert (rows <= 2).all()


@BY_PLACE
def test_zero_is_further_out_than_95_percent_of_normal_images(position_wise: bool) -> None:
    score = calibrated_predictions(
        fitted_reconstruction(position_wise=position_wise), pictures(60, seed=1)
    ).score
    assert int((score < 0).sum()) == 57
    assert float(score.quantile(0.95)) == pytest.approx(0, abs=1e-4)
    assert float(score.std(correction=0)) == pytest.approx(1, abs=1e-3)


def test_position_wise_the_edge_that_is_always_blurred_counts_less() -> None:
    spoilt = pictures(8, seed=2)
    spoilt[:, :, 4:6, 10:13] -= 40
    for position_wise, rows in ((False, (14, 15, 16, 17)), (True, (2, 3, 4, 5, 6, 7))):
        found = (
            calibrated_predictions(fitted_reconstruction(position_wise=position_wise), spoilt)
            .map[:, 0]
            .amax(2)
            .argmax(1)
        )
        assert set(found.tolist()) <= set(rows)


@BY_PLACE
def test_a_saved_reconstruction_detector_scores_the_same(position_wise: bool, tmp_path: Path) -> None:
    detector = fitted_reconstruction(position_wise=position_wise)
    save_detector(tmp_path, detector)
    again = load_detector(tmp_path)
    assert isinstance(again, ReconstructionDetector)
    assert again.hyperparameters() == detector.hyperparameters()
    new = pictures(5, seed=3)
    for one, other in zip(
        calibrated_predictions(detector, new), calibrated_predictions(again, new), strict=True
    ):
        assert torch.equal(one, other)


# --- the ensemble ---


def coarse_images(images: Tensor) -> Tensor:
    """Latents of sorts, ``(N, 3, 4, 4)``: the colours of large tokens."""
    return torch.nn.functional.adaptive_avg_pool2d(images, 4)


def standardised_prediction(part: Detector, new: tuple[Tensor, ...], joined: EnsembleDetector) -> Detection:
    """A member's own prediction for the inputs of an ensemble, its map as large as the ensemble's."""
    found = part(*inputs_for(part.input, new))
    return Detection(found.score, at_size(found.map, 32)) if joined.input == BOTH else found


def members_of(reads: str) -> tuple[dict[str, Detector], ImageSource, InputsOf, tuple[Tensor, ...]]:
    """A transformer and a second detector; normal images or latents, their inputs, and inputs of new ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if reads != "latent":
            trained = TransformerDetector(3, 32, width=16, depth=1, heads=2)
            torch.nn.init.normal_(trained.out.weight, std=0.5)
            second: Detector = fitted_reconstruction()
            new, normal = pictures(20, seed=5).float() / 255, pictures(40, seed=4)
            inputs_of: InputsOf = lambda images: (images, blurred(images))  # noqa: E731
            if reads == "both":
                small = coarse_images(normal.float() / 255)
                second = GaussianDetector(tuple(small.shape[1:]))
                second.fit(small, torch.ones(3), 0)
                second.calibrate(small)
                inputs_of = lambda images: (images, blurred(images), coarse_images(images))  # noqa: E731
            return {"transformer": trained.eval(), "second": second}, normal, inputs_of, inputs_of(new)
        latents = torch.randn(60, *LATENT_SHAPE)
        of_latents = LatentTransformerDetector(LATENT_SHAPE, 30, width=16, depth=1, heads=2).eval()
        of_latents.memory.fill(latents[:30], torch.arange(30))
        of_latents.calibrate(latents[30:])
        gaussian = GaussianDetector(LATENT_SHAPE)
        gaussian.fit(latents[:30], torch.ones(4), 0)
        gaussian.calibrate(latents[30:])
        both: dict[str, Detector] = {"transformer": of_latents, "second": gaussian}
        return both, latents[30:], lambda batch: (batch,), (torch.randn(20, *LATENT_SHAPE) * 1.2,)


def ensemble(
    reads: str, *weights: float, of_maps: Sequence[float] | None = None
) -> tuple[EnsembleDetector, tuple[Tensor, ...]]:
    made, normal, inputs_of, new = members_of(reads)
    joined = EnsembleDetector(made, weights, of_maps)
    joined.requires_grad_(False).eval().calibrate(normal, inputs_of)
    return joined, new


@ALL_INPUTS
@pytest.mark.parametrize(("weights", "name"), [((1, 0), "transformer"), ((0, 1), "second")])
def test_alone_a_part_orders_images_as_it_always_does(
    reads: str, weights: tuple[float, float], name: str
) -> None:
    joined, new = ensemble(reads, *weights)
    found, own = joined(*new), standardised_prediction(joined.named_members()[name], new, joined)
    assert joined.input == reads
    assert joined.input_shape == tuple(new[0].shape[1:])
    assert found.score.argsort().tolist() == own.score.argsort().tolist()
    assert found.map.shape == own.map.shape
    assert same_but_for_scale(found.map, own.map)


def same_but_for_scale(one: Tensor, other: Tensor) -> bool:
    """Whether maps are each other, moved and stretched."""
    correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))
    return float(correlation[0, 1]) == pytest.approx(1, abs=1e-4)


@ALL_INPUTS
def test_one_part_may_score_and_another_draw_the_map(reads: str) -> None:
    joined, new = ensemble(reads, 1, 0, of_maps=(0, 1))
    found = joined(*new)
    trained, second = (standardised_prediction(part, new, joined) for part in joined.named_members().values())
    assert found.score.argsort().tolist() == trained.score.argsort().tolist()
    assert same_but_for_scale(found.map, second.map)
    assert not same_but_for_scale(found.map, trained.map)
    standard = joined.standardised({"transformer": trained.map, "second": second.map})
    torch.testing.assert_close(standard["second"], found.map + joined.location[1], atol=1e-4, rtol=1e-4)


@ALL_INPUTS
def test_parts_are_added_in_deviations_of_normal_images(reads: str) -> None:
    made, normal, inputs_of, new = members_of(reads)
    joined = EnsembleDetector(made, (0.3, 0.7))
    joined.requires_grad_(False).calibrate(normal, inputs_of)
    floats = normal[:].float() / (1 if reads == "latent" else 255)
    expected, maps = torch.zeros(()), torch.zeros(())
    for part, weight in zip(made.values(), (0.3, 0.7), strict=True):
        of_normal, found = (
            standardised_prediction(part, inputs_of(floats), joined),
            standardised_prediction(part, new, joined),
        )
        expected = expected + weight * (found.score - of_normal.score.mean()) / of_normal.score.std(
            correction=0
        )
        maps = maps + weight * (found.map - of_normal.map.mean()) / of_normal.map.std(correction=0)
    detection = joined(*new)
    torch.testing.assert_close(
        detection.score * joined.scale + joined.location[0], expected, atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(detection.map + joined.location[1], maps, atol=1e-3, rtol=1e-3)
    known = joined(*inputs_of(floats))
    assert float(known.score.quantile(0.95)) == pytest.approx(0, abs=1e-3)
    assert float(known.map.flatten(1).amax(1).quantile(0.95)) == pytest.approx(0, abs=1e-3)


@ALL_INPUTS
def test_a_saved_ensemble_is_one_artifact_that_scores_the_same(reads: str, tmp_path: Path) -> None:
    joined, new = ensemble(reads, 0.4, 0.6, of_maps=(0.9, 0.1))
    save_detector(tmp_path, joined)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["detector.json", "detector.safetensors"]
    again = load_detector(tmp_path)
    assert again.hyperparameters() == joined.hyperparameters()
    for one, other in zip(joined(*new), again(*new), strict=True):
        assert torch.equal(one, other)


@ALL_INPUTS
def test_gradients_reach_the_inputs(reads: str) -> None:
    joined, new = ensemble(reads, 0.5, 0.5)
    moving = new[0].clone().requires_grad_()
    joined(moving, *new[1:]).score.sum().backward()
    assert moving.grad is not None
    assert moving.grad.isfinite().all()
    assert (moving.grad.flatten(1).abs().amax(1) > 0).all()


def test_what_cannot_be_an_ensemble_is_refused(tmp_path: Path) -> None:
    images, latents = members_of("image")[0], members_of("latent")[0]
    for one, other in [
        (images["second"], fitted_reconstruction(8)),
        (latents["second"], GaussianDetector((2, 2, 2))),
    ]:
        with pytest.raises(ValueError, match="of one shape"):
            EnsembleDetector({"one": one, "other": other}, (1, 1))
    for weights in [(1,), (0, 0), (-1, 2)]:
        with pytest.raises(ValueError, match="weights"):
            EnsembleDetector(images, weights)
        with pytest.raises(ValueError, match="weights"):
            EnsembleDetector(images, (1, 1), weights)
    save_detector(tmp_path, ensemble("latent", 1, 0)[0])
    path = tmp_path / "detector.json"
    whole = path.read_text()
    damages: list[Any] = [[], {}, "x", [{"name": "a"}], [{"name": "a", "architecture": "oracle"}]]
    for damage in damages:
        description = json.loads(whole)
        description["facts"]["parts"] = damage
        path.write_text(json.dumps(description))
        with pytest.raises(UserError, match=r"detector\."):
            load_detector(tmp_path)


def ensemble_world(second: str) -> World:
    """A world whose detector is an ensemble."""
    world = load_world("digits", CPU)
    beside: Detector
    if second == "reconstruction":
        beside = ReconstructionDetector(1, world.autoencoder.size)
        beside.calibrate(world.images, world.autoencoder)
    else:
        beside = KnnDetector(world.autoencoder.latent_shape)
        beside.fit(world.latents[::2], world.autoencoder.natural_scales, 0)
        beside.calibrate(world.latents[1::2])
    joined = EnsembleDetector({"transformer": world.detector, second: beside}, (0.5, 0.5))
    joined.requires_grad_(False).eval()
    joined.calibrate(world.images, lambda batch: world.autoencoder.detector_inputs(batch, joined.input))
    return world.with_detector(joined)


@pytest.mark.parametrize("second", ["reconstruction", "knn"])
def test_an_environment_with_an_ensemble(second: str, tmp_path: Path) -> None:
    world = ensemble_world(second)
    save_world(tmp_path, world)
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path))
    env.reset(seed=0)
    assert np.isfinite(float(env.step(env.action_space.sample())[1]))
    dynamics = Settings().dynamics(world, 8)
    observation = dynamics.reset_tensor(seeds=torch.arange(8)).numpy()
    start, climbed = (GradientAgent(dynamics, 0, steps, 0.05).predict(observation)[0] for steps in (0, 5))
    assert float(score_of(dynamics, climbed).mean()) < float(score_of(dynamics, start).mean()) - 0.1


def score_of(dynamics: Dynamics, actions: np.ndarray[Any, Any]) -> Tensor:
    return dynamics.imagine(torch.from_numpy(actions)).detection.score


def test_a_part_of_another_world_is_refused(tmp_path: Path) -> None:
    world = ensemble_world("knn")
    save_world(tmp_path, world)
    members_of = world.detector.named_members()  # type: ignore[attr-defined]
    foreign = EnsembleDetector(
        {"transformer": members_of["transformer"], "knn": KnnDetector((4, 2, 2))}, (1, 0)
    )
    save_detector(tmp_path, foreign)
    seal_world(tmp_path)
    with pytest.raises(UserError, match="they come from different worlds"):
        load_world(str(tmp_path), CPU)


# --- decoded images and real ones ---


def told_apart(world: World, real: Tensor, others: Tensor) -> float:
    """The AUROC of images ``(N, C, H, W)`` uint8 against real ones, by the world's own detector."""
    with torch.inference_mode():
        scores = [world.detect(images.float() / 255).score.numpy() for images in (real, others)]
    return image_AUROC(np.concatenate(scores), np.repeat([0, 1], [len(real), len(others)]))


def test_what_went_through_the_environment_unchanged_scores_like_a_real_image() -> None:
    world = load_world("phantom", CPU)
    dynamics = Settings().dynamics(world, 16)
    made = collect(dynamics, NoneAgent(dynamics), 256, 0)
    assert len(made) == 256
    assert 0.45 <= told_apart(world, world.images[made.source], made.images) <= 0.55


def test_a_decoded_image_is_not_taken_for_an_anomaly() -> None:
    # Rather the other way round: it is a smooth picture of something normal. So only differences are decoded.
    world = load_world("phantom", CPU)
    with torch.inference_mode():
        decoded = (world.autoencoder(world.images.float() / 255) * 255).round().to(torch.uint8)
    assert told_apart(world, world.images, decoded) <= 0.55
