"""From settings to a learner; all have one interface: SB3's ``learn``, ``predict``, ``save``, ``load``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from agents.baselines.none_and_random import RandomAgent
from agents.learners.a2c import ActorCritic
from agents.learners.mpo import MPO
from agents.learners.reinforce import Reinforce
from agents.learners.saving import POLICY, load_policy
from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.demonstrations import ReversedDiffusion
from agents.learners.sequences.trajectories import Demonstrations, RecordedPolicy, Trajectories
from agents.ppo import check_policy, gaussian_policy, make_ppo
from agents.sb3_vec_env import LatentVecEnv
from latent_common.artifacts import load_artifact
from latent_common.errors import UserError

Settings = Mapping[str, Any]
DEMONSTRATIONS = ("forward", "random", "self")
ROLLED = ("reinforce", "actor_critic")
"""Learners that compare the steps of one rollout with each other."""


def make_learner(vec_env: LatentVecEnv, settings: Settings, seed: int) -> BaseAlgorithm:
    """The learner ``settings["name"]`` before it has learned anything; the rest as in ``conf/agent/``."""
    check_policy(settings)
    for name in (
        "n_steps",
        "batch_size",
        "gradient_steps",
        "candidates",
        "context",
        "baseline_epochs",
        "heads",
    ):
        if settings.get(name) is not None and settings[name] < 1:
            raise UserError(f"agent.{name}={settings[name]} must be at least 1")
    if settings["name"] in ROLLED and settings["n_steps"] * vec_env.num_envs < 2:
        raise UserError("agent.n_steps x env.num_envs must be at least 2 steps")
    make = MAKERS.get(settings["name"])
    if make is None:
        raise UserError(f"agent.name={settings['name']} is no learner: choose one of {', '.join(MAKERS)}")
    with warnings.catch_warnings():
        # SB3 says that an MLP is meant for the CPU; here the frozen models want the GPU.
        warnings.filterwarnings("ignore", message=".*on the GPU.*")
        model = make(vec_env, settings, seed)
    vec_env.seed(seed)  # the model has just seeded the worlds with its own, shorter seed
    return model


def _common(vec_env: LatentVecEnv, settings: Settings, seed: int) -> dict[str, Any]:
    return {
        "policy": "MlpPolicy",
        "env": vec_env,
        "learning_rate": settings["learning_rate"],
        "seed": seed % 2**32,
        "device": vec_env.dynamics.world.device,
    }


def _on_policy(vec_env: LatentVecEnv, settings: Settings, seed: int) -> dict[str, Any]:
    own = {name: settings[name] for name in ("n_steps", "gamma", "ent_coef")}
    return {**_common(vec_env, settings, seed), **own, "policy_kwargs": gaussian_policy(settings)}


def _make_reinforce(vec_env: LatentVecEnv, settings: Settings, seed: int) -> Reinforce:
    return Reinforce(**_on_policy(vec_env, settings, seed), baseline_epochs=settings["baseline_epochs"])


def _make_actor_critic(vec_env: LatentVecEnv, settings: Settings, seed: int) -> ActorCritic:
    return ActorCritic(
        **_on_policy(vec_env, settings, seed),
        gae_lambda=settings["gae_lambda"],
        normalize_advantage=True,
        use_rms_prop=False,  # with so many worlds gradients are no longer as noisy as that was made for
    )


def _make_mpo(vec_env: LatentVecEnv, settings: Settings, seed: int) -> MPO:
    return MPO(
        **_common(vec_env, settings, seed),
        buffer_size=max(min(settings["buffer_size"], settings["total_steps"]), vec_env.num_envs),
        learning_starts=settings["learning_starts"],
        batch_size=settings["batch_size"],
        gamma=settings["gamma"],
        train_freq=settings["n_steps"],
        gradient_steps=settings["gradient_steps"],
        candidates=settings["candidates"],
        epsilon=settings["epsilon"],
        epsilon_mean=settings["epsilon_mean"],
        epsilon_std=settings["epsilon_std"],
        policy_kwargs={
            "net_arch": list(settings["hidden"]),
            "init_std": settings["init_std"],
            "min_std": settings["min_std"],
        },
    )


def _make_decision_transformer(vec_env: LatentVecEnv, settings: Settings, seed: int) -> DecisionTransformer:
    width = settings["hidden"][0]
    if width % settings["heads"]:
        raise UserError(f"agent.heads={settings['heads']} must divide agent.hidden[0]={width}")
    model = DecisionTransformer(
        **_common(vec_env, settings, seed),
        n_steps=settings["n_steps"],
        batch_size=settings["batch_size"],
        gradient_steps=settings["gradient_steps"],
        target_return=settings["target_return"],
        memory_size=settings["memory_size"],
        policy_kwargs={
            "context": settings["context"],
            "net_arch": list(settings["hidden"]),
            "heads": settings["heads"],
            "min_std": settings["min_std"],
        },
    )
    if not settings["demonstrations"]:
        raise UserError("agent.demonstrations=[] names nothing to learn from: choose for example [random]")
    model.demonstrations = [
        make_demonstrations(name, model, vec_env, seed) for name in settings["demonstrations"]
    ]
    return model


Make = Callable[[LatentVecEnv, Settings, int], BaseAlgorithm]
MAKERS: dict[str, Make] = {
    "ppo": make_ppo,
    "reinforce": _make_reinforce,
    "actor_critic": _make_actor_critic,
    "mpo": _make_mpo,
    "decision_transformer": _make_decision_transformer,
}


def make_demonstrations(
    name: str, learner: BaseAlgorithm, vec_env: LatentVecEnv, seed: int
) -> Demonstrations:
    """Whom a decision transformer learns from: one of ``DEMONSTRATIONS``, or the folder of a saved policy."""
    match name:
        case "forward":
            return ReversedDiffusion(seed)
        case "random":
            return RecordedPolicy(RandomAgent(vec_env.dynamics, seed))
        case "self":
            return RecordedPolicy(learner)
    if not (Path(name) / f"{POLICY}.json").is_file():
        raise UserError(
            f"agent.demonstrations: {name} is neither {', '.join(DEMONSTRATIONS)} nor a folder with a "
            f"{POLICY}.json, as train_ppo.py leaves one in every round_… folder of a run"
        )
    return SavedPolicy(Path(name), seed)


class SavedPolicy:
    """Records what a policy does that was saved in ``folder``; it is read when the first episode begins."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self.watching: RecordedPolicy | None = None

    def record(self, env: VecEnv, steps: int) -> Trajectories:
        """Whole episodes of at least so many steps in all."""
        if self.watching is None:
            assert isinstance(env, LatentVecEnv)
            self.watching = RecordedPolicy(saved_learner(self.folder, env, self.seed))
        return self.watching.record(env, steps)


def saved_learner(folder: Path, vec_env: LatentVecEnv, seed: int) -> BaseAlgorithm:
    """The learner that was saved in ``folder``, to act in worlds like those that it learned in."""
    _, settings = load_artifact(folder, POLICY, POLICY)
    if settings["name"] == "ppo":
        settings = {**settings, "batch_size": None}  # which fits any number of worlds
    model = make_learner(vec_env, settings, seed)
    load_policy(folder, model, with_memory=False)
    return model
