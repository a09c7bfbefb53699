"""The decision transformer on data sets of `python -m stages.offline`: what it reaches beside what it saw.

  random, ppo, forward   the data set that it learns from

Returns are means of 256 episodes; it acts deterministically. What is finished is used again: the same command
goes on after Ctrl-C, and more seeds may be asked for later.

Examples:
  python -m benchmarks.offline
  python -m benchmarks.offline --tasks LatentDenoise-Digits-v0 --methods ppo --seeds 1 --episodes 500
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.learners.stock_ppo import worlds_of
from agents.sb3_vec_env import LatentVecEnv
from benchmarks.cases import Case, Outcome
from benchmarks.command import Comparison, new_parser, parse, run_command
from benchmarks.differences import Pair, Result, Results
from benchmarks.report import About
from benchmarks.returns import SPLITS, WORLDS, Act, mean_return, scripts_config
from latent_common.artifacts import read_json, write_json
from latent_env.dynamics import Episodes
from latent_env.worlds.store import COMPLETE
from latent_env.worlds.tasks import AUGMENT, TASKS
from stages.agents.learners import MINARI, make_learner
from stages.offline.arguments import POLICIES, read_options
from stages.offline.command import make_datasets

NAME = "offline"
DIGITS = ("LatentAug-Digits-v0", "LatentDenoise-Digits-v0")
METRICS = ("return", "test_return", "minutes")
QUESTION = "What does the decision transformer learn from data sets of other policies?"
METHOD = """\
Each seed has data sets of its own, as `python -m stages.offline` makes them with that seed; "the data" is the
mean return of their episodes. The decision transformer has the hyperparameters of `train_ppo.py`. Mean return
of 256 episodes that begin alike for all; it acts deterministically. `test_return` is that from images that
nothing learned from. Minutes are those that one thread of the processor was busy with learning."""


def recalling(model: BaseAlgorithm) -> Act:
    """The deterministic policy of a model that carries a memory from step to step."""
    memory: Any = None

    def act(worlds: Episodes[Any], seen: Tensor) -> Tensor:
        nonlocal memory
        begins = (worlds.elapsed == 0).numpy()
        actions, memory = model.predict(seen.numpy(), memory, begins, deterministic=True)
        return torch.from_numpy(actions)

    return act


def measure(case: Case, options: argparse.Namespace) -> Path:
    """Make the data set, learn from it, and measure; returns the folder with what was found."""
    (task,) = case.place
    folder, sets = Path(options.out) / "runs" / case.name, Path(options.out) / "sets" / str(case.seed)
    given = ["--policies", case.method, "--episodes", str(options.episodes), "--seed", str(case.seed)]
    wanted = read_options([task, *given, "--out", str(sets)])
    make_datasets(wanted)
    (data,) = [sets / recording.id for recording in wanted.recordings]
    began = time.process_time()
    model = learned(task, data, case.seed, options.steps)
    seconds = time.process_time() - began
    found = {
        name: mean_return(worlds_of(task, WORLDS, split), recalling(model)) for name, split in SPLITS.items()
    }
    shown = read_json(data / "data" / "metadata.json")["mean_return"]
    write_json(folder / COMPLETE, {**found, "minutes": seconds / 60, "data": shown})
    return folder


def learned(task: str, data: Path, seed: int, steps: int) -> BaseAlgorithm:
    """The decision transformer after it has read ``steps`` steps of the data set in ``data``."""
    config = scripts_config(task, "agent=decision_transformer")
    agent = replace(config.agent, demonstrations=[f"{MINARI}{data}"])
    model = make_learner(agent, LatentVecEnv(worlds_of(task, config.env.num_envs)), seed)
    return model.learn(steps)


def cases_of(options: argparse.Namespace) -> list[Case]:
    """All runs, seed by seed."""
    return [
        Case((task,), method, seed, NAME, (f"episodes={options.episodes}", f"steps={options.steps}"))
        for seed in range(options.seeds)
        for task in options.tasks
        for method in options.methods
        if method != "forward" or TASKS[task].entry_points is not AUGMENT
    ]


def results_of(outcome: Outcome) -> list[Result]:
    """The returns of one run, and those of its data."""
    found, case = outcome.read(COMPLETE), outcome.case
    own = {metric: float(found[metric]) for metric in METRICS}
    beside = Result(case.place, beside_name(case.method), case.seed, {"return": float(found["data"])})
    return [Result(case.place, case.method, case.seed, own), beside]


def beside_name(method: str) -> str:
    """What a data set is called beside what was learned from it."""
    return f"{method}, the data"


def pairs_of(results: Results) -> list[Pair]:
    """What was learned minus its data."""
    own = [(place, name) for place, name in results.methods if name in POLICIES]
    return [((place, name), (place, beside_name(name))) for place, name in own]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = new_parser(NAME, __doc__, "train_ppo")
    made.add_argument("--tasks", nargs="+", choices=tuple(TASKS), default=list(DIGITS))
    made.add_argument("--methods", nargs="+", choices=POLICIES, default=list(POLICIES))
    text = "of each data set (default 2000)"
    made.add_argument("--episodes", type=int, default=2000, metavar="N", help=text)
    text = "that the decision transformer reads, again and again (default 65536)"
    made.add_argument("--steps", type=int, default=65_536, metavar="N", help=text)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the comparison; returns the exit code."""
    options = parse(parser(), arguments)
    torch.set_num_threads(1)
    about = About(QUESTION, ("task",), METRICS, METHOD, options.command)
    facts = lambda outcome: outcome.read(COMPLETE)  # noqa: E731
    comparison = Comparison(about, cases_of(options), results_of, pairs_of, facts)
    return comparison.conduct(options, {NAME: lambda case: measure(case, options)})


if __name__ == "__main__":
    run_command(NAME, main)
