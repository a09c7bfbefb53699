"""From the configuration of a learner to the learner: one function a class of configuration."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.baselines.none_and_random import RandomAgent
from agents.learners.a2c import ActorCritic
from agents.learners.batch_ppo import BatchPPO, minibatch
from agents.learners.mpo import MPO
from agents.learners.policies import SharedMeanPolicy
from agents.learners.reinforce import Reinforce
from agents.learners.saving import POLICY, load_policy
from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.demonstrations import ReversedDiffusion
from agents.learners.sequences.minari_episodes import MinariEpisodes
from agents.learners.sequences.trajectories import Demonstrations, RecordedPolicy, Trajectories
from agents.sb3_vec_env import LatentVecEnv
from conf.schema.agents import (
    ActorCriticConfig,
    DecisionTransformerConfig,
    LearnerConfig,
    MpoConfig,
    OnPolicyConfig,
    PPOConfig,
    ReinforceConfig,
)
from latent_common.artifacts import load_artifact
from latent_common.errors import UserError
from stages.cli.checks import check_values

LEARNERS: dict[str, type[LearnerConfig]] = {
    "ppo": PPOConfig,
    "reinforce": ReinforceConfig,
    "actor_critic": ActorCriticConfig,
    "mpo": MpoConfig,
    "decision_transformer": DecisionTransformerConfig,
}
"""Agents that learn, by name, and the class of their configuration."""

DEMONSTRATIONS, MINARI = ("forward", "random", "self"), "minari:"
"""Sources of demonstrations by name, and what the names of Minari data sets begin with."""


def make_learner(config: LearnerConfig, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    """The learner of ``config`` before it has learned anything."""
    _check_hidden(config.hidden)
    check_values(config, "agent.")
    with _seeded_worlds(vec_env, seed):
        return _build(config, vec_env, seed)


def untrained_policy(hidden: Sequence[int], vec_env: LatentVecEnv, seed: int) -> PPO:
    """PPO's policy with ``hidden`` layers, as it begins; it is never trained."""
    _check_hidden(hidden)
    with _seeded_worlds(vec_env, seed):
        settings = {**_common(vec_env, seed), "policy_kwargs": _gaussian(hidden, 1.0)}
        return BatchPPO(**settings, n_steps=2, batch_size=2 * vec_env.num_envs)


def saved_learner(folder: Path, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    """The learner that was saved in ``folder``, to act in worlds like those that it learned in."""
    _, settings = load_artifact(folder, POLICY, POLICY)
    try:
        config = LEARNERS[settings["name"]](**settings)
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{folder} has a policy with other settings than today's learners have ({error}): train it again"
        ) from error
    if isinstance(config, PPOConfig):
        config = replace(config, batch_size=None)  # which fits any number of worlds
    model = make_learner(config, vec_env, seed)
    load_policy(folder, model)
    return model


@contextmanager
def _seeded_worlds(vec_env: LatentVecEnv, seed: int) -> Iterator[None]:
    """Seed the worlds after a model was built: SB3 seeds them with the model's own, shorter seed."""
    with warnings.catch_warnings():
        # SB3 says that an MLP is meant for the CPU; here the frozen models want the GPU.
        warnings.filterwarnings("ignore", message=".*on the GPU.*")
        yield
    vec_env.seed(seed)


@singledispatch
def _build(config: LearnerConfig, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    raise TypeError(
        f"{type(config).__name__} has no learner: register one in {__name__}, for {vec_env}, {seed}"
    )


@_build.register
def _(config: PPOConfig, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    rollout = _rollout(config, vec_env)
    batch = minibatch(rollout, config.batch_size)
    if rollout % batch:
        raise UserError(f"agent.batch_size={batch} must divide agent.n_steps x env.num_envs = {rollout}")
    settings = {**_common(vec_env, seed), **_on_policy(config)}
    if config.mean_bias_lr_scale != 1:
        settings["policy"] = SharedMeanPolicy
        settings["policy_kwargs"]["mean_bias_lr_scale"] = config.mean_bias_lr_scale
    return BatchPPO(**settings, batch_size=batch, n_epochs=config.n_epochs)


@_build.register
def _(config: ReinforceConfig, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    _rollout(config, vec_env)
    settings = {**_common(vec_env, seed), **_on_policy(config)}
    return Reinforce(**settings, baseline_epochs=config.baseline_epochs)


@_build.register
def _(config: ActorCriticConfig, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    _rollout(config, vec_env)
    return ActorCritic(
        **_common(vec_env, seed),
        **_on_policy(config),
        gae_lambda=config.gae_lambda,
        normalize_advantage=True,
        use_rms_prop=False,  # with so many worlds gradients are no longer as noisy as that was made for
    )


@_build.register
def _(config: MpoConfig, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    return MPO(
        **_common(vec_env, seed),
        learning_rate=config.learning_rate,
        buffer_size=max(min(config.buffer_size, config.total_steps), vec_env.num_envs),
        learning_starts=config.learning_starts,
        batch_size=config.batch_size,
        gamma=config.gamma,
        train_freq=config.n_steps,
        gradient_steps=config.gradient_steps,
        candidates=config.candidates,
        epsilon=config.epsilon,
        epsilon_mean=config.epsilon_mean,
        epsilon_std=config.epsilon_std,
        policy_kwargs={
            "net_arch": list(config.hidden),
            "init_std": config.init_std,
            "min_std": config.min_std,
        },
    )


@_build.register
def _(config: DecisionTransformerConfig, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    if config.hidden[0] % config.heads:
        raise UserError(f"agent.heads={config.heads} must divide agent.hidden[0]={config.hidden[0]}")
    if not config.demonstrations:
        raise UserError("agent.demonstrations=[] names nothing to learn from: choose for example [random]")
    model = DecisionTransformer(
        **_common(vec_env, seed),
        learning_rate=config.learning_rate,
        n_steps=config.n_steps,
        batch_size=config.batch_size,
        gradient_steps=config.gradient_steps,
        target_return=config.target_return,
        memory_size=config.memory_size,
        policy_kwargs={
            "context": config.context,
            "net_arch": list(config.hidden),
            "heads": config.heads,
            "min_std": config.min_std,
        },
    )
    model.demonstrations = [_demonstrations(name, model, vec_env, seed) for name in config.demonstrations]
    return model


def _common(vec_env: LatentVecEnv, seed: int) -> dict[str, Any]:
    """The arguments that all learners get."""
    device = vec_env.dynamics.world.device
    return {"policy": "MlpPolicy", "env": vec_env, "seed": seed % 2**32, "device": device}


def _on_policy(config: OnPolicyConfig) -> dict[str, Any]:
    """The arguments that all on-policy learners get."""
    return {
        "learning_rate": config.learning_rate,
        "n_steps": config.n_steps,
        "gamma": config.gamma,
        "ent_coef": config.ent_coef,
        "policy_kwargs": _gaussian(config.hidden, config.init_std),
    }


def _gaussian(hidden: Sequence[int], init_std: float) -> dict[str, Any]:
    """The arguments of SB3's policies: layers of both networks, and the initial standard deviation."""
    return {"net_arch": list(hidden), "log_std_init": math.log(init_std)}


def _rollout(config: OnPolicyConfig, vec_env: LatentVecEnv) -> int:
    """How many steps of all worlds a rollout has; one alone has no standard deviation."""
    rollout = config.n_steps * vec_env.num_envs
    if rollout < 2:
        raise UserError("agent.n_steps x env.num_envs must be at least 2 steps")
    return rollout


def _check_hidden(hidden: Sequence[int]) -> None:
    if not hidden or any(units < 1 for units in hidden):
        raise UserError(f"agent.hidden={list(hidden)} must name layers of at least 1 unit")


def _demonstrations(name: str, learner: BaseAlgorithm, vec_env: LatentVecEnv, seed: int) -> Demonstrations:
    """What a decision transformer learns from: one of ``DEMONSTRATIONS``, a data set, or a saved policy."""
    match name:
        case "forward":
            return ReversedDiffusion(seed)
        case "random":
            return RecordedPolicy(RandomAgent(vec_env.dynamics, seed))
        case "self":
            return RecordedPolicy(learner)
    if name.startswith(MINARI):
        return MinariEpisodes(name.removeprefix(MINARI), seed)
    if not (Path(name) / f"{POLICY}.json").is_file():
        raise UserError(
            f"agent.demonstrations: {name} is neither {', '.join(DEMONSTRATIONS)} nor a folder with a "
            f"{POLICY}.json, as train_ppo.py leaves one in every round_… folder of a run; {MINARI}ID is a "
            "data set of Minari"
        )
    return SavedPolicy(Path(name), seed)


class SavedPolicy:
    """Records what a policy does that was saved in ``folder``; it is read when the first episode begins."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.policy: RecordedPolicy | None = None

    def record(self, env: VecEnv, steps: int) -> Trajectories:
        """Whole episodes of at least ``steps`` steps in all."""
        return self._ready(env).record(env, steps)

    def state(self) -> bool:
        """Whether the policy was read."""
        return self.policy is not None

    def restore(self, state: bool, env: VecEnv) -> None:
        """Read the policy if it had been read; PyTorch's random numbers begin anew."""
        if state:
            self._ready(env)

    def _ready(self, env: VecEnv) -> RecordedPolicy:
        if self.policy is None:
            assert isinstance(env, LatentVecEnv)
            self.policy = RecordedPolicy(saved_learner(self.folder, env, self.seed))
        return self.policy
