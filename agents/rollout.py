"""From an agent to an augmented data set."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from agents.base import Agent
from detectors.training.samples import Samples
from latent_common.artifacts import write_atomically
from latent_common.errors import UserError
from latent_common.files import check_archive
from latent_env.dynamics import Dynamics
from latent_env.perturbations.base import CopiesAnomalies, Perturbation
from latent_env.shell import ANOMALY, UNDECIDED
from latent_env.worlds.world import World

KINDS = ("normal_variation", "perturbation", "copy_paste")
"""What a sample may be: no anomaly, one made by a change of the latent, or mostly a copied anomaly."""

COMPARED = 128
"""The best paid are chosen among at least so many successive samples: the scale of rewards may drift."""


@dataclass(frozen=True)
class Augmented:
    """What an agent made, sample by sample, on the CPU. Undecided samples are left out."""

    images: Tensor
    """``(N, C, H, W)`` uint8"""
    masks: Tensor
    """``(N, 1, H, W)`` bool: what a detector should mark; empty for normal samples."""
    tokens: Tensor
    """``(N, 1, h, w)`` bool: tokens that moved beyond what is normal; empty for normal samples."""
    labels: Tensor
    """``(N,)`` int64: 0 normal variation, 1 anomaly"""
    source: Tensor
    """``(N,)`` int64: which start image each was made from."""
    delta: Tensor
    """``(N, *latent_shape)``: the whole change Δz since that image's latent."""
    reward: Tensor
    """``(N,)``: the reward of the last step towards it."""
    copied: Tensor
    """``(N,)`` int64: which labelled anomaly of the world the last step mostly copied, -1 for none."""
    contains: Tensor
    """``(N, K)`` bool: which of the world's K labelled anomalies any step copied, in whole or in part."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def kinds(self) -> Tensor:
        """``(N,)`` int64: the position of each sample's kind in :data:`KINDS`."""
        return torch.where(self.labels == ANOMALY, 1 + (self.copied >= 0).long(), 0)

    def samples(self, device: torch.device, sources: Tensor) -> Samples:
        """Image samples for training a detector; ``sources (S,)`` are the start images' training images."""
        parts = (self.images, self.masks, self.labels, sources[self.source], self._marked)
        return Samples(*(part.to(device) for part in parts))

    def latent_samples(self, world: World, sources: Tensor) -> Samples:
        """Latent samples for training a detector that reads latents of ``world``, masked token by token.

        ``sources (S,)`` are the start images' training images.
        """
        latents = world.latents[self.source.to(world.device)] + self.delta.to(world.device)
        parts = (self.tokens, self.labels, sources[self.source], self._marked)
        return Samples(latents, *(part.to(world.device) for part in parts))

    def feature_samples(self, features: Tensor, tokens: Tensor, sources: Tensor) -> Samples:
        """Samples for training a detector that reads features, masked token by token.

        :param features: ``(N, K, g, g)`` of the images, on the device of the samples.
        :param tokens: ``(N, 1, g, g)`` bool, which of these are anomalous.
        :param sources: ``(S,)``, the start images' training images.
        """
        parts = (tokens, self.labels, sources[self.source], self._marked)
        return Samples(features, *(part.to(features.device) for part in parts))

    def at(self, index: Tensor) -> Augmented:
        """The samples at positions ``(B,)``."""
        return Augmented(*(getattr(self, f.name)[index] for f in fields(self)))

    @property
    def _marked(self) -> Tensor:
        return torch.ones(len(self), dtype=torch.bool)

    @classmethod
    def joined(cls, parts: Iterable[Augmented]) -> Augmented:
        """Several sets as one."""
        parts = list(parts)
        return cls(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def collect(
    dynamics: Dynamics,
    agent: Agent,
    count: int,
    seed: int,
    bar: tqdm[Any] | None = None,
    keep_fraction: float = 1.0,
) -> Augmented:
    """Let ``agent`` make ``count`` samples, and return the decided ones.

    Every step of every world is a sample. Undecided samples are dropped, and of the others only the share
    ``keep_fraction`` that was paid best is kept, see :func:`best_paid`. Learned agents act stochastically, as
    they did when they learned: a policy's mean alone would change each image in one way only.
    """
    if count < 1:
        raise UserError(f"samples={count} must be at least 1")
    worlds = torch.arange(dynamics.num_worlds, device=dynamics.world.device)
    observation = dynamics.reset_tensor(seeds=worlds + seed)
    kept: list[Augmented] = []
    waiting: list[Augmented] = []
    made = 0
    memory, begins = None, np.ones(len(observation), dtype=np.bool_)
    known = dynamics.world.labelled_anomalies
    anomalies = torch.arange(0 if known is None else known.latents.shape[1], device=worlds.device)
    contains = torch.zeros(len(worlds), len(anomalies), dtype=torch.bool, device=worlds.device)
    while made < count:
        actions, memory = agent.predict(observation.cpu().numpy(), memory, begins)
        taken = torch.from_numpy(actions).to(observation)
        result = dynamics.step_tensor(taken)
        step = result.transition
        decided, anomalous = step.label != UNDECIDED, (step.label == ANOMALY)[:, None, None, None]
        decided[max(count - made, 0) :] = False  # the last batch may be more than was asked for
        contains |= copied_anomalies(dynamics.perturbation, taken, 0.0)[:, None] == anomalies
        values = (
            (step.image * 255).round().to(torch.uint8),
            step.mask & anomalous,
            step.changed_tokens & anomalous,
            step.label,
            dynamics.sources,
            step.latent - step.start_latent,
            result.rewards,
            copied_anomalies(dynamics.perturbation, taken),
            contains,
        )
        waiting.append(Augmented(*(value[decided].cpu() for value in values)))
        made += dynamics.num_worlds
        if sum(map(len, waiting)) >= COMPARED or made >= count:
            kept.append(best_paid(Augmented.joined(waiting), keep_fraction))
            waiting.clear()
        if bar is not None:
            bar.update(min(dynamics.num_worlds, count - made + dynamics.num_worlds))
        observation, begins = result.observations, result.terminated.cpu().numpy()
        contains &= ~result.terminated[:, None]
        if made < count and bool(result.terminated.any()):
            observation = dynamics.reset_tensor(result.terminated)
    return Augmented.joined(kept)


def copied_anomalies(perturbation: Perturbation, actions: Tensor, beyond: float = 0.5) -> Tensor:
    """``(N,)`` int64: which labelled anomaly each of ``actions (N, k)`` mostly copies, -1 for none.

    :param beyond: the share of the change that it must exceed.
    """
    if isinstance(perturbation, CopiesAnomalies):
        return perturbation.copied(actions.clamp(-1, 1), beyond)
    return actions.new_full((len(actions),), -1, dtype=torch.int64)


def best_paid(made: Augmented, keep_fraction: float) -> Augmented:
    """The best paid share ``keep_fraction`` of the samples of each label, in the order they were made."""
    if keep_fraction == 1:
        return made
    chosen = []
    for label in made.labels.unique():
        among = (made.labels == label).nonzero().flatten()
        chosen.append(among[made.reward[among].topk(math.ceil(keep_fraction * len(among))).indices])
    return made.at(torch.cat(chosen).sort().values) if chosen else made


def save_augmented(path: Path, augmented: Augmented) -> None:
    """Write a set as ``.npz`` that opens with ``np.load(path)`` and needs no pickle."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for field in fields(augmented):
            array = getattr(augmented, field.name).numpy()
            entry = zipfile.ZipInfo(f"{field.name}.npy")
            # Compressing numbers with a fraction takes seconds and gains nothing.
            entry.compress_type = zipfile.ZIP_STORED if array.dtype.kind == "f" else zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    write_atomically(path, buffer.getvalue())


def load_augmented(path: Path) -> Augmented:
    """Read what :func:`save_augmented` wrote."""
    try:
        check_archive(path)
        with np.load(path, allow_pickle=False) as held:
            return Augmented(*(torch.from_numpy(held[f.name]) for f in fields(Augmented)))
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: `python train_ppo.py` makes it") from error
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged or no augmented data set ({error})") from error
