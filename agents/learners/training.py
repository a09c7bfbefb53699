"""The training loop of all learners: a progress bar, a log, and a policy that is saved now and then."""

from __future__ import annotations

import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from agents.sb3_vec_env import LatentVecEnv
from latent_env.training.loop import Interrupt, interrupt_deferred

SAVE_SECONDS = 30.0
DEFAULT_MIN_STD = 0.05


class SharedLog(TensorBoardOutputFormat):
    """A log by the ``writer`` of a run, which stays open for what the run logs later.

    TensorBoard reads the files of a folder by name, and those of one second not always in the order in which
    they were made: a second file could come before the one that drops what a stopped command has logged.
    """

    def __init__(self, writer: SummaryWriter) -> None:
        self.writer = writer
        self._is_closed = False

    def close(self) -> None:
        """Write what was logged; the writer stays open."""
        self.writer.flush()


class ProgressCallback(BaseCallback):
    """Moves a progress bar, logs once a rollout, and saves the policy now and then.

    Between an update and the next rollout nothing that was collected can be lost. There it calls ``save``
    every ``SAVE_SECONDS``, and there Ctrl-C takes effect.
    """

    def __init__(
        self,
        bar: tqdm[Any],
        vec_env: LatentVecEnv,
        save: Callable[[], None],
        interrupt: Interrupt,
        min_std: float,
    ) -> None:
        super().__init__()
        self.min_std = min_std
        self.bar, self.vec_env, self.save, self.interrupt = bar, vec_env, save, interrupt
        self.saved = perf_counter()
        self.began, self.ended = perf_counter(), perf_counter()
        self.update_seconds = 0.0
        self.steps = 0

    def _on_step(self) -> bool:
        self.bar.update(self.model.num_timesteps - self.bar.n)
        return True

    def _on_rollout_start(self) -> None:
        self._clamp_std()
        self.began, self.steps = perf_counter(), self.model.num_timesteps
        self.update_seconds = self.began - self.ended
        if self.interrupt.requested or self.began - self.saved > SAVE_SECONDS:
            self.save()
            self.saved = perf_counter()
        if self.interrupt.requested:
            raise KeyboardInterrupt

    def _on_training_end(self) -> None:
        self._clamp_std()  # no rollout follows the last update

    def _clamp_std(self) -> None:
        """Raise every standard deviation of the policy's actions to the minimum.

        Policies whose standard deviations depend on the state apply a minimum of their own.
        """
        log_std = getattr(self.model.policy, "log_std", None)
        if isinstance(log_std, Tensor):
            with torch.no_grad():
                log_std.clamp_(min=math.log(self.min_std))

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
            self.logger.record(f"overoptimization/{name}", value)
        if not terms:
            return  # no world was stepped: the episodes were recorded elsewhere
        for name, value in terms.items():
            self.logger.record(f"reward/{name}", value)
        total = sum(self.vec_env.dynamics.reward.weights[name] * value for name, value in terms.items())
        self.logger.record("reward/total", total)
        self.bar.set_postfix_str(f"reward {total:.3f}", refresh=False)


def learn(
    model: BaseAlgorithm,
    writer: SummaryWriter,
    total_steps: int,
    bar: tqdm[Any],
    save: Callable[[], None],
    min_std: float = DEFAULT_MIN_STD,
) -> None:
    """Train ``model`` until ``total_steps`` world steps are done, logging to TensorBoard by ``writer``.

    ``save`` is called now and then, at the end, and on Ctrl-C. No standard deviation of the policy's actions
    falls below ``min_std``: a policy that narrows what it proposes teaches a detector less.
    """
    vec_env = model.get_env()
    assert isinstance(vec_env, LatentVecEnv)
    model.set_logger(Logger(None, [SharedLog(writer)]))
    vec_env.take_statistics()
    try:
        with interrupt_deferred() as interrupt:
            model.learn(
                total_steps - model.num_timesteps,
                callback=ProgressCallback(bar, vec_env, save, interrupt, min_std),
                log_interval=1,
                reset_num_timesteps=False,
            )
            save()
    finally:
        model.logger.close()
