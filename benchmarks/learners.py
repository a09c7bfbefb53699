"""Five learners on two tasks: whether each solves what it should, and how good its images are.

*pendulum*: Gymnasium's Pendulum-v1, a standard task of continuous control. A learner solves it if the mean
return of its deterministic policy over 20 episodes is above -250. The decision transformer learns from
episodes that the PPO and the MPO of the same seed played.

*digits* (or *mnist*): LatentDenoise-v0 as train_ppo.py env=latent_denoise plays it, and what the images are
worth beside those of a plain diffusion model.

What is done is kept: the same command goes on where it was stopped, and two of them for different tasks may
run beside each other. Where --out has tables already, new rows are added to them, and those of a training
that was done again replace the earlier ones. For example

  python -m benchmarks.learners --out results/learners
  python -m benchmarks.learners --tasks pendulum --agents mpo --seeds 0 --out results/look
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from tqdm import tqdm

from agents.learners.a2c import ActorCritic
from agents.learners.batch_ppo import BatchPPO
from agents.learners.factory import MAKERS
from agents.learners.mpo import MPO
from agents.learners.reinforce import Reinforce
from agents.learners.saving import load_policy, save_policy
from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.trajectories import RecordedPolicy
from benchmarks.asking import asked, asking
from benchmarks.augmentation.records import commit
from benchmarks.learners_report import merged, read_rows, write_report
from conf.schema.runs import AgentRun
from latent_common.artifacts import write_json
from latent_common.errors import UserError
from latent_common.progress import progress_bar
from stages.cli.choices import CONF
from stages.context import start_job
from stages.denoise.stage import denoise_stage
from stages.job_of import autoencoder_stage

TASKS = ("pendulum", "digits", "mnist")
PENDULUM = "Pendulum-v1"
WORLDS, EPISODES, TEST_SEED = 16, 20, 10_000
GAMMA = 0.9
TEACHERS = ("ppo", "mpo")

KEYS = {
    "digits": ("dataset=digits", "env.artifacts=digits"),
    "mnist": ("dataset=mnist", "dataset.normal=[0,1,2,3,4,5,6,7,8]"),
}


@dataclass(frozen=True)
class Solver:
    """A learner of Pendulum-v1: how it is made, and how many steps it gets."""

    steps: int
    make: Callable[[VecEnv, int], BaseAlgorithm]


def _net() -> dict[str, Any]:
    return {"net_arch": [64, 64]}


def _falling(first: float) -> Callable[[float], float]:
    """A learning rate that falls to nothing with what is left of the training."""
    return lambda left: first * left


SOLVERS = {
    "ppo": Solver(
        300_000,
        lambda env, seed: BatchPPO(
            "MlpPolicy", env, n_steps=64, batch_size=64, n_epochs=10, gamma=GAMMA, gae_lambda=0.95,
            learning_rate=_falling(1e-3), policy_kwargs=_net(), seed=seed, device="cpu",
        ),
    ),
    "reinforce": Solver(
        1_000_000,
        lambda env, seed: Reinforce(
            "MlpPolicy", env, n_steps=100, learning_rate=_falling(5e-3), gamma=GAMMA,
            policy_kwargs=_net(), seed=seed, device="cpu",
        ),
    ),
    "actor_critic": Solver(
        1_000_000,
        lambda env, seed: ActorCritic(
            "MlpPolicy", env, n_steps=8, gae_lambda=0.9, learning_rate=_falling(1.5e-3), gamma=GAMMA,
            use_rms_prop=False, normalize_advantage=True, policy_kwargs=_net(), seed=seed, device="cpu",
        ),
    ),
    "mpo": Solver(
        20_000,
        lambda env, seed: MPO(
            "MlpPolicy", env, train_freq=4, gradient_steps=16, epsilon_mean=0.05, epsilon_std=1e-3,
            learning_rate=2e-3, gamma=0.95, policy_kwargs=_net(), seed=seed, device="cpu",
        ),
    ),
    "decision_transformer": Solver(
        128_000,
        lambda env, seed: DecisionTransformer(
            "MlpPolicy", env, n_steps=200, gradient_steps=150, batch_size=64, learning_rate=_falling(1e-3),
            policy_kwargs={**_net(), "context": 8}, seed=seed, device="cpu",
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One training."""

    task: str
    agent: str
    seed: int

    def folder(self, out: Path) -> Path:
        """Where it is kept."""
        return out / "cases" / f"{self.task}-{self.agent}-{self.seed}"


class Bar(BaseCallback):
    """Moves a progress bar."""

    def __init__(self, bar: tqdm[Any]) -> None:
        super().__init__()
        self.bar = bar

    def _on_step(self) -> bool:
        self.bar.update(self.model.num_timesteps - self.bar.n)
        return True


def pendulum(case: Case, out: Path) -> dict[str, float]:
    """Train one learner on Pendulum-v1, and play it."""
    solver = SOLVERS[case.agent]
    worlds = make_vec_env(PENDULUM, WORLDS, seed=1000 * case.seed)
    # What is learned from is scaled; what is reported is not.
    env = VecNormalize(worlds, norm_obs=False, gamma=GAMMA)
    recorded = case.agent == "decision_transformer"
    model = solver.make(worlds if recorded else env, case.seed)
    if isinstance(model, DecisionTransformer):
        model.demonstrations = [
            RecordedPolicy(taught(Case(case.task, name, case.seed), env, out)) for name in TEACHERS
        ]
    before = play(model)
    with progress_bar(f"{case.agent}, seed {case.seed}", solver.steps) as bar:
        model.learn(solver.steps, callback=Bar(bar))
    save_policy(case.folder(out), model, {"agent": case.agent, "steps": solver.steps})
    return {"return": play(model), "untrained_return": before, "steps": solver.steps}


def taught(case: Case, env: VecEnv, out: Path) -> BaseAlgorithm:
    """A learner of Pendulum-v1 that was trained before."""
    folder = case.folder(out)
    if not (folder / "policy.json").is_file():
        raise UserError(f"the decision transformer learns from {case.agent}: name it in --agents too")
    model = SOLVERS[case.agent].make(env, case.seed)
    load_policy(folder, model)
    return model


def play(model: BaseAlgorithm) -> float:
    """The mean return of the deterministic policy over 20 episodes, the same ones for all."""
    env = make_vec_env(PENDULUM, EPISODES, seed=TEST_SEED)
    mean, _ = evaluate_policy(model, env, EPISODES, deterministic=True, warn=False)
    assert isinstance(mean, float)
    return mean


def denoise(case: Case, options: argparse.Namespace) -> dict[str, float]:
    """Train one learner as train_ppo.py env=latent_denoise does; the figures of its report."""
    keys = [
        "env=latent_denoise",
        *KEYS[case.task],
        f"agent={case.agent}",
        f"seed={case.seed}",
        f"runs={options.out / 'runs'}",
        f"prepared={options.out / 'prepared'}",
        f"data_root={options.data}",
        f"device={options.device}",
        *options.keys,
    ]
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        job = start_job(compose("train_ppo", keys), AgentRun)
    metrics = denoise_stage(job, autoencoder_stage).metrics
    return {name: float(value) for name, value in metrics.items()}


def measure(options: argparse.Namespace) -> None:
    """Every case that isn't done, and the report after each."""
    # Whom others learn from comes first.
    agents = sorted(options.agents, key=lambda name: name == "decision_transformer")
    wanted = [Case(task, agent, seed) for task in options.tasks for seed in options.seeds for agent in agents]
    with progress_bar("trainings", len(wanted)) as bar:
        for case in wanted:
            path = case.folder(options.out) / "case.json"
            if not path.is_file():
                torch.manual_seed(case.seed)
                found = pendulum(case, options.out) if case.task == "pendulum" else denoise(case, options)
                write_json(path, {**asdict(case), **found, "keys": options.keys, "commit": commit()})
            bar.update()
            report(options.out)


def report(out: Path) -> None:
    """Write the tables of all that is done, by whichever command and wherever.

    A published ``RESULTS.json`` says what was measured elsewhere; what is measured again takes its place.
    """
    published = read_rows(out)
    measured = [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("cases/*/case.json")]
    write_report(out, merged(published, measured))


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = asking("benchmarks.learners", __doc__, "train_ppo", "for LatentDenoise-v0", out="results/learners")
    made.add_argument("--tasks", nargs="+", choices=TASKS, default=["pendulum", "digits"])
    made.add_argument("--agents", nargs="+", choices=tuple(MAKERS), default=list(MAKERS))
    made.add_argument("--seeds", nargs="+", type=int, default=list(range(5)), help="default 0 to 4")
    made.add_argument("--device", default="auto", help="of LatentDenoise-v0 (default auto)")
    made.add_argument("--threads", type=int, default=1, help="of PyTorch (default 1: the networks are small)")
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print the tables."""
    with asked(parser(), arguments) as options:
        if options.threads < 1:
            raise UserError(f"--threads {options.threads} must be at least 1")
        options.keys = [f"threads={options.threads}", *options.keys]
        torch.set_num_threads(options.threads)
        measure(options)
        print((options.out / "RESULTS.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
