"""Learners on disk: policy and optimisers, and the memory of learners that have one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.demonstrations import ReversedDiffusion
from agents.learners.sequences.trajectories import Trajectories
from latent_common.artifacts import load_artifact, save_artifact
from latent_common.errors import UserError
from latent_common.training_state import below, optimizer_tensors, restore_optimizer

POLICY, MEMORY = "policy", "memory"
UPDATES = "_n_updates"
"""The attribute of SB3's learners that counts updates; MPO updates its target networks by it."""

REPLAY_FIELDS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def optimizers(model: BaseAlgorithm) -> dict[str, torch.optim.Optimizer]:
    """Every optimiser of a learner, by the name under which its tensors are saved."""
    found = {"optimizer": model.policy.optimizer} if hasattr(model.policy, "optimizer") else {}
    named = {n: getattr(model, n) for n in vars(model) if n.endswith("_optimizer")}
    return {**found, **named}


def policy_tensors(model: BaseAlgorithm) -> dict[str, Tensor]:
    """Policy, optimisers, and the numbers of steps and updates, as tensors."""
    kept = {f"policy.{name}": tensor for name, tensor in model.policy.state_dict().items()}
    for name, optimizer in optimizers(model).items():
        kept |= optimizer_tensors(optimizer, name)
    kept["num_timesteps"] = torch.tensor(model.num_timesteps)
    kept["updates"] = torch.tensor(getattr(model, UPDATES))
    return kept


def restore_policy(model: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
    """Put what :func:`policy_tensors` returned back into ``model``."""
    try:
        model.policy.load_state_dict(dict(below(tensors, "policy")))
    except RuntimeError as error:
        raise UserError(
            f"the saved policy doesn't fit this world: {str(error).splitlines()[-1].strip()}"
        ) from error
    for name, optimizer in optimizers(model).items():
        restore_optimizer(optimizer, tensors, name)
    model.num_timesteps = int(tensors["num_timesteps"])
    setattr(model, UPDATES, int(tensors["updates"]))
    if isinstance(model, DecisionTransformer):
        for demonstrations in model.demonstrations:
            if isinstance(demonstrations, ReversedDiffusion):
                demonstrations.skip(model.num_timesteps)


def memory_tensors(model: BaseAlgorithm) -> dict[str, Tensor]:
    """The recorded steps that a learner goes on learning from; empty if it keeps none."""
    if isinstance(model, DecisionTransformer):
        return {} if model.trajectories is None else model.trajectories.tensors()
    if not isinstance(model, OffPolicyAlgorithm) or model.replay_buffer is None:
        return {}
    replay = model.replay_buffer
    count = replay.buffer_size if replay.full else replay.pos
    kept = {name: torch.from_numpy(getattr(replay, name)[:count].copy()) for name in REPLAY_FIELDS}
    return {**kept, "pos": torch.tensor(replay.pos)}


def restore_memory(model: BaseAlgorithm, tensors: Mapping[str, Tensor]) -> None:
    """Put what :func:`memory_tensors` returned back into ``model``."""
    if isinstance(model, DecisionTransformer):
        model.trajectories = Trajectories.from_tensors(tensors)
    elif isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        replay, count = model.replay_buffer, len(tensors["rewards"])
        fits = replay.observations.shape[1:] == tuple(tensors["observations"].shape[1:])
        if not fits or count > replay.buffer_size:
            raise UserError(
                "the saved replay memory doesn't fit this world: delete its run folder and start again"
            )
        for name in REPLAY_FIELDS:
            np.copyto(getattr(replay, name)[:count], tensors[name].numpy())
        replay.pos, replay.full = int(tensors["pos"]), count == replay.buffer_size


def save_policy(
    folder: Path, model: BaseAlgorithm, settings: Mapping[str, Any], goal: int | None = None
) -> None:
    """Write ``policy.safetensors`` and ``policy.json``, and ``policy.zip`` for ``load`` of the model's class.

    The zip is for users. This project never loads it, because it holds pickled objects. Until a learner has
    done ``goal`` steps, its memory is saved as well.
    """
    memory = memory_tensors(model)
    if memory and goal is not None and model.num_timesteps < goal:
        save_artifact(folder, MEMORY, MEMORY, memory, {})
    else:
        for suffix in (".json", ".safetensors"):
            (folder / f"{MEMORY}{suffix}").unlink(missing_ok=True)
    save_artifact(folder, POLICY, POLICY, policy_tensors(model), settings)
    model.save(folder / "policy.zip", exclude=["logger", "replay_buffer"])


def load_policy(folder: Path, model: BaseAlgorithm, with_memory: bool = True) -> None:
    """Read ``policy.safetensors`` into ``model``, and its memory unless the model is only to act."""
    tensors, _ = load_artifact(folder, POLICY, POLICY)
    restore_policy(model, tensors)
    if with_memory and (folder / f"{MEMORY}.json").is_file():
        memory, _ = load_artifact(folder, MEMORY, MEMORY)
        restore_memory(model, memory)
