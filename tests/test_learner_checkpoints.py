"""A learner that is stopped at every checkpoint ends bit by bit where one ends that never was."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import make_world
from denoise_worlds import make_denoise_world
from learner_configs import small_learner, worlds
from minari_sets import random_dataset
from stable_baselines3.common.base_class import BaseAlgorithm
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_copy_paste import world_with_images
from test_usefulness import world as ensemble_world
from torch import Tensor

from agents.learners import training as learners
from agents.learners.saving import policy_tensors, save_policy
from agents.rollout import collect
from agents.sb3_vec_env import LatentVecEnv
from conf.schema.agents import LearnerConfig
from latent_common.artifacts import load_artifact
from latent_common.errors import UserError
from latent_common.training_state import optimizer_tensors, restore_optimizer
from latent_env.denoise.settings import DenoiseSettings
from latent_env.dynamics import Dynamics, Episodes
from latent_env.rewards.base import RewardTerm, reward_terms
from latent_env.settings import Settings
from latent_env.training.run_folder import Run
from stages.agents import training
from stages.agents.learners import LEARNERS, make_learner

ROUNDS, TOTAL = 2, 144


def settings_of(name: str, **changes: Any) -> LearnerConfig:
    """Rollouts of six steps, three for MPO: episodes of four are in the middle when one ends."""
    own = {"ppo": {"batch_size": 12}, "mpo": {"n_steps": 3, "learning_starts": 30}}.get(name, {})
    return small_learner(name, **{"n_steps": 6, "total_steps": TOTAL, **own, **changes})


@reward_terms.register("counting")
class Counting(RewardTerm):
    """A term that remembers: what is paid falls with every step of all worlds."""

    def __init__(self) -> None:
        self.count = torch.tensor(0.0)

    def value(self, transition: Any) -> Tensor:
        return transition.latent.flatten(1).mean(1) / (1 + self.count)

    def remember(self, transition: Any, worlds: Tensor) -> None:  # noqa: ARG002
        self.count = self.count + worlds.sum()


def with_memories() -> Episodes[Any]:
    rewards = {"novelty": 1.0, "episode_novelty": 1.0, "coverage": 1.0, "counting": 1.0}
    return Settings(horizon=4, reward=rewards).dynamics(make_world("flat"), 4)


def with_edits() -> Episodes[Any]:
    return Settings(horizon=4, perturbation="copy_paste").dynamics(world_with_images(), 4)


def with_an_ensemble() -> Episodes[Any]:
    rewards = {"usefulness": 1.0, "matching": 1.0}
    return Settings(horizon=4, reward=rewards).dynamics(ensemble_world("image"), 4)


def denoising() -> Episodes[Any]:
    return DenoiseSettings(threshold=None, horizon=4).dynamics(make_denoise_world(), 4)


class Killed(BaseException):
    """The process is gone."""


class Command:
    """Processes that train a learner in two rounds, one after the other, until it is done."""

    def __init__(self, config: LearnerConfig, make: Callable[[], Episodes[Any]], folder: Path) -> None:
        self.config, self.make = config, make
        self.run = Run(folder, "digits", "agent", config.name, {})

    def process(self) -> BaseAlgorithm:
        """All that is left to do; the learner of the last round."""
        for number in range(1, ROUNDS + 1):
            model = make_learner(self.config, LatentVecEnv(self.make()), seed=number)
            training.train_agent(self.config, model, self.run, 5, number, ROUNDS)
        return model

    def killed_at_every_checkpoint(self, monkeypatch: pytest.MonkeyPatch) -> tuple[BaseAlgorithm, int]:
        """The learner after processes that were killed right after every checkpoint, and how many were."""
        save, kills, resumed = training.save_checkpoint, 0, -1

        def then_killed(folder: Path, model: BaseAlgorithm) -> None:
            save(folder, model)
            if model.num_timesteps != resumed:
                raise Killed

        monkeypatch.setattr(training, "save_checkpoint", then_killed)
        while True:
            np.random.seed(kills)  # noqa: NPY002 - another process has other random numbers
            torch.manual_seed(kills)
            try:
                return self.process(), kills
            except Killed:
                kills += 1
                (resumed,) = self._steps_kept()

    def _steps_kept(self) -> list[int]:
        found = self.run.path.glob("round_*/checkpoint.json")
        return [
            int(load_artifact(path.parent, "checkpoint", "learner")[0]["num_timesteps"]) for path in found
        ]


CASES = [
    *((name, with_memories) for name in LEARNERS),
    *((name, denoising) for name in LEARNERS),
    ("ppo", with_edits),
    pytest.param("mpo", with_edits, marks=pytest.mark.slow),
    ("ppo", with_an_ensemble),
]


@pytest.mark.parametrize(("name", "make"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_killed_at_every_checkpoint_a_learner_ends_where_it_would_have_ended(
    name: str, make: Callable[[], Episodes[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings_of(name)
    whole = Command(config, make, tmp_path / "whole").process()
    monkeypatch.setattr(learners, "SAVE_SECONDS", -1.0)
    stopped, kills = Command(config, make, tmp_path / "stopped").killed_at_every_checkpoint(monkeypatch)
    assert kills >= 4
    assert_equal(policy_tensors(whole), policy_tensors(stopped))
    for number in (1, 2):
        ours, theirs = (
            next((tmp_path / side).rglob(f"round_{number}/policy.safetensors"))
            for side in ("whole", "stopped")
        )
        assert ours.read_bytes() == theirs.read_bytes()
    assert {path.name for path in theirs.parent.iterdir()} == {
        "policy.safetensors",
        "policy.json",
        "policy.zip",
    }
    if make is not denoising:
        first, second = (samples_of(model) for model in (whole, stopped))
        assert_equal(first, second)


def samples_of(model: BaseAlgorithm) -> dict[str, Tensor]:
    """What a learner makes after it has learned."""
    env = model.get_env()
    assert isinstance(env, LatentVecEnv)
    assert isinstance(env.dynamics, Dynamics)
    torch.manual_seed(0)
    return vars(collect(env.dynamics, model, 16, seed=3))


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("source", ["random", "self", "forward", "folder", "minari"])
def test_demonstrations_go_on(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if source == "folder":
        shown = settings_of("mpo")
        source = str(tmp_path / "shown")
        save_policy(Path(source), make_learner(shown, worlds("denoise"), 0), asdict(shown))
    if source == "minari":
        pytest.importorskip("h5py")
        monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
        like = worlds("denoise")
        random_dataset("others/mine-v0", like.observation_space, like.action_space)
        source = "minari:others/mine-v0"
    config = settings_of("decision_transformer", demonstrations=["random", source])
    whole = Command(config, denoising, tmp_path / "whole").process()
    monkeypatch.setattr(learners, "SAVE_SECONDS", -1.0)
    stopped, _ = Command(config, denoising, tmp_path / "stopped").killed_at_every_checkpoint(monkeypatch)
    assert_equal(policy_tensors(whole), policy_tensors(stopped))


def test_curves_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings_of("ppo")
    Command(config, with_memories, tmp_path / "whole").process()
    monkeypatch.setattr(learners, "SAVE_SECONDS", -1.0)
    Command(config, with_memories, tmp_path / "stopped").killed_at_every_checkpoint(monkeypatch)
    ours, theirs = (
        EventAccumulator(str(next((tmp_path / side).rglob("agent/*")))).Reload()
        for side in ("whole", "stopped")
    )
    for tag in ("rollout/ep_rew_mean", "reward/total"):
        first, second = ([(e.step, e.value) for e in found.Scalars(tag)] for found in (ours, theirs))
        assert first == second, tag


def test_what_a_run_logs_after_its_learner_is_in_the_same_file(tmp_path: Path) -> None:
    # TensorBoard reads files by their names: what a later one holds may come before what drops old points.
    command = Command(settings_of("ppo"), with_memories, tmp_path)
    command.run.log({"augmented/anomalies": 0.5}, 1)
    command.process()
    command.run.log({"augmented/anomalies": 0.75}, 2)
    command.run.writer.close()
    assert len(list(command.run.path.glob("events.out.tfevents.*"))) == 1
    points = EventAccumulator(str(command.run.path)).Reload().Scalars("augmented/anomalies")
    assert [(each.step, each.value) for each in points] == [(1, 0.5), (2, 0.75)]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learners, "SAVE_SECONDS", -1.0)
    command = Command(settings_of("mpo"), denoising, tmp_path)
    save = training.save_checkpoint

    def then_killed(folder: Path, model: BaseAlgorithm) -> None:
        save(folder, model)
        raise Killed

    monkeypatch.setattr(training, "save_checkpoint", then_killed)
    with pytest.raises(Killed):
        command.process()
    command.make = lambda: DenoiseSettings(threshold=None, horizon=4).dynamics(make_denoise_world(), 3)
    with pytest.raises(UserError, match="holds a checkpoint that isn't of this training: delete it"):
        command.process()


def test_an_optimiser_is_restored_in_the_order_that_it_had() -> None:
    """What users get of it, in ``policy.zip``, has the same bytes after a stop."""
    model = torch.nn.Sequential(*(torch.nn.Linear(1, 1) for _ in range(6)))
    optimizer, again = torch.optim.Adam(model.parameters()), torch.optim.Adam(model.parameters())
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    kept = optimizer_tensors(optimizer)
    restore_optimizer(again, {name: kept[name] for name in sorted(kept, reverse=True)})
    orders = [
        [(index, *slots) for index, slots in each.state_dict()["state"].items()]
        for each in (optimizer, again)
    ]
    assert orders[0] == orders[1]
    assert pickle.dumps(orders[0]) == pickle.dumps(orders[1]), "names are the same objects"
