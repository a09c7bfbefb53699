"""The one interface of everything that chooses actions: Stable-Baselines3's ``predict``."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Actions = npt.NDArray[np.float32]
"""``(N, k)``, one row a world, in [-1, 1]."""


class Agent(Protocol):
    """Chooses actions for a batch of worlds; every SB3 model is one."""

    def predict(
        self,
        observation: npt.NDArray[np.float32],
        state: tuple[npt.NDArray[Any], ...] | None = None,
        episode_start: npt.NDArray[np.bool_] | None = None,
        deterministic: bool = False,
    ) -> tuple[Actions, Any]:
        """Actions ``(N, k)`` for observations ``(N, d)``, and the next hidden state."""
