"""Returns of the registered tasks: what agents that don't learn reach, and what learners do.

  random, nothing, constant   uniform actions; the action that changes nothing; the best of many constant ones
  gradient                    climbs the detector's loss (LatentAug only)
  ppo, sac                    Stable-Baselines3's, with their default hyperparameters, on MlpPolicy
  ours                        PPO as train_ppo.py has it by default

Returns are means of 256 episodes; learners act deterministically. What is finished is used again: the same
command goes on after Ctrl-C, and more seeds may be asked for later.

Examples:
  python -m benchmarks.returns
  python -m benchmarks.returns --tasks LatentAug-Digits-v0 --methods random ppo --seeds 1
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from omegaconf import OmegaConf
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor

from agents.baselines.gradient import GradientAgent
from agents.learners.stock_ppo import stock_ppo, worlds_of
from agents.sb3_vec_env import LatentVecEnv
from benchmarks.cases import Case, Outcome
from benchmarks.command import Comparison, new_parser, parse, run_command
from benchmarks.curves import draw_curves
from benchmarks.differences import Pair, Result, Results
from benchmarks.report import About
from latent_common.artifacts import write_json
from latent_env.dynamics import Dynamics, Episodes
from latent_env.worlds.store import COMPLETE
from latent_env.worlds.tasks import AUGMENT, TASKS
from stages.agents.learners import make_learner
from stages.cli.compose import compose

NAME = "returns"
FIXED_POLICIES = ("random", "nothing", "constant", "gradient")
LEARNERS = ("ppo", "sac", "ours")
WORLDS, EPISODES, TEST_SEED = 64, 256, 10_000
CONSTANTS, SHORT = 128, 64
"""So many random constant actions are tried, and each direction of the axes, on so many episodes each."""

POINTS = 10
"""A learning curve has so many points after the first."""

METRICS = ("return", "test_return", "steps", "minutes")
QUESTION = "What do agents reach in the registered tasks?"
METHOD = """\
Mean return of 256 episodes, the same starts and seeds for all methods: `return` from the images that episodes
start from by default, `test_return` with `split="test"`. Learners act deterministically. `constant` is the
best of 128 random constant actions and of both directions of every axis, chosen on other episodes. PPO and
SAC are those of Stable-Baselines3 with their default hyperparameters; PPO's rollout of 2048 steps is that of
16 worlds. `ours` is PPO as `train_ppo.py` has it by default. Minutes are those that one thread of the
processor was busy."""

Act = Callable[[Episodes[Any], Tensor], Tensor]
"""Actions ``(N, k)`` in N worlds for observations ``(N, d)``."""


def mean_return(worlds: Episodes[Any], act: Act, episodes: int = EPISODES, seed: int = TEST_SEED) -> float:
    """The mean return of ``episodes`` episodes, which begin as they do for every other policy."""
    found = []
    for first in range(0, episodes, worlds.num_worlds):
        seeds = torch.arange(worlds.num_worlds) + seed + first
        seen = worlds.reset_tensor(seeds=seeds)
        returns = torch.zeros(worlds.num_worlds)
        going = torch.ones(worlds.num_worlds, dtype=torch.bool)
        for _ in range(worlds.horizon):
            step = worlds.step_tensor(act(worlds, seen))
            returns += step.rewards * going
            going &= ~step.terminated
            seen = step.observations
        found.append(returns)
    return float(torch.cat(found)[:episodes].mean())


def always(action: Tensor) -> Act:
    """The policy that always takes ``action (k,)``."""
    return lambda worlds, _: action.expand(worlds.num_worlds, -1)


def best_constant(task: str, seed: int) -> Act:
    """The constant action with the highest return, on episodes that nothing else is measured on."""
    worlds = worlds_of(task, WORLDS)
    size = worlds.perturbation.action_size
    drawn = 2 * torch.rand(CONSTANTS, size, generator=torch.Generator().manual_seed(seed)) - 1
    tried = torch.cat([drawn, torch.eye(size), -torch.eye(size)])
    rank = [mean_return(worlds, always(action), SHORT, 2 * TEST_SEED) for action in tried]
    return always(tried[int(np.argmax(rank))])


def fixed_policy(method: str, task: str, seed: int) -> Act:
    """A policy that doesn't learn."""
    match method:
        case "random":
            drawing = torch.Generator().manual_seed(seed)
            return lambda worlds, _: (
                2 * torch.rand(worlds.num_worlds, worlds.perturbation.action_size, generator=drawing) - 1
            )
        case "nothing":
            return lambda worlds, _: worlds.perturbation.null_action.expand(worlds.num_worlds, -1)
        case "constant":
            return best_constant(task, seed)
        case _:
            return partial(climb, seed=seed)


def climb(worlds: Episodes[Any], seen: Tensor, seed: int) -> Tensor:
    """What gradient ascent on the detector's loss does, as ``agent=gradient`` has it by default."""
    assert isinstance(worlds, Dynamics)
    config: Any = OmegaConf.to_object(compose("train_ppo", ["agent=gradient"]))
    agent = GradientAgent(worlds, seed, config.agent.steps, config.agent.step_size)
    return torch.from_numpy(agent.predict(seen.numpy())[0])


def policy_of(model: BaseAlgorithm) -> Act:
    """The deterministic policy of a model."""
    return lambda _, seen: torch.from_numpy(model.predict(seen.numpy(), deterministic=True)[0])


class Curve(BaseCallback):
    """Measures the policy every so many steps, beginning with none."""

    def __init__(self, task: str, every: int) -> None:
        super().__init__()
        self.worlds, self.every = worlds_of(task, WORLDS), every
        self.points: list[tuple[int, float]] = []
        self.seconds = 0.0
        """What measuring took."""

    def _on_training_start(self) -> None:
        self._measure()

    def _on_step(self) -> bool:
        if self.num_timesteps >= len(self.points) * self.every:
            self._measure()
        return True

    def _measure(self) -> None:
        began = time.process_time()
        self.points.append((self.num_timesteps, mean_return(self.worlds, policy_of(self.model), SHORT)))
        self.seconds += time.process_time() - began


def scripts_config(task: str, *keys: str) -> Any:
    """The configuration that ``train_ppo.py`` has for environments like ``task``, with these ``keys``."""
    env_name = "latent_aug" if TASKS[task].entry_points is AUGMENT else "latent_denoise"
    return OmegaConf.to_object(compose("train_ppo", [f"env={env_name}", *keys]))


def learner(method: str, task: str, seed: int) -> BaseAlgorithm:
    """A learner before it has learned anything."""
    if method == "sac":
        return SAC("MlpPolicy", gym.make(task), seed=seed, device="cpu")
    if method == "ppo":
        return stock_ppo(task, seed)
    config = scripts_config(task)
    return make_learner(config.agent, LatentVecEnv(worlds_of(task, config.env.num_envs)), seed)


def measure(case: Case, options: argparse.Namespace) -> Path:
    """Train what learns, and measure it; returns the folder with what was found."""
    (task,) = case.place
    folder = Path(options.out) / "runs" / case.name
    began, curve, steps = time.process_time(), None, 0
    if case.method in LEARNERS:
        steps = options.sac_steps if case.method == "sac" else options.steps
        model = learner(case.method, task, case.seed)
        curve = Curve(task, steps // POINTS)
        model.learn(steps, callback=curve)
        act, steps = policy_of(model), model.num_timesteps
    else:
        act = fixed_policy(case.method, task, case.seed)
    seconds = time.process_time() - began - (curve.seconds if curve else 0)
    found = {name: mean_return(worlds_of(task, WORLDS, split), act) for name, split in SPLITS.items()}
    facts = {**found, "steps": steps, "minutes": seconds / 60, "curve": curve.points if curve else []}
    write_json(folder / COMPLETE, facts)
    return folder


SPLITS = {"return": "train", "test_return": "test"}


def cases_of(options: argparse.Namespace) -> list[Case]:
    """All runs, seed by seed."""
    return [
        Case((task,), method, seed, NAME, (f"steps={options.steps}", f"sac_steps={options.sac_steps}"))
        for seed in range(options.seeds)
        for task in options.tasks
        for method in options.methods
        if method != "gradient" or TASKS[task].entry_points is AUGMENT
    ]


def results_of(outcome: Outcome) -> list[Result]:
    """The returns of one run."""
    found = outcome.read(COMPLETE)
    own = {metric: float(found[metric]) for metric in METRICS}
    return [Result(outcome.case.place, outcome.case.method, outcome.case.seed, own)]


def pairs_of(results: Results) -> list[Pair]:
    """Every learner minus random, and minus the best constant action."""
    learners = [(place, name) for place, name in results.methods if name in LEARNERS]
    pairs = [((place, name), (place, other)) for other in ("random", "constant") for place, name in learners]
    return [pair for pair in pairs if pair[1] in results.methods]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(NAME, __doc__, "train_ppo")
    made.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(TASKS))
    methods = (*FIXED_POLICIES, *LEARNERS)
    made.add_argument("--methods", nargs="+", choices=methods, default=list(methods))
    made.add_argument(
        "--steps", type=int, default=50_000, metavar="N", help="of PPO and ours (default 50000)"
    )
    made.add_argument("--sac-steps", type=int, default=10_000, metavar="N", help="of SAC (default 10000)")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit code."""
    options = parse(parser(), arguments)
    torch.set_num_threads(1)
    about = About(QUESTION, ("task",), METRICS, METHOD, options.command)
    facts = lambda outcome: {metric: outcome.read(COMPLETE)[metric] for metric in METRICS}  # noqa: E731
    comparison = Comparison(about, cases_of(options), results_of, pairs_of, facts, draw_curves)
    return comparison.conduct(options, {NAME: lambda case: measure(case, options)})


if __name__ == "__main__":
    run_command(NAME, main)
