"""The state of a training, which can be stored after any step and resumed as if it had never stopped."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor, nn

from latent_common.precision import FULL, computing_in


@dataclass
class Progress:
    """The report of a training loop after each step."""

    step: int
    """Steps done so far, from 1."""
    total: int
    losses: dict[str, Tensor]
    """Detached scalars on the device; reading one waits for it."""
    learning_rate: float
    seconds: dict[str, float]
    """The time of this step: ``env`` (data), ``policy`` (forward pass) and ``update``."""
    measured: dict[str, Tensor] = field(default_factory=dict)
    """More detached scalars, by the tags that they are logged under."""


class TrainingState:
    """Model, optimiser, random generator and step count of one training."""

    def __init__(
        self, model: nn.Module, learning_rate: float, total: int, seed: int, precision: str = FULL
    ) -> None:
        self.model, self.precision = model, precision
        self.peak, self.total, self.step = learning_rate, total, 0
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=1e-4)
        # On the CPU for any device, so that a seed draws the same batches everywhere.
        self.generator = torch.Generator().manual_seed(seed)

    def autocast(self) -> torch.autocast:
        """A context for forward passes in the training's precision; losses are better computed outside."""
        return computing_in(self.precision, next(self.model.parameters()).device)

    def minimise(self, loss: Tensor) -> float:
        """Take one optimiser step; returns its learning rate."""
        rate = one_cycle(self.step, self.total, self.peak)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return rate

    def tensors(self) -> dict[str, Tensor]:
        """All that must be stored to resume the training."""
        kept = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        kept |= optimizer_tensors(self.optimizer)
        kept["generator"] = self.generator.get_state()
        kept["step"] = torch.tensor(self.step)
        return kept

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Go back to the step at which :meth:`tensors` was called."""
        step = int(tensors["step"])
        if not 0 <= step <= self.total:
            raise ValueError(f"step {step} is none of {self.total}")
        self.model.load_state_dict(dict(below(tensors, "model")))
        restore_optimizer(self.optimizer, tensors)
        self.generator.set_state(tensors["generator"])
        self.step = step


OPTIMIZER = "optimizer"


def optimizer_tensors(optimizer: torch.optim.Optimizer, prefix: str = OPTIMIZER) -> dict[str, Tensor]:
    """The state of an optimiser as ``<prefix>.<parameter>.<slot>``."""
    return {
        f"{prefix}.{index}.{name}": torch.as_tensor(slot)
        for index, slots in optimizer.state_dict()["state"].items()
        for name, slot in slots.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], prefix: str = OPTIMIZER
) -> None:
    """Restore the state that :func:`optimizer_tensors` returned; the learning rate stays as it is."""
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in below(tensors, prefix):
        index, slot = name.split(".", 1)
        slots.setdefault(int(index), {})[sys.intern(slot)] = tensor
    # In the order in which optimisers make them, and with names that are the same objects: tensors come from
    # files in any order, and what is packed of an optimiser depends on both.
    state = {
        index: {
            slot: slots[index][slot] for slot in sorted(slots[index], key=lambda name: (name != "step", name))
        }
        for index in sorted(slots)
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def below(tensors: Mapping[str, Tensor], prefix: str) -> Iterable[tuple[str, Tensor]]:
    """Pairs of ``name`` and tensor for all tensors called ``<prefix>.<name>``."""
    start = f"{prefix}."
    return ((n.removeprefix(start), t) for n, t in tensors.items() if n.startswith(start))


def one_cycle(step: int, total: int, peak: float) -> float:
    """The learning rate at a step: a short linear warm-up, then a cosine down to a hundredth of the peak."""
    warmup = max(total // 20, 1)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(total - warmup, 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


@dataclass
class Stopwatch:
    """Measures how the time of a loop is spent, in seconds by label."""

    seconds: dict[str, float] = field(default_factory=dict)
    _since: float = field(default_factory=perf_counter)

    def lap(self, label: str) -> None:
        """Add the time since the last lap to ``label``."""
        now = perf_counter()
        self.seconds[label] = self.seconds.get(label, 0.0) + now - self._since
        self._since = now
