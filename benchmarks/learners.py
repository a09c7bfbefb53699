"""Five learners on three tasks: whether each solves what it should, and how good its images are.

  pendulum       Gymnasium's Pendulum-v1. The return is that of the deterministic policy, mean of 20 episodes;
                 above -250 it is solved. The decision transformer learns from episodes that the PPO and the
                 MPO of the same seed play.
  digits, mnist  LatentDenoise-v0, as train_ppo.py env=latent_denoise plays it, beside a plain diffusion model
                 with a network of the same layers and as many gradient steps.

What is finished is used again: the same command goes on after Ctrl-C, and more seeds may be asked for later.

Examples:
  python -m benchmarks.learners
  python -m benchmarks.learners --tasks mnist --data /data --seeds 3
  python -m benchmarks.learners --tasks pendulum --agents ppo mpo --seeds 1
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from agents.learners.a2c import ActorCritic
from agents.learners.batch_ppo import BatchPPO
from agents.learners.mpo import MPO
from agents.learners.reinforce import Reinforce
from agents.learners.saving import load_policy, save_policy
from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.trajectories import RecordedPolicy
from benchmarks.cases import Case, Outcome
from benchmarks.command import Comparison, new_parser, parse, run_command
from benchmarks.datasets import Data, check_found
from benchmarks.differences import Pair, Result, Results
from benchmarks.report import About
from benchmarks.scripts import SCRIPTS
from latent_common.artifacts import write_json
from latent_common.errors import UserError
from latent_env.worlds.store import COMPLETE
from stages.agents.learners import LEARNERS
from stages.denoise.report import AGENT, DIFFUSION, UNTRAINED

NAME = "learners"
PENDULUM, PENDULUM_ID = "pendulum", "Pendulum-v1"
WORLDS, EPISODES, TEST_SEED = 16, 20, 10_000
GAMMA = 0.9
DEMONSTRATORS = ("ppo", "mpo")
NET: dict[str, Any] = {"net_arch": [64, 64]}

IMAGES = {
    "digits": Data(("dataset=digits", "env.artifacts=digits")),
    "mnist": Data(("dataset=mnist", "dataset.normal=[0,1,2,3,4,5,6,7,8]"), "mnist", "."),
}
METRICS = ("return", "accuracy", "frechet", "diversity", "steps")
QUESTION = "Do the learners solve Pendulum-v1 and learn to make images?"
METHOD = """\
Pendulum-v1: mean return of the deterministic policy over 20 episodes, solved above -250.
`LatentDenoise-v0`: the return is the quality that a critic sees at the end less that of the noise it began
with; accuracy of the requested class, Fréchet distance and diversity (1: as varied as real images) are
measured by a classifier that is trained separately. "Untrained" is the policy before it learned,
"diffusion" a plain diffusion model with the policy's layers and as many gradient steps, both of the same
run."""


@dataclass(frozen=True)
class Solver:
    """A learner of Pendulum-v1: how many steps it gets, and how it is made for an environment and a seed."""

    steps: int
    make: Callable[[VecEnv, int], BaseAlgorithm]


def falling(first: float) -> Callable[[float], float]:
    """A learning rate that falls to nothing with what is left of the training."""
    return lambda left: first * left


SOLVERS = {
    "ppo": Solver(
        300_000,
        lambda env, seed: BatchPPO(
            "MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=10, gamma=GAMMA, gae_lambda=0.95,
            learning_rate=falling(1e-3), policy_kwargs=NET, seed=seed, device="cpu",
        ),
    ),
    "reinforce": Solver(
        1_000_000,
        lambda env, seed: Reinforce(
            "MlpPolicy", env, n_steps=100, learning_rate=falling(5e-3), gamma=GAMMA,
            policy_kwargs=NET, seed=seed, device="cpu",
        ),
    ),
    "actor_critic": Solver(
        1_000_000,
        lambda env, seed: ActorCritic(
            "MlpPolicy", env, n_steps=8, gae_lambda=0.9, learning_rate=falling(1.5e-3), gamma=GAMMA,
            use_rms_prop=False, normalize_advantage=True, policy_kwargs=NET, seed=seed, device="cpu",
        ),
    ),
    "mpo": Solver(
        20_000,
        lambda env, seed: MPO(
            "MlpPolicy", env, train_freq=4, gradient_steps=16, epsilon_mean=0.05, epsilon_std=1e-3,
            learning_rate=2e-3, gamma=0.95, policy_kwargs=NET, seed=seed, device="cpu",
        ),
    ),
    "decision_transformer": Solver(
        128_000,
        lambda env, seed: DecisionTransformer(
            "MlpPolicy", env, n_steps=200, gradient_steps=150, batch_size=64, learning_rate=falling(1e-3),
            policy_kwargs={**NET, "context": 8}, seed=seed, device="cpu",
        ),
    ),
}  # fmt: skip


def pendulum(case: Case, options: argparse.Namespace) -> Path:
    """Train one learner on Pendulum-v1 unless that is done, and play it; returns its folder."""
    folder = pendulum_folder(options, case.method, case.seed)
    if (folder / COMPLETE).is_file():
        return folder
    solver = SOLVERS[case.method]
    steps = options.pendulum_steps or solver.steps
    worlds = make_vec_env(PENDULUM_ID, WORLDS, seed=1000 * case.seed)
    # What is learned from is scaled; what is reported is not.
    env = VecNormalize(worlds, norm_obs=False, gamma=GAMMA)
    recorded = case.method == "decision_transformer"
    torch.manual_seed(case.seed)
    model = solver.make(worlds if recorded else env, case.seed)
    if isinstance(model, DecisionTransformer):
        model.demonstrations = [
            RecordedPolicy(demonstrator(name, env, case.seed, options)) for name in DEMONSTRATORS
        ]
    before = play(model)
    model.learn(steps)
    save_policy(folder, model, {"agent": case.method, "steps": steps})
    found = {f"{AGENT}_return": play(model), f"{UNTRAINED}_return": before, "training_steps": steps}
    write_json(folder / COMPLETE, found)
    return folder


def pendulum_folder(options: argparse.Namespace, agent: str, seed: int) -> Path:
    """Where a learner of Pendulum-v1 is kept; one that learned for another number of steps is another."""
    return Path(options.out) / "runs" / PENDULUM / f"{agent}-{options.pendulum_steps or 'full'}-{seed}"


def demonstrator(agent: str, env: VecEnv, seed: int, options: argparse.Namespace) -> BaseAlgorithm:
    """A learner of Pendulum-v1 that was trained before."""
    folder = pendulum_folder(options, agent, seed)
    if not (folder / COMPLETE).is_file():
        raise UserError(f"the decision transformer learns from {agent}: name it in --agents too")
    model = SOLVERS[agent].make(env, seed)
    load_policy(folder, model)
    return model


def play(model: BaseAlgorithm) -> float:
    """The mean return of the deterministic policy over 20 episodes, the same ones for all learners."""
    env = make_vec_env(PENDULUM_ID, EPISODES, seed=TEST_SEED)
    mean, _ = evaluate_policy(model, env, EPISODES, deterministic=True, warn=False)
    assert isinstance(mean, float)
    return mean


def cases_of(options: argparse.Namespace) -> list[Case]:
    """All runs; those that others learn from come first."""
    agents = sorted(options.agents, key=lambda name: name == "decision_transformer")
    return [
        new_case(task, agent, seed, options)
        for task in options.tasks
        for seed in range(options.seeds)
        for agent in agents
    ]


def new_case(task: str, agent: str, seed: int, options: argparse.Namespace) -> Case:
    """One run."""
    if task == PENDULUM:
        return Case((task,), agent, seed, PENDULUM, (f"steps={options.pendulum_steps}",))
    keys = [*IMAGES[task].keys_below(options.data), f"runs={options.out / 'runs'}", "threads=1", *options.set]
    arguments = ("env=latent_denoise", *keys, f"agent={agent}", f"seed={seed}")
    return Case((task,), agent, seed, "train_ppo", arguments)


def results_of(outcome: Outcome) -> list[Result]:
    """The learner, the same policy untrained, and the diffusion model beside it."""
    found, run = outcome.read(COMPLETE), outcome.case
    names = {
        AGENT: run.method,
        UNTRAINED: f"{run.method}, untrained",
        DIFFUSION: f"diffusion beside {run.method}",
    }
    results = []
    for prefix, method in names.items():
        own = {metric: found[f"{prefix}_{metric}"] for metric in METRICS if f"{prefix}_{metric}" in found}
        if own:
            results.append(Result(run.place, method, run.seed, own))
    return results


def pairs_of(results: Results) -> list[Pair]:
    """Every learner minus its untrained policy, and minus diffusion."""
    learners = [(place, name) for place, name in results.methods if name in LEARNERS]
    others = ("{}, untrained", "diffusion beside {}")
    pairs = [((place, name), (place, other.format(name))) for other in others for place, name in learners]
    return [pair for pair in pairs if pair[1] in results.methods]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(NAME, __doc__, "train_ppo")
    made.add_argument("--tasks", nargs="+", choices=(PENDULUM, *IMAGES), default=[PENDULUM, "digits"])
    made.add_argument(
        "--agents", nargs="+", choices=tuple(LEARNERS), default=list(LEARNERS), help="default: all"
    )
    text = "steps of every learner on Pendulum-v1, for a quick look (default: as many as each needs)"
    made.add_argument("--pendulum-steps", type=int, metavar="N", help=text)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit code."""
    options = parse(parser(), arguments)
    check_found([task for task in options.tasks if task in IMAGES], IMAGES, options.data)
    torch.set_num_threads(1)  # the networks are small
    about = About(QUESTION, ("task",), METRICS, METHOD, options.command)
    comparison = Comparison(
        about, cases_of(options), results_of, pairs_of, lambda outcome: outcome.read(COMPLETE)
    )
    return comparison.conduct(options, {**SCRIPTS, PENDULUM: lambda run: pendulum(run, options)})


if __name__ == "__main__":
    run_command(NAME, main)
