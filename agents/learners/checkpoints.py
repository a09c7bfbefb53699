"""Checkpoints of learners: all that a training which is stopped needs to end as if it hadn't been.

A checkpoint is taken between an update and the next rollout. What crosses that line are the policy with its
optimisers, the recorded steps of learners that keep some, the running episodes, and random numbers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from agents.learners.saving import policy_tensors, restore_policy
from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.trajectories import Demonstrations, Trajectories
from agents.sb3_vec_env import LatentVecEnv
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.training_state import below

CHECKPOINT, KIND = "checkpoint", "learner"

REPLAY_FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")

SAME_SIZE = {torch.float64: torch.int64, torch.float32: torch.int32, torch.float16: torch.int16}
"""Episodes may hold infinities, which artifacts may not: such tensors are stored as integers, bit by bit."""


def save_checkpoint(folder: Path, model: BaseAlgorithm) -> None:
    """Write the learner and all that surrounds it as the artifact ``checkpoint``."""
    tensors, bits = policy_tensors(model), {}
    tensors |= {f"memory.{name}": tensor for name, tensor in _memory(model).items()}
    for name, shared in _worlds(model).state().items():
        tensor = shared.clone()  # artifacts hold each tensor once
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bits[f"worlds.{name}"] = str(tensor.dtype).removeprefix("torch.")
            tensor = tensor.view(SAME_SIZE[tensor.dtype])
        tensors[f"worlds.{name}"] = tensor
    tensors |= {f"now.{name}": torch.as_tensor(value) for name, value in _now(model).items()}
    tensors |= {f"random.{name}": tensor for name, tensor in _torch_random(model).items()}
    first_actions = model.action_space.np_random.bit_generator.state
    facts = {
        "bits": bits,
        "random": {"numpy": _numpy_random(), "first_actions": first_actions},
        "demonstrations": [source.state() for source in _demonstrations(model)],
    }
    save_artifact(folder, CHECKPOINT, KIND, tensors, facts)


def load_checkpoint(folder: Path, model: BaseAlgorithm) -> None:
    """Put ``model``, its worlds, and the random numbers of this process to where the checkpoint was taken."""
    tensors, facts = load_artifact(folder, CHECKPOINT, KIND)
    try:
        restore_policy(model, tensors)
        _restore_memory(model, dict(below(tensors, "memory")))
        # Before what is random: a source that reads a policy begins random numbers anew.
        for source, state in zip(_demonstrations(model), facts["demonstrations"], strict=True):
            source.restore(state, _worlds(model))
        for name, dtype in facts["bits"].items():
            tensors[name] = tensors[name].view(getattr(torch, dtype))
        _worlds(model).restore(dict(below(tensors, "worlds")))
        _restore_now(model, dict(below(tensors, "now")))
        _restore_torch_random(model, dict(below(tensors, "random")))
        np.random.set_state(facts["random"]["numpy"])  # noqa: NPY002 - what SB3 draws from
        model.action_space.np_random.bit_generator.state = facts["random"]["first_actions"]
    except (KeyError, ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise UserError(f"{folder} holds a checkpoint that isn't of this training: delete it") from error


def _worlds(model: BaseAlgorithm) -> LatentVecEnv:
    worlds = model.get_env()
    assert isinstance(worlds, LatentVecEnv)
    return worlds


def _memory(model: BaseAlgorithm) -> dict[str, Tensor]:
    """The recorded steps that a learner goes on learning from; empty if it keeps none."""
    if isinstance(model, DecisionTransformer):
        return {} if model.trajectories is None else model.trajectories.tensors()
    if not isinstance(model, OffPolicyAlgorithm) or model.replay_buffer is None:
        return {}
    replay = model.replay_buffer
    count = replay.buffer_size if replay.full else replay.pos
    kept = {name: torch.from_numpy(getattr(replay, name)[:count].copy()) for name in REPLAY_FIELDS}
    return {**kept, "pos": torch.tensor(replay.pos)}


def _restore_memory(model: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
    if isinstance(model, DecisionTransformer):
        model.trajectories = Trajectories.from_tensors(tensors) if tensors else None
    elif isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        replay, count = model.replay_buffer, len(tensors["rewards"])
        for name in REPLAY_FIELDS:
            np.copyto(getattr(replay, name)[:count], tensors[name].numpy())
        replay.pos, replay.full = int(tensors["pos"]), count == replay.buffer_size


def _now(model: BaseAlgorithm) -> dict[str, Any]:
    """What SB3's learners carry to the next rollout: observations, and what is logged of episodes."""
    kept: dict[str, Any] = {"episodes": [(each["r"], each["l"]) for each in model.ep_info_buffer or ()]}
    if model._last_obs is not None:
        kept |= {"observations": model._last_obs, "begins": model._last_episode_starts}
    return kept


def _restore_now(model: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
    most = model._stats_window_size
    episodes = [{"r": r, "l": int(length), "t": 0.0} for r, length in tensors["episodes"].tolist()]
    model.ep_info_buffer, model.ep_success_buffer = deque(episodes, maxlen=most), deque(maxlen=most)
    if "observations" in tensors:
        model._last_obs = tensors["observations"].numpy()
        model._last_episode_starts = tensors["begins"].numpy()


def _torch_random(model: BaseAlgorithm) -> dict[str, Tensor]:
    kept = {"cpu": torch.get_rng_state()}
    if model.device.type == "cuda":
        kept["cuda"] = torch.cuda.get_rng_state(model.device)
    return kept


def _restore_torch_random(model: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["cpu"])
    if model.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["cuda"], model.device)


def _numpy_random() -> dict[str, Any]:
    """The state of the generator that SB3 draws from, as plain values."""
    state: dict[str, Any] = np.random.get_state(legacy=False)  # noqa: NPY002
    return {**state, "state": {"key": state["state"]["key"].tolist(), "pos": state["state"]["pos"]}}


def _demonstrations(model: BaseAlgorithm) -> list[Demonstrations]:
    return model.demonstrations if isinstance(model, DecisionTransformer) else []
