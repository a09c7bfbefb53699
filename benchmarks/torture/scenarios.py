"""Small commands, one for every stage, with what each finds done when it begins, and how each ends."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.torture.audit import Points
from benchmarks.torture.children import Action, Ended, command, run
from benchmarks.torture.trees import Tree, copy_tree, tree_of
from stages.cli.mistakes import MISTAKE

SIDE = 16
LONG_AGO = 1_000_000_000
NORMAL, TESTED = 24, 10
"""Normal images to learn from, and of each kind to be tested on."""

DATA = (
    *("dataset=folder", "dataset.root=mine", "data_root=.", f"dataset.size={SIDE}"),
    *("dataset.valid_fraction=0.3", "track=few_labelled"),
)
MACHINE = ("device=cpu", "threads=1")
AUTOENCODER = (*DATA, *MACHINE, "autoencoder.steps=20", "autoencoder.width=8", "autoencoder.batch_size=8")
DETECTOR = (
    *(*AUTOENCODER, "detector.steps=20", "detector.width=16"),
    *("detector.batch_size=8", "detector.num_start_images=8", "labelled.step_multiplier=1"),
)
AGENT = (
    *(*DETECTOR, "env.num_envs=4", "samples=16", "full_size=2", "reward_ensemble.count=1"),
    "mixture.shares=[0.5]",
)
PPO = ("agent=ppo", "agent.total_steps=64", "agent.n_steps=8", "agent.batch_size=16", "agent.n_epochs=2")
MPO = ("agent=mpo", "agent.total_steps=64", "agent.n_steps=8", "agent.batch_size=16", "rounds=1")
SEQUENCES = (
    *("agent=decision_transformer", "agent.total_steps=64", "agent.n_steps=8", "agent.batch_size=8"),
    *("agent.hidden=[16,16]", "agent.heads=2", "agent.gradient_steps=2", "rounds=1", "share=0.5"),
)
DENOISE = (
    *(*AUTOENCODER, "env=latent_denoise", "env.num_envs=4", "samples=16", "env.critic.steps=20"),
    *("env.critic.width=16", "env.critic.depth=1", "env.critic.batch_size=8", *PPO),
)
STUDY = (
    *("--also", "small=dataset=folder dataset.root=mine data_root=. dataset.valid_fraction=0.3"),
    *("--datasets", "small", "--settings", "scratch", "--tracks", "few_labelled"),
    *("--agents", "none", "random", "--seeds", "1", "--out", "study", "--set"),
    *(each for each in AGENT if each not in (*DATA, "full_size=2")),
)


@dataclass(frozen=True)
class Scenario:
    """A command of a user."""

    name: str
    words: tuple[str, ...]
    """What stands behind ``python``."""
    given: str | None = None
    """The scenario that was done before in the same folder."""
    refusal: int = MISTAKE
    """The exit code where the system refuses something."""

    def action(self) -> Action:
        """The command, for a forked process."""
        return command(*self.words)


SCENARIOS = {
    each.name: each
    for each in (
        Scenario("prepare", ("-m", "stages.prepare", *DATA)),
        Scenario("autoencoder", ("train_ae.py", *AUTOENCODER), "prepare"),
        Scenario("detector", ("train_detector.py", *DETECTOR, "export=out"), "autoencoder"),
        Scenario(
            "ensemble", ("train_detector.py", *DETECTOR, "detector=ensemble", "export=out"), "autoencoder"
        ),
        Scenario("gaussian", ("train_detector.py", *AUTOENCODER, "detector=gaussian"), "autoencoder"),
        Scenario("ppo", ("train_ppo.py", *AGENT, *PPO, "export=out"), "detector"),
        Scenario("mpo", ("train_ppo.py", *AGENT, *MPO), "detector"),
        Scenario("decision transformer", ("train_ppo.py", *AGENT, *SEQUENCES), "detector"),
        Scenario("denoise", ("train_ppo.py", *DENOISE, "export=out"), "autoencoder"),
        # A study makes its other runs all the same, and says which failed and why.
        Scenario("study", ("-m", "benchmarks.augmentation", *STUDY), "prepare", refusal=1),
        Scenario("all stages", ("train_ppo.py", *AGENT, *PPO, "rounds=1", "export=out")),
    )
}


class Reference(NamedTuple):
    """How a command ends that nobody disturbs."""

    ended: Ended
    tree: Tree
    points: int
    """How often it changes something in its folder."""


class Stage:
    """A scenario, where it begins, and how it ends undisturbed."""

    def __init__(self, scenario: Scenario, root: Path, given: Stage | None) -> None:
        self.scenario, self.given = scenario, given
        self.work = root / "work"
        """Where all commands work, one after the other: names of prepared data depend on where images lie."""
        self._done = root / f"{scenario.name.replace(' ', '-')}-done"

    def fresh(self) -> Path:
        """The folder for a command, with all in it that it finds when it begins."""
        found = self.given and self.given.done
        shutil.rmtree(self.work, ignore_errors=True)
        if found:
            return copy_tree(found, self.work)
        make_images(self.work / "mine")
        return self.work

    @property
    def done(self) -> Path:
        """A copy of the folder in which the command was done undisturbed."""
        _ = self.reference
        return self._done

    @cached_property
    def reference(self) -> Reference:
        """The command, undisturbed."""
        points = Points(self.fresh())
        ended = run(self.scenario.action(), self.work, [points.install])
        if ended.code:
            raise RuntimeError(f"{self.scenario.name} fails undisturbed: {ended.err}")
        copy_tree(self.work, self._done)
        return Reference(ended, tree_of(self.work), points.count)


def make_stages(root: Path, scenarios: Mapping[str, Scenario], wanted: Sequence[str]) -> dict[str, Stage]:
    """The stages that are ``wanted``, below ``root``; others that they begin with are made where needed."""
    made: dict[str, Stage] = {}
    for name, each in scenarios.items():  # those that others begin with come first
        made[name] = Stage(each, root, made[each.given] if each.given else None)
    return {name: made[name] for name in wanted}


def printed(text: str) -> str:
    """What a command printed, without what differs from time to time."""
    return re.sub(r"\d+\.\d+ s\b", "… s", text)


def printed_otherwise(expected: Ended, found: Ended) -> list[str]:
    """The first line that a command printed otherwise than ``expected``, or no line, in words."""
    lines = zip_longest(*(printed(each.out).splitlines() for each in (expected, found)), fillvalue="nothing")
    return [f"it prints {now!r} instead of {then!r}" for then, now in lines if now != then][:1]


def make_images(folder: Path) -> None:
    """A small data set in MVTec AD's layout: noise, with bright squares as anomalies."""
    rng = np.random.default_rng(0)
    for part, count in (("train/good", NORMAL), ("test/good", TESTED), ("test/square", TESTED)):
        for name, image, mask in _drawn(rng, count, part.endswith("square")):
            _save(folder / part / f"{name}.png", image)
            if part.endswith("square"):
                _save(folder / "ground_truth/square" / f"{name}_mask.png", mask)


def _drawn(
    rng: np.random.Generator, count: int, marked: bool
) -> Iterator[tuple[str, NDArray[np.uint8], NDArray[np.uint8]]]:
    for number in range(count):
        image = rng.integers(60, 120, (SIDE, SIDE), np.uint8)
        mask = np.zeros_like(image)
        if marked:
            top, left = rng.integers(2, SIDE - 6, 2)
            mask[top : top + 4, left : left + 4] = 255
            image[mask > 0] = 250
        yield f"{number:03d}", image, mask


def _save(path: Path, pixels: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    os.utime(path, (LONG_AGO, LONG_AGO))  # what is prepared of it notes its time
