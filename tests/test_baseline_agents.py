"""Agents that a learned one is measured against: mixup, and the policy before it has learned."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_AGENT, RunHere, make_world
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.utils import set_random_seed
from torch import Tensor, nn

import train_ppo
from agents.base import Agent
from agents.baselines.mixup import MixupAgent, largest_difference
from agents.rollout import collect
from agents.sb3_vec_env import LatentVecEnv
from detectors.base import LATENT, Detection
from latent_common.errors import UserError
from latent_env import RewardTerm, register_reward
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings
from latent_env.transition import Transition
from latent_env.worlds.world import World
from stages.agents.learners import untrained_policy

FAR = 1000.0
"""A shell that cuts nothing."""


@register_reward("upwards")
class Upwards(RewardTerm):
    """Pays for a larger first number and a smaller second one."""

    def value(self, transition: Transition) -> Tensor:
        change = transition.delta.flatten(1)
        return change[:, 0] - change[:, 1]


class FirstNumber(nn.Module):
    """Tells latents apart by how far their first number is from 0, and looks at nothing else."""

    input = LATENT

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.input_shape = shape

    def forward(self, latents: Tensor) -> Detection:
        score = 2 * (latents.flatten(1)[:, 0].abs() - 4)
        return Detection(score, score.view(-1, 1, 1, 1))

    def hyperparameters(self) -> dict[str, Any]:
        return {}


@functools.cache
def world(latent: str = "flat") -> World:
    return make_world(latent)


def dynamics(made_of: World, worlds: int = 8, **changes: Any) -> Dynamics:
    made = Settings(**changes).dynamics(made_of, worlds)
    made.reset_tensor(seeds=torch.arange(worlds))
    return made


def mixing(latent: str, **changes: Any) -> Dynamics:
    reach = largest_difference(world(latent).latents)
    return dynamics(world(latent), perturbation="dense", max_delta=reach, **changes)


def policy(batch: Dynamics, seed: int = 0) -> Agent:
    return untrained_policy([16], LatentVecEnv(batch), seed)


AGENTS: dict[str, Callable[[Dynamics, int], Agent]] = {
    "mixup": lambda batch, seed: MixupAgent(batch, seed, 0.2, 0.8),
    "untrained": policy,
}


@pytest.mark.parametrize("latent", ["flat", "spatial"])
@pytest.mark.parametrize("name", AGENTS)
def test_actions_are_actions_and_follow_from_the_seed(name: str, latent: str) -> None:
    def play(seed: int) -> list[np.ndarray[Any, Any]]:
        own = {"perturbation": "dense"} if name == "mixup" else {"time_aware": True}
        batch = dynamics(world(latent), **own)  # type: ignore[arg-type]
        agent = AGENTS[name](batch, seed)
        set_random_seed(seed)  # which is where SB3 takes its random numbers from
        batch.reset_tensor(seeds=torch.arange(8))
        played = []
        for _ in range(2):
            played.append(agent.predict(batch.observe().numpy())[0])
            batch.step_tensor(torch.from_numpy(played[-1]))
        assert all(actions.shape == (8, batch.perturbation.action_size) for actions in played)
        return played

    first, again, other = play(3), play(3), play(4)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])
    for actions in first:
        assert actions.dtype == np.float32
        assert np.abs(actions).max() <= 1  # so they are finite as well


@given(
    latent=st.sampled_from(["flat", "spatial"]),
    seed=st.integers(0, 2**62),
    shares=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
)
def test_mixup_lies_between_two_images(latent: str, seed: int, shares: list[float]) -> None:
    low, high = shares
    batch = mixing(latent, shell_ratio=FAR)
    actions, _ = MixupAgent(batch, seed, low, high).predict(batch.observe().numpy())
    made = batch.step_tensor(torch.from_numpy(actions)).transition
    ways = (world(latent).latents - made.previous.unsqueeze(1)).flatten(2)  # (N, images, d)
    change = made.delta.flatten(1).unsqueeze(1)
    share = (change * ways).sum(2) / ways.square().sum(2).clamp_min(1e-9)
    miss = (change - share.unsqueeze(2) * ways).norm(dim=2) / ways.norm(dim=2).clamp_min(1e-9)
    miss[torch.arange(len(miss)), made.sources] = torch.inf  # another image than its own
    nearest = miss.argmin(1, keepdim=True)
    assert miss.gather(1, nearest).max() < 1e-4
    found = share.gather(1, nearest)
    assert low - 1e-4 <= float(found.min()) <= float(found.max()) <= high + 1e-4


def test_mixup_meets_every_other_image() -> None:
    batch = mixing("flat", worlds=1, shell_ratio=FAR)
    agent, met = MixupAgent(batch, 0, 1.0, 1.0), set()
    for _ in range(150):
        batch.reset_tensor(sources=torch.tensor([5]))
        actions, _ = agent.predict(batch.observe().numpy())
        moved = batch.step_tensor(torch.from_numpy(actions)).transition.latent
        met.add(int((world().latents - moved).norm(dim=1).argmin()))
    assert met == set(range(12)) - {5}


def test_mixup_complains() -> None:
    with pytest.raises(UserError, match=r"agent=mixup .*env.perturbation=dense"):
        MixupAgent(dynamics(world("spatial")), 0, 0.2, 0.8)
    for low, high in [(0.8, 0.2), (-0.1, 0.5), (0.5, 1.5)]:
        with pytest.raises(UserError, match=r"agent.low=.*agent.high="):
            MixupAgent(mixing("flat"), 0, low, high)
    with pytest.raises(UserError, match="at least 2 training images"):
        MixupAgent(dynamics(make_world("flat", count=1)), 0, 0.2, 0.8)


def told_apart(batch: Dynamics, agent: Agent) -> tuple[float, float]:
    """How far an agent's first step leads, in inner radii, and the mean score it has there."""
    batch.reset_tensor(seeds=torch.arange(batch.num_worlds) + 1000)
    actions, _ = agent.predict(batch.observe().numpy())
    with torch.no_grad():
        made = batch.imagine(torch.from_numpy(actions))
        return float(made.distance.mean()) / batch.shell.inner, float(made.detection.score.mean())


@pytest.mark.parametrize("name", AGENTS)
def test_a_rollout_of_each(name: str) -> None:
    batch = mixing("spatial") if name == "mixup" else dynamics(world("spatial"))
    made = collect(batch, AGENTS[name](batch, 0), 24, seed=5)
    assert made.delta.isfinite().all()
    assert made.delta.shape[1:] == world("spatial").autoencoder.latent_shape


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder, so that autoencoder and detector are trained once."""
    return tmp_path_factory.mktemp("baselines")


BUDGETS: dict[str, list[str]] = {
    "mixup": TINY_AGENT,
    "untrained": TINY_AGENT,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_the_script_runs_each(name: str, here: Path, run_here: RunHere) -> None:
    arguments = [*BUDGETS[name], f"agent={name}"]
    code, out, log = run_here(train_ppo.main, "train_ppo", *arguments, cwd=here)
    assert code == 0, log
    assert "image_AUROC" in out
    (run,) = (here / "runs/digits/agent").glob(f"{name}-*")
    report = json.loads((run / "report.json").read_text())
    assert report["agent"] == name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["agent=mixup", "agent.low=2"], "agent.low=2"),
        (["agent=mixup", "env.perturbation=principal"], "env.perturbation=dense"),
        (["agent=untrained", "agent.hidden=[0]"], "agent.hidden=[0]"),
        (["agent=random", "agent.name=mine"], "agent.name=mine is no agent"),
    ],
    ids=str,
)
def test_mistakes_show_before_anything_is_trained(
    arguments: list[str], message: str, tmp_path: Path, run_here: RunHere
) -> None:
    code, _, log = run_here(train_ppo.main, "train_ppo", "dataset=digits", *arguments, cwd=tmp_path)
    assert code != 0
    assert message in log.splitlines()[-1]
    assert not (tmp_path / "runs/digits/autoencoder").exists()
