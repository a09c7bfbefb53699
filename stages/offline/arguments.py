"""What ``python -m stages.offline`` is called with."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path

from latent_common.errors import UserError
from latent_env.worlds.tasks import DENOISE, TASKS, Task
from stages.cli.options import Parser

ABOUT = "Make Minari data sets of registered tasks: episodes that policies play."
EXAMPLES = """\
policies:
  random    uniform actions
  ppo       PPO of Stable-Baselines3 with default hyperparameters, trained first; acts stochastically
  forward   forward diffusion played in reverse, by who knows the image (LatentDenoise only)

examples:
  python -m stages.offline
  python -m stages.offline LatentAug-Digits-v0 --policies ppo --episodes 2000 --steps 100000
  python -m stages.offline LatentDenoise-Digits-v0 --policy runs/digits/generator/ppo-1a2b3c4d5e/round_2

Ids are such as latentaug/digits/ppo-v0: minari.load_dataset() takes them, and so does
agent=decision_transformer agent.demonstrations=[minari:latentdenoise/digits/ppo-v0]. Policies see the same
starts. What is there already is kept, so after Ctrl-C the same command goes on.
"""

POLICIES = ("random", "ppo", "forward")
MOST_EPISODES, MOST_STEPS, MOST_SEED = 10**6, 10**9, 2**31
"""With so many episodes at most, data sets of different seeds have no start in common."""


@dataclass(frozen=True)
class Recording:
    """One data set that is asked for."""

    task: Task
    policy: str
    """One of ``POLICIES``, or ``saved``."""
    episodes: int
    seed: int
    steps: int | None
    """Those that PPO is trained for; None where nothing is."""
    folder: Path | None
    """Where the saved policy is."""

    @property
    def id(self) -> str:
        """Such as ``latentaug/digits/ppo-v0``."""
        *names, version = self.task.id.lower().split("-")
        return "/".join([*names, f"{self.policy}-{version}"])

    @property
    def first_seed(self) -> int:
        """The seed of its first episode; the others have those that follow."""
        return MOST_EPISODES * (self.seed + 1)

    def settings(self) -> dict[str, str | int]:
        """All that decides what is in the data set, beside the task."""
        known: dict[str, str | int] = {"policy": self.policy, "episodes": self.episodes, "seed": self.seed}
        if self.steps is not None:
            known["steps"] = self.steps
        return known if self.folder is None else {**known, "folder": self.folder.as_posix()}


@dataclass(frozen=True)
class Options:
    """The arguments, checked."""

    recordings: list[Recording]
    out: Path | None
    overwrite: bool


def make_parser() -> Parser:
    """The parser of the command line, for its help."""
    parser = Parser("offline", ABOUT, EXAMPLES)
    parser.prog = "python -m stages.offline"
    parser.add_argument("tasks", nargs="*", metavar="TASK", help=f"{', '.join(TASKS)} (default all)")
    parser.add_argument(
        "--policies", nargs="+", choices=POLICIES, help="who plays (default all that fit the task)"
    )
    text = "plays instead: the folder of a policy that train_ppo.py saved, for one task"
    parser.add_argument("--policy", type=Path, metavar="FOLDER", help=text)
    numbers = (
        ("--episodes", 1000, "of each data set"),
        ("--steps", 50_000, "that PPO is trained for"),
        ("--seed", 0, "of policies and episodes"),
    )
    for name, usual, about in numbers:
        text = f"{about} (default %(default)s)"
        parser.add_argument(name, type=int, default=usual, metavar="N", help=text)
    text = "Minari's data folder (default $MINARI_DATASETS_PATH, or ~/.minari/datasets)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("--overwrite", action="store_true", help="make data sets anew that are there")
    return parser


def read_options(arguments: list[str]) -> Options:
    """The options that ``arguments`` give; what makes no sense is a ``UserError``."""
    given = make_parser().parse_intermixed_args(arguments)
    for name in given.tasks:
        if name not in TASKS:
            raise UserError(f"{name} is no registered task: choose {', '.join(TASKS)}")
    limits = (("episodes", 1, MOST_EPISODES), ("steps", 1, MOST_STEPS), ("seed", 0, MOST_SEED))
    for name, least, most in limits:
        value = getattr(given, name)
        if not least <= value <= most:
            raise UserError(f"--{name} {value} must lie from {least} to {most}")
    if given.policy is not None and (given.policies or len(given.tasks) != 1):
        raise UserError(f"--policy {given.policy} plays one task alone: name that task, and no --policies")
    recordings = [
        _recording(TASKS[task], policy, given)
        for task in dict.fromkeys(given.tasks or TASKS)
        for policy in _policies(TASKS[task], given)
    ]
    return Options(recordings, given.out, given.overwrite)


def _recording(task: Task, policy: str, given: Namespace) -> Recording:
    steps = given.steps if policy == "ppo" else None
    return Recording(task, policy, given.episodes, given.seed, steps, given.policy)


def _policies(task: Task, given: Namespace) -> list[str]:
    """Who plays ``task``; a task that wasn't named is played by those that fit it."""
    if given.policy is not None:
        return ["saved"]
    fitting = [name for name in POLICIES if name != "forward" or task.entry_points is DENOISE]
    for name in given.policies or ():
        if given.tasks and name not in fitting:
            raise UserError(
                f"--policies {name} plays LatentDenoise alone: for {task.id} choose {' or '.join(fitting)}"
            )
    return [name for name in dict.fromkeys(given.policies or fitting) if name in fitting]
