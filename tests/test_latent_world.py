"""A world whose detector reads the latents of pretrained features: environment, rollouts, agents."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_backbones
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from torch import Tensor

from agents.base import Agent
from agents.baselines.feature_noise import FeatureNoiseAgent
from agents.baselines.glass import GlassAgent
from agents.baselines.none_and_random import NoneAgent, RandomAgent
from agents.rollout import collect
from detectors.blocks.tokens import as_tokens
from detectors.latent_transformer import LatentTransformerDetector
from latent_common.errors import UserError
from latent_env.autoencoders import FrozenAutoencoder, PretrainedAutoencoder
from latent_env.autoencoders.backbone import load_backbone
from latent_env.autoencoders.pretrained import fit_encoder
from latent_env.data.builtin.phantom import make_phantom_dataset
from latent_env.dynamics import Dynamics
from latent_env.rendering import panel
from latent_env.settings import Settings
from latent_env.shell import ANOMALY, NORMAL, UNDECIDED
from latent_env.worlds.artifacts import save_detector
from latent_env.worlds.store import load_world, save_images, save_world, seal_world
from latent_env.worlds.world import World

SIZE, GRID, COMPONENTS, COUNT = 32, 4, 8, 24
CPU = torch.device("cpu")
REWARD = {"boundary": 1.0, "novelty": 0.5}
"""Terms that look at no picture."""


@functools.cache
def latent_world() -> World:
    """Real architectures, and nothing in them has learned."""
    dataset = make_phantom_dataset(SIZE, COUNT, 24, 2)
    images = torch.from_numpy(dataset.train.images)
    with tempfile.TemporaryDirectory() as folder:
        backbone = load_backbone(str(tiny_backbones.mobilenet(Path(folder))), SIZE, None, GRID)
    encoder, latents = fit_encoder(backbone, images, 1, COMPONENTS)
    assert latents is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = PretrainedAutoencoder(encoder, width=4)
        detector = LatentTransformerDetector(encoder.latent_shape, COUNT, width=16, depth=1, heads=2)
    frozen = FrozenAutoencoder(model).calibrate(images, latents)
    detector.memory.fill(latents, torch.arange(COUNT))
    held_out_detector = frozen.encode_all(torch.from_numpy(dataset.valid.normal().images))
    detector.eval().requires_grad_(False).calibrate(held_out_detector)
    return World.build(frozen, detector, images, CPU, latents)


@pytest.fixture
def world() -> World:
    return latent_world()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("world")
    save_world(path, latent_world())
    return path


def dynamics(worlds: int = 4, seed: int = 0, **changes: Any) -> Dynamics:
    made = Settings(**{"reward": REWARD, **changes}).dynamics(latent_world(), worlds)
    made.reset_tensor(seeds=torch.arange(worlds) + seed)
    return made


def random_actions(world: Dynamics, seed: int = 0) -> Tensor:
    shape = (world.num_worlds, world.perturbation.action_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


VARIANTS: list[dict[str, Any]] = [
    {},
    {"perturbation": "dense", "time_aware": True},
    {"perturbation": "principal", "horizon": 2, "reward": REWARD},
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_both_checkers(folder: Path, variant: dict[str, Any]) -> None:
    env = gym.make("LatentAug-v0", artifacts=str(folder), **variant, disable_env_checker=True)
    # The render check tries every mode, and "human" needs a screen to open its window on.
    check_env(env.unwrapped)
    env.close()
    for render_mode in (None, "rgb_array"):
        env = gym.make("LatentAug-v0", artifacts=str(folder), **variant, render_mode=render_mode)
        check_env_sb3(env.unwrapped, skip_render_check=render_mode is None)
        env.close()


def forbidden(*_: object) -> Tensor:
    raise AssertionError("nobody needs this here")


def test_a_step_and_a_reset_neither_encode_nor_decode(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("encode", "decode"):
        monkeypatch.setattr(world.autoencoder, name, forbidden)
    batch = dynamics(horizon=2)
    for seed in range(5):
        result = batch.step_tensor(random_actions(batch, seed))
        assert result.rewards.isfinite().all()
        assert result.transition.label.shape == (4,)
        assert result.transition.truth.shape == (4, 1, GRID, GRID)
        batch.reset_tensor(result.terminated)
    with pytest.raises(AssertionError, match="nobody needs this"):
        panel(batch.last)


def test_a_picture_is_decoded(folder: Path) -> None:
    env = gym.make("LatentAug-v0", artifacts=str(folder), reward=REWARD, render_mode="rgb_array")
    env.reset(seed=0)
    env.step(np.ones(env.action_space.shape or (), np.float32))
    first = env.render()
    env.reset(seed=1)
    second = env.render()
    assert isinstance(first, np.ndarray)
    assert isinstance(second, np.ndarray)
    assert first.dtype == np.uint8
    assert not np.array_equal(first, second)


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), length=st.floats(0.02, 2), steps=st.integers(1, 3))
def test_labels_tokens_and_truth_follow_the_shell(seed: int, length: float, steps: int) -> None:
    batch = dynamics(12, seed, perturbation="dense", max_delta=3.0)
    for step in range(steps):
        result = batch.step_tensor(length * random_actions(batch, seed + step))
    made, shell = result.transition, batch.shell
    moved = (made.latent - latent_world().latents[made.sources]).square().sum(1).sqrt()
    furthest = moved.flatten(1).amax(1)
    assert torch.equal(made.changed_tokens[:, 0], moved >= shell.inner)
    assert torch.equal(made.label == ANOMALY, furthest >= shell.inner * (1 + shell.band))
    assert torch.equal(made.label == NORMAL, furthest <= shell.inner * (1 - shell.band))
    assert torch.equal(made.truth.flatten(1).any(1), made.label == ANOMALY)
    assert torch.equal(made.truth, made.changed_tokens & (made.label == ANOMALY).view(-1, 1, 1, 1))


def test_every_label_comes_up() -> None:
    labels = []
    for length in np.linspace(0, 1, 12):
        batch = dynamics(8, perturbation="dense", max_delta=3.0)
        labels += batch.step_tensor(float(length) * random_actions(batch)).transition.label.tolist()
    assert set(labels) == {NORMAL, ANOMALY, UNDECIDED}


@pytest.mark.parametrize("perturbation", ["brush", "dense", "principal"])
def test_one_world_is_one_of_many(folder: Path, perturbation: str) -> None:
    arguments: dict[str, Any] = {"perturbation": perturbation, "reward": REWARD, "horizon": 4}
    many = gym.make_vec("LatentAug-v0", num_envs=3, artifacts=str(folder), device="cpu", **arguments)
    together, _ = many.reset(seed=[4, 5, 6])  # type: ignore[arg-type]
    singles = [gym.make("LatentAug-v0", artifacts=str(folder), **arguments) for _ in range(3)]
    alone = np.stack([env.reset(seed=seed)[0] for env, seed in zip(singles, (4, 5, 6), strict=True)])
    assert np.array_equal(together, alone)
    rng = np.random.default_rng(0)
    for _ in range(3):
        actions = rng.uniform(-1, 1, many.action_space.shape or ()).astype(np.float32)
        together, rewards, *_rest = many.step(actions)
        played = [env.step(action) for env, action in zip(singles, actions, strict=True)]
        assert np.allclose(together, np.stack([step[0] for step in played]), atol=1e-5)
        assert np.allclose(rewards, [float(step[1]) for step in played], atol=1e-4)
    many.close()


def test_the_detector_scores_the_new_latent() -> None:
    batch = dynamics()
    made = batch.step_tensor(random_actions(batch)).transition
    expected = latent_world().detector(made.latent)
    assert torch.equal(made.detection.score, expected.score)
    assert made.detection.map.shape == (4, 1, GRID, GRID)


def test_a_stored_world_plays_the_same_and_encodes_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_world(tmp_path / "fresh", latent_world())
    monkeypatch.setattr(PretrainedAutoencoder, "encode", forbidden)
    monkeypatch.setattr(PretrainedAutoencoder, "decode", forbidden)
    stored, kept = load_world(str(tmp_path / "fresh"), CPU), latent_world()
    assert torch.equal(stored.latents, kept.latents)
    env = gym.make("LatentAug-v0", artifacts=str(tmp_path / "fresh"), reward=REWARD, horizon=4)
    observation, info = env.reset(seed=3)
    batch = dynamics(1, seed=3)
    assert np.array_equal(observation, batch.observe()[0].numpy())
    for seed in range(4):
        actions = random_actions(batch, seed)
        observation, reward, *_ = env.step(actions[0].numpy())
        result = batch.step_tensor(actions)
        assert np.array_equal(observation, result.observations[0].numpy())
        assert reward == float(result.rewards[0])
    assert info["source"] == int(batch.sources[0])


def test_a_stored_world_draws_the_same_pictures(folder: Path) -> None:
    stored, kept = load_world(str(folder), CPU), latent_world()
    assert torch.equal(stored.images, kept.images)
    assert torch.equal(
        stored.autoencoder.decode(stored.latents[:4]), kept.autoencoder.decode(kept.latents[:4])
    )


def test_a_detector_of_another_shape(tmp_path: Path) -> None:
    save_world(tmp_path, latent_world())
    save_detector(tmp_path, LatentTransformerDetector((COMPONENTS, GRID + 1, GRID + 1), 4, 16, 1, 2))
    seal_world(tmp_path)
    with pytest.raises(UserError, match=r"detector reads latent: \(8, 5, 5\).*different worlds"):
        load_world(str(tmp_path), CPU)


def test_latents_of_another_autoencoder(tmp_path: Path) -> None:
    save_world(tmp_path, latent_world())
    save_images(tmp_path, latent_world().images, torch.zeros(COUNT, COMPONENTS, GRID, GRID + 1))
    seal_world(tmp_path)
    with pytest.raises(UserError, match="latents of the starting images are of another autoencoder"):
        load_world(str(tmp_path), CPU)


def test_a_rollout_is_a_set_of_latents_masked_token_by_token() -> None:
    batch = dynamics(6, perturbation="dense", max_delta=3.0, horizon=2)
    world, agent = latent_world(), RandomAgent(batch, 0)
    made = collect(batch, agent, 60, seed=3)
    assert {NORMAL, ANOMALY} >= set(made.labels.tolist()) >= {ANOMALY}
    mapping = torch.randperm(COUNT, generator=torch.Generator().manual_seed(0)) + 100
    samples = made.latent_samples(world, mapping)
    assert torch.equal(samples.images, world.latents[made.source] + made.delta)
    assert torch.equal(samples.sources, mapping[made.source])
    assert torch.equal(samples.labels, made.labels)
    assert samples.masks.shape == (len(made), 1, GRID, GRID)
    moved = made.delta.norm(dim=1, keepdim=True) >= batch.shell.inner
    assert torch.equal(samples.masks.bool(), moved & (made.labels == ANOMALY).view(-1, 1, 1, 1))
    again = collect(batch, RandomAgent(batch, 0), 60, seed=3)
    assert torch.equal(again.delta, made.delta)


def test_what_nobody_changed_is_normal() -> None:
    batch = dynamics(5)
    made = collect(batch, NoneAgent(batch), 20, seed=0)
    assert len(made) == 20
    assert not made.delta.any()
    assert not made.tokens.any()
    assert (made.labels == NORMAL).all()
    scores = latent_world().detector(made.latent_samples(latent_world(), torch.arange(COUNT)).images).score
    assert torch.allclose(scores, latent_world().detector(latent_world().latents[made.source]).score)


MakeAgent = Callable[[Dynamics], Agent]
AGENTS: dict[str, MakeAgent] = {
    "feature_noise": lambda dynamics: FeatureNoiseAgent(dynamics, 0, 1.5),
    "glass": lambda dynamics: GlassAgent(dynamics, 0, 1.5, 10, 0.1, 5),
}
every_agent = pytest.mark.parametrize("name", AGENTS)


@every_agent
@pytest.mark.parametrize("perturbation", ["brush", "principal"])
def test_agents_of_tokens_need_every_number_of_a_latent(name: str, perturbation: str) -> None:
    with pytest.raises(UserError, match=f"agent={name} .*env.perturbation=dense"):
        AGENTS[name](dynamics(perturbation=perturbation))


def lengths(batch: Dynamics, agent: Agent) -> Tensor:
    """By how much every token is to change, in inner radii, ``(N, T)``."""
    actions, _ = agent.predict(batch.observe().numpy())
    change = batch.perturbation(torch.from_numpy(actions), batch.streams, batch.last.latent)
    return as_tokens(change).norm(dim=2) / batch.shell.inner


@settings(max_examples=15)
@given(strength=st.floats(0.2, 3), seed=st.integers(0, 1000))
def test_feature_noise_has_the_length_asked_for(strength: float, seed: int) -> None:
    batch = dynamics(32, perturbation="dense", max_delta=100.0)
    found = lengths(batch, FeatureNoiseAgent(batch, seed, strength))
    assert float(found.square().mean().sqrt()) == pytest.approx(strength, rel=0.1)
    assert found.min() > 0


@settings(max_examples=10)
@given(strength=st.floats(0.2, 2), seed=st.integers(0, 1000), steps=st.integers(0, 6))
def test_glass_stays_between_one_and_two_strengths(strength: float, seed: int, steps: int) -> None:
    batch = dynamics(8, perturbation="dense", max_delta=100.0)
    found = lengths(batch, GlassAgent(batch, seed, strength, steps, 0.5, 2))
    assert found.min() >= strength * (1 - 1e-4)
    assert found.max() <= 2 * strength * (1 + 1e-4)


@pytest.mark.parametrize(("strength", "sureness"), [(0.3, 1), (1.5, 1), (3.0, 1), (1.5, 40)])
def test_glass_finds_what_is_less_conspicuous_than_noise(strength: float, sureness: float) -> None:
    """However sure the detector is of the noise it starts from: the lower the score, the higher the loss."""
    detector = copy.deepcopy(latent_world().detector)
    assert isinstance(detector, LatentTransformerDetector)
    detector.scale.div_(sureness)
    world = latent_world().with_detector(detector)
    batch = Settings("dense", max_delta=100.0, reward=REWARD).dynamics(world, 32)
    batch.reset_tensor(seeds=torch.arange(32))
    observation = batch.observe().numpy()

    def score(agent: Agent) -> float:
        actions, _ = agent.predict(observation)
        with torch.no_grad():
            return float(batch.imagine(torch.from_numpy(actions)).detection.score.mean())

    noise, climbed = FeatureNoiseAgent(batch, 5, strength), GlassAgent(batch, 5, strength, 20, 0.1, 5)
    pulled = GlassAgent(batch, 5, strength, 0, 0.1, 5)  # the noise in the shell
    assert score(climbed) < score(pulled)
    assert score(climbed) < score(noise)


@every_agent
def test_agents_are_seeded(name: str) -> None:
    batch = dynamics(perturbation="dense")
    observation = batch.observe().numpy()
    first, again = (AGENTS[name](batch) for _ in range(2))
    actions, _ = first.predict(observation)
    assert np.array_equal(actions, again.predict(observation)[0])
    assert not np.array_equal(actions, first.predict(observation)[0])
    assert actions.dtype == np.float32
    assert actions.shape == (4, COMPONENTS * GRID**2)
    assert np.abs(actions).max() <= 1


@every_agent
def test_their_samples_are_anomalies(name: str) -> None:
    batch = dynamics(8, perturbation="dense", max_delta=20.0)
    made = collect(batch, AGENTS[name](batch), 32, seed=1)
    assert len(made) == 32
    assert (made.labels == ANOMALY).all()
    assert made.tokens.float().mean() > 0.5  # it changes all of them
