"""Episodes of a Minari data set, whoever recorded them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from agents.learners.sequences.demonstrations import STRIDE
from agents.learners.sequences.trajectories import Trajectories, scaled
from latent_common.artifacts import read_json
from latent_common.errors import UserError, first_line

METADATA = "metadata.json"
DAMAGED = (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError)
"""What Minari raises where files aren't what it expects."""


class MinariEpisodes:
    """Demonstrations from a Minari data set: its episodes in random order, again and again.

    :param name: the id of a data set in Minari's folder, or the folder of one.
    :param seed: of the order.
    :raises UserError: if there is no such data set, or no Minari to read it.
    """

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.seed = name, seed
        self.folder = _find(name)
        with self._damage_told():
            found = read_json(self.folder / METADATA)
            # Without them Minari would make whatever environment the file names, to ask that.
            if not {"observation_space", "action_space"} <= found.keys():
                raise ValueError(f"no spaces in {METADATA}")
        self._recorded: Trajectories | None = None
        self._served = 0  # episodes so far
        self._turn, self._order = -1, torch.empty(0, dtype=torch.int64)

    def record(self, env: VecEnv, steps: int) -> Trajectories:
        """Whole episodes of at least ``steps`` steps in all.

        :raises UserError: if the spaces of the data set aren't those of ``env``, or it can't be read.
        """
        if self._recorded is None:
            self._recorded = self._read(env)
        begins = (self._recorded.times == 0).nonzero().flatten().tolist()
        ends = [*begins[1:], len(self._recorded)]
        rows: list[Tensor] = []
        while steps > 0:
            number = self._next(len(begins))
            rows.append(torch.arange(begins[number], ends[number]))
            steps -= len(rows[-1])
        chosen = torch.cat(rows)
        return Trajectories(*(each[chosen] for each in self._recorded.tensors().values()))

    def state(self) -> int:
        """How many episodes were asked for so far."""
        return self._served

    def restore(self, state: int, _: VecEnv) -> None:
        """Go on from where :meth:`state` was asked for."""
        self._served = state

    def _next(self, count: int) -> int:
        """The number of the next of ``count`` episodes."""
        turn, place = divmod(self._served, count)
        if turn != self._turn:
            drawing = torch.Generator().manual_seed((self.seed + STRIDE * turn) % 2**63)
            self._turn, self._order = turn, torch.randperm(count, generator=drawing)
        self._served += 1
        return int(self._order[place])

    def _read(self, env: VecEnv) -> Trajectories:
        with self._damage_told():
            from minari import MinariDataset

            data = MinariDataset(self.folder)
            self._check("observation", data.observation_space, env.observation_space)
            self._check("action", data.action_space, env.action_space)
            parts = [self._trajectory(each, env) for each in data.iterate_episodes()]
            if not parts:
                raise ValueError("it has no episodes")
            return Trajectories.joined(*parts)

    def _check(self, kind: str, theirs: spaces.Space[Any], ours: spaces.Space[Any]) -> None:
        if theirs != ours:
            raise UserError(
                f"agent.demonstrations: minari:{self.name} has another {kind} space than this environment: "
                f"{_described(theirs)}, here {_described(ours)}; choose a data set of the same environment"
            )

    def _trajectory(self, episode: Any, env: VecEnv) -> Trajectories:
        rewards = np.asarray(episode.rewards, np.float32)
        steps = len(rewards)
        seen, actions = np.asarray(episode.observations), np.asarray(episode.actions)
        expected = (steps + 1, *(env.observation_space.shape or ())), (steps, *(env.action_space.shape or ()))
        if not steps or (seen.shape, actions.shape) != expected:
            raise ValueError(f"episode {episode.id} has other shapes than its spaces")
        # The environment cuts actions off as well.
        taken = scaled(actions, env.action_space).clip(-1, 1)
        parts: tuple[npt.NDArray[Any], ...] = (
            seen[:-1].reshape(steps, -1),
            taken.reshape(steps, -1),
            rewards,
        )
        tensors = [torch.from_numpy(part.astype(np.float32)) for part in parts]
        if not all(bool(tensor.isfinite().all()) for tensor in tensors):
            raise ValueError(f"episode {episode.id} has numbers that aren't finite")
        return Trajectories(tensors[0], tensors[1], tensors[2], torch.arange(steps))

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        """Tell what is wrong with the files in one line."""
        try:
            yield
        except UserError:
            raise
        except (*DAMAGED, ImportError, MemoryError) as error:
            raise UserError(
                f"agent.demonstrations: minari:{self.name} can't be read ({first_line(error)}): make what is "
                f"in {self.folder.parent} anew"
            ) from error


def _find(name: str) -> Path:
    """The folder with the files of data set ``name``."""
    if find_spec("minari") is None or find_spec("h5py") is None:
        raise UserError(
            f"agent.demonstrations: minari:{name} needs Minari: `pip install 'latent-aug[offline]'` installs "
            "what it takes"
        )
    from minari.storage import get_dataset_path

    places = Path(name), Path(get_dataset_path(name))
    for place in places:
        if name and (place / "data" / METADATA).is_file():
            return place / "data"
    raise UserError(
        f"agent.demonstrations: minari:{name} is no data set in {get_dataset_path()}, and no folder of one: "
        "`python -m stages.offline` makes some, MINARI_DATASETS_PATH says where others are"
    )


def _described(space: spaces.Space[Any]) -> str:
    if not isinstance(space, spaces.Box):
        return " ".join(str(space).split())
    return f"{space.shape} {space.dtype} from {space.low.min():.5g} to {space.high.max():.5g}"
