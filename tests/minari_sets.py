"""Small data sets of Minari, of episodes that nobody played."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

SPACES = spaces.Box(-2.0, 2.0, (5,), np.float32), spaces.Box(-1.0, 1.0, (3,), np.float32)


def random_dataset(
    name: str,
    observations: spaces.Space[Any] = SPACES[0],
    actions: spaces.Space[Any] = SPACES[1],
    lengths: tuple[int, ...] = (4, 3, 4),
) -> Path:
    """Write data set ``name`` to Minari's folder, of episodes with so many steps; returns its folder."""
    import minari
    from minari.data_collector import EpisodeBuffer

    observations.seed(0)
    actions.seed(0)
    episodes = [
        EpisodeBuffer(
            observations=[observations.sample() for _ in range(steps + 1)],
            actions=[actions.sample() for _ in range(steps)],
            rewards=[float(number)] * steps,
            terminations=[False] * (steps - 1) + [True],
            truncations=[False] * steps,
        )
        for number, steps in enumerate(lengths)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = minari.create_dataset_from_buffers(
            name, episodes, observation_space=observations, action_space=actions
        )
    return Path(data.storage.data_path)
