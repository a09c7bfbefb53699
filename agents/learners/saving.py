"""Policies on disk: what a learner has become, with the state of its optimisers."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from agents.learners.sequences.decision_transformer import DecisionTransformer
from agents.learners.sequences.demonstrations import ReversedDiffusion
from latent_common.artifacts import load_artifact, save_artifact, write_atomically
from latent_common.errors import UserError
from latent_common.training_state import below, optimizer_tensors, restore_optimizer

POLICY = "policy"
UPDATES = "_n_updates"
"""The attribute of SB3's learners that counts updates; MPO updates its target networks by it."""


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


def save_policy(folder: Path, model: BaseAlgorithm, settings: Mapping[str, Any]) -> None:
    """Write ``policy.safetensors`` and ``policy.json``, and ``policy.zip`` for ``load`` of the model's class.

    The zip is for users. This project never loads it, because it holds pickled objects.
    """
    packed = BytesIO()
    model.save(packed, exclude=["logger", "replay_buffer"])
    # First: a policy that is there is whole.
    write_atomically(folder / f"{POLICY}.zip", packed.getvalue())
    save_artifact(folder, POLICY, POLICY, policy_tensors(model), settings)


def load_policy(folder: Path, model: BaseAlgorithm) -> None:
    """Read ``policy.safetensors`` into ``model``."""
    tensors, _ = load_artifact(folder, POLICY, POLICY)
    restore_policy(model, tensors)
