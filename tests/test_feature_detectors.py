"""Detectors that see images with a backbone, whichever autoencoder made them."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_backbones
import torch
from conftest import RunHere, later_wins
from gymnasium.utils.env_checker import check_env
from omegaconf import DictConfig
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from torch import Tensor
from torch.nn import functional

import train_detector
import train_ppo
from agents.baselines.none_and_random import RandomAgent
from agents.rollout import collect
from detectors.base import FEATURES, LATENT
from detectors.blocks.tokens import anomalous_tokens
from detectors.distances.knn import KnnDetector
from detectors.ensemble import EnsembleDetector
from detectors.latent_transformer import LatentTransformerDetector
from latent_common.errors import UserError
from latent_env.autoencoders import ConvAutoencoder, FrozenAutoencoder
from latent_env.autoencoders.backbone import load_backbone
from latent_env.autoencoders.pretrained import fit_encoder
from latent_env.data.builtin.phantom import make_phantom_dataset
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings
from latent_env.worlds.artifacts import load_backbone as load_stored_backbone
from latent_env.worlds.artifacts import save_backbone
from latent_env.worlds.reference_set import ReferenceSet
from latent_env.worlds.store import load_world, save_world, seal_world
from latent_env.worlds.world import World

SIZE, GRID, COMPONENTS, COUNT = 32, 4, 8, 24
CPU = torch.device("cpu")


@functools.cache
def feature_world() -> World:
    """A small autoencoder that draws, a tiny backbone that sees, and nothing in them has learned."""
    images = torch.from_numpy(make_phantom_dataset(SIZE, COUNT, 24, 2).train.images)
    with tempfile.TemporaryDirectory() as folder:
        network = load_backbone(str(tiny_backbones.mobilenet(Path(folder))), SIZE, None, GRID)
    encoder, features = fit_encoder(network, images, 1, COMPONENTS)
    assert features is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        frozen = FrozenAutoencoder(ConvAutoencoder(1, SIZE, "spatial", 4, 8)).calibrate(images)
        shape = encoder.latent_shape, COUNT, 16, 1, 2, FEATURES
        detector = LatentTransformerDetector(*shape).eval().requires_grad_(False)
    frozen.barely_visible.fill_(1e-4)  # what an untrained decoder changes is faint
    detector.memory.fill(features.float(), torch.arange(COUNT))
    detector.calibrate(features.float())
    world = World.build(frozen, detector, images, CPU, backbone=encoder)
    labels, marks = torch.arange(COUNT) % 2, torch.zeros(COUNT, 1, GRID, GRID, dtype=torch.bool)
    marks[1::2, :, 1:3, 1:3] = True
    return world.with_reference_set(ReferenceSet.of(features, labels, marks))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    save_world(path, feature_world())
    return path


def dynamics(worlds: int = 4, **changes: Any) -> Dynamics:
    made = Settings(**{"reward": {"boundary": 1.0}, **changes}).dynamics(feature_world(), worlds)
    made.reset_tensor(seeds=torch.arange(worlds))
    return made


def random_actions(batch: Dynamics) -> Tensor:
    shape = (batch.num_worlds, batch.perturbation.action_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


VARIANTS: list[dict[str, Any]] = [
    {},
    {"reward": {"matching": 1.0, "coverage": 0.5}, "time_aware": True},
    {"reward": {"usefulness": 1.0}, "horizon": 2, "max_delta": 20.0},
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_both_checkers(folder: Path, variant: dict[str, Any]) -> None:
    env = gym.make("LatentAug-v0", artifacts=str(folder), **variant, disable_env_checker=True)
    check_env(env.unwrapped)
    env.close()
    env = gym.make("LatentAug-v0", artifacts=str(folder), **variant, render_mode="rgb_array")
    check_env_sb3(env.unwrapped)
    env.close()


def test_the_detector_sees_the_augmented_image_with_the_backbone() -> None:
    batch = dynamics(max_delta=20.0)
    world, step = batch.world, batch.step_tensor(random_actions(batch)).transition
    assert (step.image != step.start_image).any()
    expected = world.detector(world.backbone.encode(step.image))  # type: ignore[union-attr]
    assert torch.allclose(step.detection.score, expected.score, atol=1e-5)
    shares = functional.adaptive_avg_pool2d(step.mask.float(), GRID)
    assert torch.equal(step.truth, anomalous_tokens(shares) & (step.label == 1)[:, None, None, None])
    assert step.descriptor.contrast.shape == (4, COMPONENTS)


def test_a_reset_and_a_step_that_pays_nothing_for_detection_see_no_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def forbidden(*_: object) -> Tensor:
        raise AssertionError("nobody needs this here")

    batch = dynamics(reward={"coverage": 1.0})
    monkeypatch.setattr(batch.world.backbone, "encode", forbidden)
    assert batch.step_tensor(random_actions(batch)).rewards.isfinite().all()
    batch.reset_tensor()
    with pytest.raises(AssertionError, match="nobody needs this"):
        _ = batch.last.detection


def test_a_batch_equals_single_worlds() -> None:
    batch, actions = dynamics(4), random_actions(dynamics(4))
    together = batch.step_tensor(actions)
    for number in range(4):
        single = Settings(reward={"boundary": 1.0}).dynamics(feature_world(), 1)
        single.reset_tensor(seeds=torch.tensor([number]))
        alone = single.step_tensor(actions[number : number + 1])
        assert torch.allclose(alone.rewards, together.rewards[number : number + 1], atol=1e-4)


def test_the_same_world_comes_back_from_disk(folder: Path) -> None:
    world, again = feature_world(), load_world(str(folder), CPU)
    assert again.detector.input == FEATURES
    images = world.images[:3].float() / 255
    assert torch.equal(world.tokens(images), again.tokens(images))
    assert torch.equal(world.detect(images).score, again.detect(images).score)
    assert again.reference_set is not None


def test_a_detector_without_its_backbone_is_refused(tmp_path: Path) -> None:
    world = feature_world()
    with pytest.raises(UserError, match=r"reads features: \(8, 4, 4\), but this world has no backbone"):
        World.build(world.autoencoder, world.detector, world.images, CPU)
    save_world(tmp_path, world)
    for suffix in (".json", ".safetensors"):
        (tmp_path / f"backbone{suffix}").unlink()
    with pytest.raises(UserError, match="is missing"):
        load_world(str(tmp_path), CPU)
    seal_world(tmp_path)
    with pytest.raises(UserError, match="no backbone"):
        load_world(str(tmp_path), CPU)


def test_another_backbone_of_equal_shape_is_refused(tmp_path: Path) -> None:
    save_world(tmp_path, feature_world())
    other = load_stored_backbone(tmp_path)
    assert other is not None
    other.components.neg_()
    save_backbone(tmp_path, other)
    with pytest.raises(UserError, match=r"backbone.json is not the one that this world was made with"):
        load_world(str(tmp_path), CPU)


def test_features_and_latents_of_equal_shape_are_not_mixed_up() -> None:
    of_features = KnnDetector((8, 4, 4), bank=4, reads=FEATURES)
    of_latents = KnnDetector((8, 4, 4), bank=4, reads=LATENT)
    with pytest.raises(ValueError, match="must read images, latents or features of one shape"):
        EnsembleDetector({"a": of_features, "b": of_latents}, (1, 1))
    with pytest.raises(ValueError, match="reads latent or features, not 'image'"):
        KnnDetector((8, 4, 4), bank=4, reads="image")


def test_samples_are_learned_from_as_features() -> None:
    batch = dynamics(8, max_delta=20.0, horizon=1)
    made = collect(batch, RandomAgent(batch, seed=0), 16, seed=0)
    features = batch.world.tokens(made.images.float() / 255)
    tokens = anomalous_tokens(functional.adaptive_avg_pool2d(made.masks.float(), GRID))
    samples = made.feature_samples(features, tokens, torch.arange(COUNT))
    assert samples.images.shape == (len(made), COMPONENTS, GRID, GRID)
    assert torch.equal(samples.labels, made.labels)
    assert torch.equal(samples.masks.flatten(1).any(1), made.labels == 1)


# -- scripts --

DATA = ["dataset=phantom", "dataset.size=32", "dataset.train=24", "dataset.valid=12", "dataset.test=8"]
SMALL = ["device=cpu", "threads=1", "autoencoder.steps=3", "autoencoder.width=8"]
BACKBONE = ["detector.backbone=mobilenet", "detector.grid=4", "detector.components=8"]
TRAINED = ["detector.steps=3", "detector.width=16", "synthesis.pool=8"]
AGENT = ["agent=random", "env.num_envs=4", "samples=16", "rounds=1", "reward_ensemble.count=1"]
MAINS: dict[str, Callable[[DictConfig], None]] = {
    "train_detector": train_detector.main,
    "train_ppo": train_ppo.main,
}


@pytest.fixture
def command(tmp_path: Path, run_here: RunHere) -> Callable[..., str]:
    tiny_backbones.mobilenet(tmp_path / "mobilenet")

    def run(script: str, *arguments: str, code: int = 0) -> str:
        keys = later_wins(*DATA, *SMALL, *arguments)
        ended, out, error = run_here(MAINS[script], script, *keys, cwd=tmp_path)
        assert ended == code, error
        return out + error

    return run


def test_a_run_with_a_backbone_ends_with_a_world_that_agents_can_use(
    tmp_path: Path, command: Callable[..., str]
) -> None:
    command("train_ppo", *BACKBONE, *TRAINED, *AGENT)
    (run,) = (tmp_path / "runs/phantom/agent").iterdir()
    report = json.loads((run / "report.json").read_text())
    assert "reads features of the backbone mobilenet_v1, " in report["detector"]
    made_by = json.loads((run / "world.json").read_text())["artifacts"]
    assert report["autoencoder"] == f"conv, {made_by['autoencoder'][:12]}"
    assert report["detector"].endswith(made_by["backbone"][:12])
    assert {"segmenter", "probe", "positional_knn"} <= {
        name.removesuffix("_image_AUROC") for name in report["baselines"]
    }
    world = load_world(str(run), CPU)
    assert world.reads_features
    env = gym.make("LatentAug-v0", artifacts=str(run))
    env.reset(seed=0)
    assert np.isfinite(float(env.step(env.action_space.sample())[1]))
    assert "using" in command("train_ppo", *BACKBONE, *TRAINED, *AGENT)


@pytest.mark.parametrize("name", ["knn", "gaussian", "ensemble"])
def test_detectors_of_tokens_read_features(tmp_path: Path, command: Callable[..., str], name: str) -> None:
    trained = TRAINED if name == "ensemble" else []
    assert "image_AUROC" in command("train_detector", f"detector={name}", *BACKBONE, *trained)
    (run,) = (tmp_path / "runs/phantom/detector").iterdir()
    facts = json.loads((run / "detector.json").read_text())["facts"]
    assert {each["reads"] for each in facts.get("members", [facts])} == {FEATURES}
    if name != "ensemble":  # nothing was trained for it, no autoencoder either
        assert not (tmp_path / "runs/phantom/autoencoder").exists()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["detector.input=features"], "detector.backbone is missing"),
        ([*BACKBONE, "detector.input=latent"], "is only read with detector.input=features"),
        (["detector.backbone=./nowhere"], "detector.backbone=./nowhere: there is no such folder"),
        ([*BACKBONE, "detector.layers=[99]"], "detector.layers=[99]: this backbone has no usable map"),
        ([*BACKBONE, "detector.components=9999"], "detector.components=9999 is more than"),
        (["detector=knn", "detector.input=image"], "detector=knn compares tokens"),
    ],
    ids=str,
)
def test_a_mistake_is_one_line(command: Callable[..., str], keys: list[str], message: str) -> None:
    log = command("train_detector", *keys, code=2)
    (line,) = [line for line in log.splitlines() if line.startswith("train_detector.py: ")]
    assert message in line
