"""What all learners share: learning on the batch of worlds with a bar and a log, saving, and going on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor
from tqdm import tqdm

from agents.learners.decision_transformer import DecisionTransformer
from agents.learners.demonstrations import ForwardBackwards
from agents.learners.trajectories import Trajectories
from agents.sb3_vec_env import LatentVecEnv
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.training_state import below, optimizer_tensors, restore_optimizer
from latent_env.training.loop import Interrupt, interrupt_deferred

KEEP_SECONDS = 30.0
LEAST_DEVIATION = 0.05
POLICY, MEMORY = "policy", "memory"
UPDATES = "_n_updates"
"""Where SB3's learners count their updates; MPO's copies catch up by that count."""

REPLAYED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class ProgressCallback(BaseCallback):
    """Moves a progress bar, logs once a rollout, and keeps the policy now and then.

    Between an update and the next rollout is the one place where nothing collected is lost: there it
    calls ``keep`` every ``KEEP_SECONDS``, and there Ctrl-C takes effect.
    """

    def __init__(
        self,
        bar: tqdm[Any],
        vec_env: LatentVecEnv,
        keep: Callable[[], None],
        interrupt: Interrupt,
        min_std: float,
    ) -> None:
        super().__init__()
        self.min_std = min_std
        self.bar, self.vec_env, self.keep, self.interrupt = bar, vec_env, keep, interrupt
        self.kept = perf_counter()
        self.began, self.ended = perf_counter(), perf_counter()
        self.update_seconds = 0.0
        self.steps = 0

    def _on_step(self) -> bool:
        self.bar.update(self.model.num_timesteps - self.bar.n)
        return True

    def _on_rollout_start(self) -> None:
        self._stay_broad()
        self.began, self.steps = perf_counter(), self.model.num_timesteps
        self.update_seconds = self.began - self.ended
        if self.interrupt.requested or self.began - self.kept > KEEP_SECONDS:
            self.keep()
            self.kept = perf_counter()
        if self.interrupt.requested:
            raise KeyboardInterrupt

    def _on_training_end(self) -> None:
        self._stay_broad()  # the last update has no rollout after it

    def _stay_broad(self) -> None:
        """Keep every deviation of the policy's actions above the floor, after each update.

        Policies whose deviations depend on the state have a floor of their own.
        """
        deviations = getattr(self.model.policy, "log_std", None)
        if isinstance(deviations, Tensor):
            with torch.no_grad():
                deviations.clamp_(min=math.log(self.min_std))

    def _on_rollout_end(self) -> None:
        self.ended = perf_counter()
        rollout = self.ended - self.began
        terms, env_seconds = self.vec_env.take_statistics()
        whole = rollout + self.update_seconds
        self.logger.record("time/env", env_seconds / whole)
        self.logger.record("time/policy", (rollout - env_seconds) / whole)
        self.logger.record("time/update", self.update_seconds / whole)
        self.logger.record("charts/SPS", (self.model.num_timesteps - self.steps) / whole)
        self.logger.record("charts/learning_rate", self.model.lr_schedule(1))
        for name, value in self.vec_env.overoptimization.take_statistics().items():
            self.logger.record(f"alarm/{name}", value)
        if not terms:
            return  # nothing was played: what is learned from was recorded elsewhere
        for name, value in terms.items():
            self.logger.record(f"reward/{name}", value)
        total = sum(self.vec_env.dynamics.reward.weights[name] * value for name, value in terms.items())
        self.logger.record("reward/total", total)
        self.bar.set_postfix_str(f"reward {total:.3f}", refresh=False)


def learn(
    model: BaseAlgorithm,
    folder: Path,
    total_steps: int,
    bar: tqdm[Any],
    keep: Callable[[], None],
    min_std: float = LEAST_DEVIATION,
) -> None:
    """Learn until ``total_steps`` world steps are done, logging to TensorBoard in ``folder``.

    ``keep`` is called when the policy is worth saving, also on Ctrl-C. No deviation of the policy's actions
    falls below ``min_std``: a policy that narrows what it proposes teaches a detector less.
    """
    vec_env = model.get_env()
    assert isinstance(vec_env, LatentVecEnv)
    model.set_logger(Logger(None, [TensorBoardOutputFormat(str(folder))]))
    vec_env.take_statistics()
    try:
        with interrupt_deferred() as interrupt:
            model.learn(
                total_steps - model.num_timesteps,
                callback=ProgressCallback(bar, vec_env, keep, interrupt, min_std),
                log_interval=1,
                reset_num_timesteps=False,
            )
    finally:
        model.logger.close()
    keep()


def optimizers(model: BaseAlgorithm) -> dict[str, torch.optim.Optimizer]:
    """Every optimiser of a learner, by the name that its numbers are saved under."""
    found = {"optimizer": model.policy.optimizer} if hasattr(model.policy, "optimizer") else {}
    named = {n: getattr(model, n) for n in vars(model) if n.endswith("_optimizer")}
    return {**found, **named}


def policy_tensors(model: BaseAlgorithm) -> dict[str, Tensor]:
    """Policy, optimisers, and how many steps and updates there were, as tensors."""
    kept = {f"policy.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for name, optimizer in optimizers(model).items():
        kept |= optimizer_tensors(optimizer, name)
    kept["num_timesteps"] = torch.tensor(model.num_timesteps)
    kept["updates"] = torch.tensor(getattr(model, UPDATES))
    return kept


def restore_policy(model: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
    """Put what :func:`policy_tensors` returned back."""
    try:
        model.policy.load_state_dict(dict(below(tensors, "policy")))
    except RuntimeError as error:
        raise UserError(
            f"the saved policy doesn't fit this world: {str(error).splitlines()[-1].strip()}"
        ) from error
    for name, optimizer in optimizers(model).items():
        restore_optimizer(optimizer, tensors, name)
    model.num_timesteps = int(tensors["num_timesteps"])
    if "updates" in tensors:  # policies that were saved earlier don't say
        setattr(model, UPDATES, int(tensors["updates"]))
    for teacher in model.teachers if isinstance(model, DecisionTransformer) else ():
        if isinstance(teacher, ForwardBackwards):
            teacher.skip(model.num_timesteps)


def memory_tensors(model: BaseAlgorithm) -> dict[str, Tensor]:
    """What a learner remembers of the worlds beside its policy, if it learns from that."""
    if isinstance(model, DecisionTransformer):
        return {} if model.trajectories is None else model.trajectories.tensors()
    if not isinstance(model, OffPolicyAlgorithm) or model.replay_buffer is None:
        return {}
    replay = model.replay_buffer
    count = replay.buffer_size if replay.full else replay.pos
    kept = {name: torch.from_numpy(getattr(replay, name)[:count].copy()) for name in REPLAYED}
    return {**kept, "pos": torch.tensor(replay.pos)}


def restore_memory(model: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
    """Put what :func:`memory_tensors` returned back."""
    if isinstance(model, DecisionTransformer):
        model.trajectories = Trajectories.from_tensors(tensors)
    elif isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        replay, count = model.replay_buffer, len(tensors["rewards"])
        fits = replay.observations.shape[1:] == tuple(tensors["observations"].shape[1:])
        if not fits or count > replay.buffer_size:
            raise UserError("the saved memory doesn't fit this world: delete its run folder and start again")
        for name in REPLAYED:
            np.copyto(getattr(replay, name)[:count], tensors[name].numpy())
        replay.pos, replay.full = int(tensors["pos"]), count == replay.buffer_size


def save_policy(
    folder: Path, model: BaseAlgorithm, settings: Mapping[str, Any], goal: int | None = None
) -> None:
    """Write ``policy.safetensors`` and ``policy.json``, and ``policy.zip`` for ``load`` of the model's class.

    The zip is for users; this project itself never loads it, because it holds pickled objects. A learner
    that remembers more keeps that as well until it has come to ``goal`` steps.
    """
    memory_size = memory_tensors(model)
    if memory_size and goal is not None and model.num_timesteps < goal:
        save_artifact(folder, MEMORY, MEMORY, memory_size, {})
    else:
        for suffix in (".json", ".safetensors"):
            (folder / f"{MEMORY}{suffix}").unlink(missing_ok=True)
    save_artifact(folder, POLICY, POLICY, policy_tensors(model), settings)
    model.save(folder / "policy.zip", exclude=["logger", "replay_buffer"])


def load_policy(folder: Path, model: BaseAlgorithm, remembering: bool = True) -> None:
    """Read ``policy.safetensors`` into ``model``, and its memory, unless it is only to act."""
    tensors, _ = load_artifact(folder, POLICY, POLICY)
    restore_policy(model, tensors)
    if remembering and (folder / f"{MEMORY}.json").is_file():
        memory_size, _ = load_artifact(folder, MEMORY, MEMORY)
        restore_memory(model, memory_size)
