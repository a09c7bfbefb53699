"""Files through a detector: decoded on all cores ahead of the networks, pictures written behind them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

from PIL import Image

from latent_common.errors import UserError
from latent_common.machine import cores
from latent_env.data.images import SMALLEST_DRAFT, open_image, shrink_image
from latent_env.prediction.pixels import Pixels
from latent_env.prediction.result import Prediction
from stages.predict.pictures import LONGEST, overlay_size, write_pictures
from stages.predict.sources import Named
from stages.predict.tables import Row, broken_row, row_of

AHEAD = 2
"""So many batches are decoded ahead of the networks."""

OVERLAYS, MASKS = "overlays", "masks"


class Predictor(Protocol):
    """What turns images into predictions: a detector with PyTorch, or one from an ONNX file."""

    @property
    def size(self) -> int:
        """Images are resized to so many pixels a side."""

    @property
    def channels(self) -> int:
        """1 if images are seen in grey, 3 in colour."""

    @property
    def together(self) -> int:
        """How many images are best predicted at once."""

    def predict_pixels(self, read: Sequence[Pixels]) -> list[Prediction]:
        """What it says of images that are decoded and resized."""


class Decoded(NamedTuple):
    """An image file, ready for the networks."""

    named: Named
    pixels: Pixels
    base: Image.Image | None
    """What an overlay is drawn on, if one is wanted."""


@dataclass
class Pipeline:
    """Turns image files into rows of tables, in their order, and into pictures below ``out``.

    :param pictures: ``all``, ``anomalies`` or ``none``.
    """

    detector: Predictor
    out: Path | None
    pictures: str
    _names: dict[str, int] = field(default_factory=dict)

    def rows(self, found: Sequence[Named]) -> Iterator[Row]:
        """A row for every file; one that can't be read says why."""
        pool = ThreadPoolExecutor(cores())
        try:
            yield from self._rows(found, pool)
        finally:  # after an error or Ctrl-C the rest isn't needed
            pool.shutdown(cancel_futures=True)

    def _rows(self, found: Sequence[Named], pool: ThreadPoolExecutor) -> Iterator[Row]:
        together = self.detector.together
        waiting: deque[tuple[Named, Future[Decoded]]] = deque()
        drawing: list[Future[None]] = []
        remaining = iter(found)
        while True:
            while len(waiting) < AHEAD * together and (named := next(remaining, None)) is not None:
                waiting.append((named, pool.submit(self._decode, named)))
            if not waiting:
                break
            batch = [waiting.popleft() for _ in range(min(together, len(waiting)))]
            for each in drawing:  # a full disk is told here
                each.result()
            drawing = []
            yield from self._predict(batch, pool, drawing)
        for each in drawing:
            each.result()

    def _predict(
        self,
        batch: list[tuple[Named, Future[Decoded]]],
        pool: ThreadPoolExecutor,
        drawing: list[Future[None]],
    ) -> list[Row]:
        """The rows of a batch, in order; pictures are added to ``drawing``."""
        read: dict[int, Decoded] = {}
        rows: dict[int, Row] = {}
        for at, (named, future) in enumerate(batch):
            try:
                read[at] = future.result()
            except UserError as error:
                rows[at] = broken_row(named.path, str(error))
        predictions = self.detector.predict_pixels([each.pixels for each in read.values()])
        for (at, decoded), prediction in zip(read.items(), predictions, strict=True):
            picture = self._draw(decoded, prediction, pool, drawing)
            rows[at] = row_of(prediction, picture)
        return [rows[at] for at in range(len(batch))]

    def _decode(self, named: Named) -> Decoded:
        """Decode a file as training images are; larger, if an overlay of it may be wanted."""
        detector = self.detector
        image, native = open_image(named.path, detector.size)
        pixels = Pixels(shrink_image(image, detector.size, detector.channels), native, str(named.path))
        if not self._draws:
            return Decoded(named, pixels, None)
        size = overlay_size(native)
        if image.width < size[0]:  # a JPEG that was decoded at a fraction of its size
            image, _ = open_image(named.path, -(-LONGEST // SMALLEST_DRAFT))
        image.thumbnail(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        return Decoded(named, pixels, image)

    @property
    def _draws(self) -> bool:
        return self.out is not None and self.pictures != "none"

    def _draw(
        self,
        decoded: Decoded,
        prediction: Prediction,
        pool: ThreadPoolExecutor,
        drawing: list[Future[None]],
    ) -> str | None:
        """Have the overlay and the mask of an image written; their name, if there will be any."""
        if self.out is None or decoded.base is None:
            return None
        if self.pictures == "anomalies" and not prediction.is_anomaly:
            return None
        name = f"{self._unique(decoded.named.name)}.png"
        paths = self.out / OVERLAYS / name, self.out / MASKS / name
        drawing.append(pool.submit(write_pictures, decoded.base, prediction, *paths))
        return name

    def _unique(self, name: str) -> str:
        """``name``, with a number where an earlier image had it."""
        self._names[name] = count = self._names.get(name, 0) + 1
        return name if count == 1 else self._unique(f"{name}-{count}")
