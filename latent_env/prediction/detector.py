"""A trained detector as a user has it: loaded from a run's folder, with a threshold, ready to predict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from latent_common.errors import UserError
from latent_common.files import check_path
from latent_common.image_source import images_at_once
from latent_common.machine import resolve_device
from latent_env.prediction.network import Network, load_network
from latent_env.prediction.pixels import Pixels, is_batch, read_pixels
from latent_env.prediction.result import Prediction
from latent_env.worlds.decision import DECISION, load_decision
from latent_env.worlds.store import BUILTIN, builtin_names, newest_run
from latent_env.worlds.thresholds import FALSE_ALARMS, Decision, Threshold

TOGETHER = 32
"""At most so many images are decoded before they go through the networks together."""


@dataclass(frozen=True, eq=False)
class AnomalyDetector:
    """A trained detector with its threshold: ``detector.predict(image)`` says what it thinks of an image.

    It is never changed: :meth:`with_false_alarms` and :meth:`with_best_f1` return another that shares the
    networks.
    """

    network: Network
    decision: Decision
    """What thresholds are chosen by: scores of images that the detector didn't learn from."""
    threshold: Threshold
    device: torch.device
    folder: Path
    """Where it was loaded from."""

    @property
    def size(self) -> int:
        """Images are resized to so many pixels a side."""
        return self.network.image_shape[1]

    @property
    def channels(self) -> int:
        """1 if images are seen in grey, 3 in colour."""
        return self.network.image_shape[0]

    @property
    def together(self) -> int:
        """How many images are best predicted at once."""
        return min(images_at_once(self.size), TOGETHER)

    def with_false_alarms(self, rate: float) -> AnomalyDetector:
        """A detector that calls at most a share ``rate`` of normal images anomalies.

        Where the validation images are too few for that, ``threshold.note`` says what is promised instead.
        """
        return replace(self, threshold=self.decision.for_false_alarms(rate))

    def with_best_f1(self) -> AnomalyDetector:
        """A detector with the threshold that has the best F1 on labelled validation anomalies."""
        threshold = self.decision.best_f1()
        if threshold is None:
            raise UserError(
                f"{self.folder}: there were no labelled validation anomalies to find the best F1 "
                "with: choose a rate of false alarms"
            )
        return replace(self, threshold=threshold)

    @overload
    def predict(self, images: str | Path | Image.Image) -> Prediction: ...

    @overload
    def predict(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...

    @overload
    def predict(self, images: NDArray[Any] | Tensor) -> Any: ...

    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """What the detector says of an image, or of each of several.

        :param images: one image, for a :class:`Prediction`: a file; an image of Pillow; an array or tensor
            ``(H, W)``, ``(H, W, C)`` or ``(C, H, W)`` of uint8, uint16, or floats in [0, 1]. Or several, for
            a list in the same order: a list of these, or an array of four dimensions. Images of any size are
            resized, turned upright, and made grey or RGB, as training images are.
        :raises UserError: if an image can't be read; its message names the image.
        """
        if not is_batch(images):
            return next(self._predict([images], ["the image"]))
        return list(self._predict(images, [f"image {number}" for number in range(len(images))]))

    def _predict(self, images: Any, names: Sequence[str]) -> Iterator[Prediction]:
        for first in range(0, len(images), self.together):
            chosen = range(first, min(first + self.together, len(images)))
            yield from self.predict_pixels([self.read(images[at], names[at]) for at in chosen])

    def read(self, image: object, name: str = "the image") -> Pixels:
        """Decode and resize one image, which several threads may do at once."""
        return read_pixels(image, self.size, self.channels, name)

    def predict_pixels(self, read: Sequence[Pixels]) -> list[Prediction]:
        """What the detector says of images that were :meth:`read`; all go through the networks together."""
        return self.judge(read, *self.measure(read)) if read else []

    def measure(self, read: Sequence[Pixels]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Raw scores ``(B,)`` and maps ``(B, size, size)`` of one or more images that were :meth:`read`."""
        batch = torch.from_numpy(np.stack([each.pixels for each in read])).to(self.device)
        scores, maps = (part.cpu().numpy() for part in self.network.detect(batch))
        return scores, maps[:, 0]

    def judge(
        self, read: Sequence[Pixels], scores: NDArray[np.float32], maps: NDArray[np.float32]
    ) -> list[Prediction]:
        """What the threshold makes of the scores and maps that :meth:`measure` found, without networks."""
        scaled, p_values = self.decision.scaled(scores, self.threshold), self.decision.p_values(scores)
        drawn = self.decision.scaled_maps(maps, self.threshold)
        return [
            Prediction(
                score=float(scaled[at]),
                p_value=float(p_values[at]),
                is_anomaly=bool(scores[at] > self.threshold.score),
                map=drawn[at],
                raw_score=float(scores[at]),
                native=each.native,
                name=each.name,
            )
            for at, each in enumerate(read)
        ]


def load_detector(
    folder: str | Path, device: str = "auto", false_alarms: float = FALSE_ALARMS
) -> AnomalyDetector:
    """The detector of a finished run, ready to predict.

    :param folder: the folder of a run of ``train_detector.py`` or ``train_ppo.py``; one that it was exported
        to; one of runs, of which the newest is taken; or the name of a built-in world.
    :param device: ``cpu``, ``cuda``, or ``auto`` for a GPU where there is one.
    :param false_alarms: the share of normal images that may be called anomalies.
    :raises UserError: in one line, if there is none, or it is damaged or of another version.
    """
    found = find_detector(str(folder))
    decision = load_decision(found)
    threshold, chosen = decision.for_false_alarms(false_alarms), resolve_device(device)
    network = load_network(found, decision.parts).to(chosen)
    return AnomalyDetector(network, decision, threshold, chosen, found)


def find_detector(name: str) -> Path:
    """The folder of the detector that ``name`` stands for."""
    check_path(name, "the detector's folder")
    folder = BUILTIN / name if name in builtin_names() else Path(name).expanduser()
    if (folder / f"{DECISION}.json").is_file():
        return folder
    if not folder.is_dir():
        raise UserError(
            f"{name} is neither a folder nor a built-in detector ({', '.join(builtin_names())}): name the "
            "folder that a run printed last"
        )
    if (folder / "detector.json").is_file():
        raise UserError(
            f"{name} holds a detector but no threshold: its training is not finished, or there were no "
            "normal validation images, or an older version made it; delete the folder and train again"
        )
    newest = newest_run(folder, f"{DECISION}.json")
    if newest is None:
        raise UserError(
            f"{name} holds no detector: `python train_detector.py dataset=…` makes one below runs/"
        )
    return newest
