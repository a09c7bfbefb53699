"""Worlds, steps and a learner's update on a GPU do what they do on the CPU. Skipped where there is none."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import WORLDS
from learner_configs import small_learner
from torch import Tensor, nn

from agents.sb3_vec_env import LatentVecEnv
from latent_common.machine import free_bytes, resolve_device
from latent_env.data.placement import StreamedImages, place_images
from latent_env.denoise.settings import DenoiseSettings
from latent_env.denoise.world import load_denoise_world
from latent_env.random_streams import Streams
from latent_env.settings import Settings
from latent_env.worlds.store import load_world, save_world
from stages.agents.learners import make_learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
EVERY_TERM = {
    "boundary": 1.0,
    "novelty": 0.5,
    "realism": 0.5,
    "coverage": 0.2,
    "usefulness": 0.5,
    "matching": 1.0,
}


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TF32, which convolutions use by default, figures agree but for rounding."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def tensors_of(world: object) -> dict[str, Tensor]:
    """All tensors of a world and of its networks, by name."""
    found: dict[str, Tensor] = {}
    for field in fields(world):  # type: ignore[arg-type]
        value = getattr(world, field.name)
        if isinstance(value, Tensor):
            found[field.name] = value
        elif isinstance(value, nn.Module):
            found |= {f"{field.name}.{name}": tensor for name, tensor in value.state_dict().items()}
        elif isinstance(value, tuple) and hasattr(value, "_asdict"):
            found |= {f"{field.name}.{k}": part for k, part in value._asdict().items() if part is not None}
    return found


@pytest.mark.parametrize("name", WORLDS)
def test_a_world_moves_to_the_gpu_as_a_whole(name: str) -> None:
    world, there = load_world(name, CPU), load_world(name, CUDA)
    assert there.device.type == "cuda"
    here = tensors_of(world)
    for key, tensor in tensors_of(there).items():
        assert tensor.device.type == "cuda", key
        torch.testing.assert_close(tensor.cpu(), here[key].cpu(), atol=1e-4, rtol=1e-4)
    assert world.device == CPU  # which the other one shares nothing with
    assert all(tensor.device == CPU for tensor in tensors_of(world).values())


def test_a_denoising_world_moves_to_the_gpu_as_a_whole() -> None:
    there = load_denoise_world("digits", "latent", CUDA)
    assert all(tensor.device.type == "cuda" for tensor in tensors_of(there).values())


def test_auto_is_the_gpu() -> None:
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cuda:0") == torch.device("cuda:0")
    assert free_bytes(CUDA) > 2**20
    batch = gym.make_vec("LatentAug-v0", num_envs=2)  # a batch's default is auto
    assert batch.unwrapped.dynamics.world.device.type == "cuda"  # type: ignore[attr-defined]


def test_random_streams_draw_the_same_numbers() -> None:
    streams = [Streams(64, device) for device in (CPU, CUDA)]
    for each in streams:
        each.seeds = each.seeds + torch.arange(64, device=each.seeds.device)
    here, there = streams
    assert torch.equal(here.integers(1000), there.integers(1000).cpu())
    assert torch.equal(here.uniform(), there.uniform().cpu())
    torch.testing.assert_close(here.normal(5, 3), there.normal(5, 3).cpu(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", WORLDS)
def test_steps_are_those_of_the_cpu(name: str) -> None:
    settings = Settings(reward=EVERY_TERM, horizon=3)
    here, there = (settings.load(name, device, 32) for device in ("cpu", "cuda"))
    seeds = torch.arange(32)
    torch.testing.assert_close(
        there.reset_tensor(seeds=seeds.to(CUDA)).cpu(), here.reset_tensor(seeds=seeds), atol=1e-4, rtol=1e-4
    )
    assert torch.equal(there.sources.cpu(), here.sources)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        actions = 2 * torch.rand(32, here.perturbation.action_size, generator=generator) - 1
        one, other = here.step_tensor(actions), there.step_tensor(actions.to(CUDA))
        torch.testing.assert_close(other.observations.cpu(), one.observations, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(other.transition.image.cpu(), one.transition.image, atol=1e-3, rtol=1e-3)
        assert torch.equal(other.terminated.cpu(), one.terminated)
        # A label at the edge of the band may fall on either side of it, and terms with it.
        same = other.transition.label.cpu() == one.transition.label
        assert float(same.double().mean()) > 0.9
        for term, value in one.reward_terms.items():
            difference = (other.reward_terms[term].cpu() - value)[same].abs()
            assert float(difference.median()) < 1e-3, term
            assert float(difference.mean()) < 2e-2, term


@pytest.mark.parametrize("spec", ["LatentAug-v0", "LatentDenoise-v0"])
def test_gymnasium_gets_numpy_from_a_gpu(spec: str) -> None:
    env = gym.make(spec, device="cuda", render_mode="rgb_array")
    env.action_space.seed(0)
    observation, _ = env.reset(seed=0)
    on_cpu, _ = gym.make(spec, device="cpu").reset(seed=0)
    np.testing.assert_allclose(observation, on_cpu, atol=1e-4, rtol=1e-4)
    observation, reward, *_ = env.step(env.action_space.sample())
    assert isinstance(observation, np.ndarray)
    assert isinstance(reward, float)
    assert env.observation_space.contains(observation)
    assert isinstance(env.render(), np.ndarray)


def test_half_precision_changes_rewards_little() -> None:
    full, half = (Settings(precision=p).load("phantom", "cuda", 64) for p in ("float32", "bfloat16"))
    seeds = torch.arange(64, device=CUDA)
    actions = torch.rand(64, full.perturbation.action_size, generator=torch.Generator().manual_seed(0))
    rewards = []
    for dynamics in (full, half):
        dynamics.reset_tensor(seeds=seeds)
        rewards.append(dynamics.step_tensor((2 * actions - 1).to(CUDA)).rewards)
    assert float((rewards[0] - rewards[1]).abs().mean()) < 0.05


def test_images_are_placed_in_the_gpus_memory_or_streamed_to_it() -> None:
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 16, 16), np.uint8)
    for megabytes, kind in ((1.0, Tensor), (1e-6, StreamedImages)):
        placed = place_images(images, CUDA, megabytes)
        assert isinstance(placed, kind)
        assert placed[:7].device.type == "cuda"
        assert np.array_equal(placed[torch.tensor([3, 1, 3])].cpu().numpy(), images[[3, 1, 3]])


@pytest.mark.parametrize("task", ["augment", "denoise"])
def test_ppo_takes_an_update_on_the_gpu(task: str) -> None:
    settings = Settings(horizon=2) if task == "augment" else DenoiseSettings(horizon=2)
    env = LatentVecEnv(settings.load("digits", "cuda", 16), 0)
    short = {"n_steps": 8, "batch_size": 64, "n_epochs": 1, "learning_rate": 1e-3, "ent_coef": 0.0}
    model = make_learner(small_learner("ppo", **short), env, seed=0)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(8 * 16)
    assert model.num_timesteps == 8 * 16
    changed = [
        name for name, value in model.policy.state_dict().items() if not torch.equal(value, before[name])
    ]
    assert changed
    assert all(bool(value.isfinite().all()) for value in model.policy.state_dict().values())


def test_a_folder_trained_on_one_device_is_loaded_on_another(tmp_path: Path) -> None:
    world = load_world("digits", CUDA)
    save_world(tmp_path, world)
    again = load_world(str(tmp_path), CPU)
    assert all(tensor.device == CPU for tensor in tensors_of(again).values())
