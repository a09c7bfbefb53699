"""The folder of a run: its configuration, TensorBoard events, pictures and metrics."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import functional

from latent_common.artifacts import read_json, remove_artifact, write_atomically, write_json
from latent_common.digest import digest_of
from latent_common.errors import UserError
from latent_common.files import check_file_name
from latent_common.lock import LOCK, locked
from latent_env.rendering import Picture, save_picture
from latent_env.training.left_behind import CHECKPOINT, left_behind, remove_left_behind
from latent_env.worlds.store import COMPLETE

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FIRST_STEP = "00000"
"""The folder in which TensorBoard puts embeddings that belong to no step."""

THUMBNAIL = 64
"""Pixels a side of the projector's pictures: all of them are one image, which is slow to write and load."""


class Run:
    """The folder ``<root>/<dataset>/<stage>/<name>-<digest of the settings>/``.

    The settings are everything that the outcome depends on, as plain values, so equal settings share a
    folder. A folder with ``metrics.json`` is complete and is not made again.
    """

    def __init__(self, root: Path, dataset: str, stage: str, name: str, settings: Mapping[str, Any]) -> None:
        check_file_name(dataset, "the data set's name")
        check_file_name(name, f"the {stage}'s name")
        self.path = root / dataset / stage / f"{name}-{digest_of(settings)}"
        self.settings = dict(settings)

    @property
    def complete(self) -> bool:
        """Whether a command has finished this run."""
        return (self.path / COMPLETE).is_file()

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of a finished run."""
        held: dict[str, float] = read_json(self.path / COMPLETE)
        return held

    def part(self, name: str) -> Run:
        """A run in the sub-folder ``name``, with its own events: TensorBoard shows both tag by tag."""
        part = copy.copy(self)
        part.__dict__.pop("writer", None)
        part.path = self.path / name
        return part

    @contextmanager
    def claimed(self) -> Iterator[bool]:
        """A context in which no other process works in the folder; tells whether the run is still to be made.

        What processes have left there that were killed is removed first. A complete run is only used, so
        nothing is waited for, and its disk need not be writable.
        """
        if self.complete:
            if left_behind(self.path):
                with suppress(UserError), self.locked():
                    pass
            yield False
            return
        with self.locked():
            yield not self.complete

    @contextmanager
    def locked(self) -> Iterator[None]:
        """A context in which no other process works in the folder."""
        with ExitStack() as stack:
            with self._writable():
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(self.path / LOCK))
                remove_left_behind(self.path)
            yield

    @contextmanager
    def _writable(self) -> Iterator[None]:
        """A context in which an error of the disk names the folder and the key."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"runs: can't write to {self.path} ({error.strerror}): name another folder with runs=…"
            ) from error

    def begin(self) -> None:
        """Make the folder and write the configuration."""
        with self._writable():
            (self.path / "pictures").mkdir(parents=True, exist_ok=True)
        text = OmegaConf.to_yaml(OmegaConf.create(self.settings))
        write_atomically(self.path / "config.yaml", text.encode())

    def finish(self, metrics: Mapping[str, float]) -> None:
        """Write the metrics, which marks the folder as complete."""
        self.log_hyperparameters(metrics)
        self.writer.close()
        write_json(self.path / COMPLETE, dict(metrics))
        self.forget_checkpoint()

    def forget_checkpoint(self) -> None:
        """Remove the checkpoint of a training: to be called when what came of it is stored."""
        remove_artifact(self.path, CHECKPOINT)

    @cached_property
    def writer(self) -> SummaryWriter:
        """The TensorBoard writer of this folder."""
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        return SummaryWriter(str(self.path))

    def log_from(self, step: int) -> None:
        """Let TensorBoard drop what a stopped command has logged after ``step``: it will be logged again."""
        from torch.utils.tensorboard import SummaryWriter

        if "writer" not in self.__dict__:
            self.__dict__["writer"] = SummaryWriter(str(self.path), purge_step=step + 1)

    def log(self, scalars: Mapping[str, float | Tensor], step: int) -> None:
        """Write scalars, by their tags, to TensorBoard."""
        with self._writable():
            for tag, value in scalars.items():
                self.writer.add_scalar(tag, float(value), step)

    def picture(self, tag: str, picture: Picture, step: int = 0, name: str | None = None) -> Path:
        """Write a picture to TensorBoard and to ``pictures/<name or tag>.png``, whose path is returned."""
        path = self.path / "pictures" / f"{(name or tag).replace('/', '_')}.png"
        path.parent.mkdir(parents=True, exist_ok=True)  # a part of a run has none yet
        save_picture(path, picture)
        self.writer.add_image(tag, picture, step, dataformats="HWC")
        return path

    def embedding(self, tag: str, vectors: Tensor, names: Sequence[str], pictures: Tensor) -> None:
        """Write vectors of shape ``(N, D)`` for TensorBoard's projector.

        Each has a name and a picture of ``pictures``, of shape ``(N, C, H, W)`` in [0, 1], drawn small.
        """
        # TensorBoard warns on standard output where a stopped command has begun to write them.
        shutil.rmtree(self.path / FIRST_STEP / tag, ignore_errors=True)
        small = min(pictures.shape[-1], THUMBNAIL)
        drawn = functional.adaptive_avg_pool2d(pictures, small)
        self.writer.add_embedding(vectors, list(names), drawn, tag=tag)

    def log_hyperparameters(self, metrics: Mapping[str, float]) -> None:
        """Write settings and final metrics to TensorBoard's HPARAMS tab."""
        final = {f"final/{name}": float(value) for name, value in metrics.items()}
        # The run name "." keeps them in this run; without it TensorBoard makes a new one named after the
        # time.
        self.writer.add_hparams(dict(_flatten(self.settings)), final, run_name=".")


def _flatten(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as names ``a.b.c`` with values of types that TensorBoard accepts."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, bool | int | float | str) else str(value)
