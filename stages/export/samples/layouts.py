"""Samples in MVTec AD's folders, as COCO or YOLO instances, or as arrays."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from latent_common.artifacts import write_atomically, write_json
from stages.export.arguments import LAYOUT_NAMES
from stages.export.samples.found import Item
from stages.export.samples.instances import box_of, outline_of, parts_of, run_lengths

COMPRESSION = 3
"""Of PNG: more takes several seconds an image of 20 megapixels and saves some per cent."""

ANOMALY = "anomaly"

YOLO_DATA = """\
# Samples can't validate: name images of your own.
train: images/train
val: images/train
names:
  0: anomaly
"""


class Layout(Protocol):
    """Writes samples into a folder, one by one."""

    def add(self, item: Item) -> tuple[str, str]:
        """Write one; the names of its image and of its mask in the folder, where they have files."""

    def finish(self) -> None:
        """Write what is about all of them."""


class Mvtec:
    """``train/good``, ``train/<kind>`` and ``ground_truth/<kind>/<name>_mask.png``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, item: Item) -> tuple[str, str]:
        """Write an image, and the mask of an anomaly."""
        if not item.label:
            return self._image(f"train/good/{item.stem}.png", item.image), ""
        image = self._image(f"train/{item.kind}/{item.stem}.png", item.image)
        marked = Image.fromarray(item.mask.astype(np.uint8) * np.uint8(255))
        return image, self._image(f"ground_truth/{item.kind}/{item.stem}_mask.png", marked)

    def _image(self, name: str, image: Image.Image) -> str:
        write_png(self.folder / name, image)
        return name

    def finish(self) -> None:
        """Nothing is about all of them."""


class Coco:
    """``images/`` and ``annotations.json``: an instance for each connected part of a mask, as run lengths."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add(self, item: Item) -> tuple[str, str]:
        """Write an image, and keep its instances."""
        name, (width, height) = f"{item.stem}.png", item.image.size
        write_png(self.folder / "images" / name, item.image)
        self.images.append({"id": item.row + 1, "file_name": name, "width": width, "height": height})
        for part in parts_of(item.mask):
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": item.row + 1,
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": int(part.sum()),
                    "bbox": list(box_of(part)),
                    "segmentation": {"size": [height, width], "counts": run_lengths(part)},
                    "attributes": {"kind": item.kind},
                }
            )
        return f"images/{name}", ""

    def finish(self) -> None:
        """Write the instances."""
        content = {
            "info": {"description": "Samples of LatentAug"},
            "categories": [{"id": 1, "name": ANOMALY, "supercategory": ANOMALY}],
            "images": self.images,
            "annotations": self.annotations,
        }
        write_json(self.folder / "annotations.json", content)


class Yolo:
    """``images/train``, ``labels/train`` with a polygon a line for each connected part, and ``data.yaml``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def add(self, item: Item) -> tuple[str, str]:
        """Write an image and its polygons; of a normal one the file is empty: nothing is there."""
        write_png(self.folder / f"images/train/{item.stem}.png", item.image)
        lines = []
        for part in parts_of(item.mask):
            corners = (outline_of(part) / item.image.size).flatten()
            lines.append(" ".join(["0", *(f"{value:.6f}" for value in corners.tolist())]) + "\n")
        label = f"labels/train/{item.stem}.txt"
        write_atomically(self.folder / label, "".join(lines).encode())
        return f"images/train/{item.stem}.png", label

    def finish(self) -> None:
        """Write what a training is called with."""
        write_atomically(self.folder / "data.yaml", YOLO_DATA.encode())


class Npz:
    """``samples.npz``: ``images (N, C, H, W)``, ``masks (N, H, W)``, ``labels``, ``names`` and ``kinds``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.items: list[Item] = []

    def add(self, item: Item) -> tuple[str, str]:
        """Keep a sample."""
        self.items.append(item)
        return "", ""

    def finish(self) -> None:
        """Write all arrays, in the order of ``augmented.npz``."""
        items = sorted(self.items, key=lambda item: item.row)
        arrays: dict[str, Any] = {
            "images": np.stack([_channels_first(item.image) for item in items]),
            "masks": np.stack([item.mask for item in items]),
            "labels": np.array([item.label for item in items], np.int64),
            "names": np.array([item.stem for item in items]),
            "kinds": np.array([item.kind for item in items]),
        }
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        write_atomically(self.folder / "samples.npz", buffer.getvalue())


def write_png(path: Path, image: Image.Image) -> None:
    """Write an image losslessly, at its own depth."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG", compress_level=COMPRESSION)


def _channels_first(image: Image.Image) -> NDArray[np.uint8]:
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


MAKERS: tuple[Callable[[Path], Layout], ...] = (Mvtec, Coco, Yolo, Npz)
LAYOUTS = dict(zip(LAYOUT_NAMES, MAKERS, strict=True))
ONE_SIZE = ("npz",)
"""Layouts whose samples are all of one size: that at which the agent saw them."""
