"""Pictures: labelled tiles side by side, contact sheets, and a window that shows them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from detectors.blocks.tokens import at_size
from detectors.rdna import RdnaDetector
from detectors.training.batches import Batch
from latent_common.errors import UserError
from latent_env.transition import Transition

Picture = npt.NDArray[np.uint8]
TILE = 192
"""A tile's side in pixels: small images are enlarged to it without smoothing."""

SMALL_TILE = 64

GAP, CAPTION = 6, 22
BACKGROUND, INK = (24, 26, 30), (235, 235, 235)
CAPTIONS = ("original", "decoded", "augmented", "difference", "heat map")


@functools.cache
def _colours() -> Picture:
    from matplotlib import colormaps  # heavy, and only pictures need it

    table: Picture = (colormaps["inferno"](np.arange(256))[:, :3] * 255).astype(np.uint8)
    return table


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


def to_rgb(image: Tensor) -> Picture:
    """An image ``(C, H, W)``, grey or RGB, in [0, 1] or uint8, as a picture ``(H, W, 3)`` uint8."""
    if image.dtype != torch.uint8:
        image = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    array: Picture = image.permute(1, 2, 0).cpu().numpy()
    return np.repeat(array, 3, axis=2) if array.shape[2] == 1 else np.ascontiguousarray(array)


def heat(values: Tensor) -> Picture:
    """A map ``(H, W)`` in [0, 1] as a picture in colours from black to yellow."""
    return _colours()[(values.float().clamp(0, 1) * 255).round().long().cpu().numpy()]


def side_by_side(tiles: Sequence[Picture], captions: Sequence[str], tile: int = TILE) -> Picture:
    """Pictures ``(h, w, 3)`` in a row, enlarged to ``tile`` pixels, each under its caption."""
    width = len(tiles) * (tile + GAP) + GAP
    sheet = Image.new("RGB", (width, tile + CAPTION + GAP), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for i, (picture, caption) in enumerate(zip(tiles, captions, strict=True)):
        left = GAP + i * (tile + GAP)
        smooth = Image.Resampling.BOX if picture.shape[0] > tile else Image.Resampling.NEAREST
        sheet.paste(Image.fromarray(picture).resize((tile, tile), smooth), (left, CAPTION))
        draw.text((left + 2, 3), caption, fill=INK, font=_font())
    return np.asarray(sheet)


def stack(rows: Sequence[Picture]) -> Picture:
    """Pictures of equal width below each other."""
    return np.concatenate(list(rows), axis=0)


@torch.inference_mode()
def panel(transition: Transition, world: int = 0, tile: int = TILE) -> Picture:
    """What happened in one world: five labelled tiles, ``(H, W, 3)`` uint8."""
    step = transition.select(torch.tensor([world], device=transition.latent.device))
    detection = step.detection
    change = (step.image - step.start_image).abs().mean(1)[0]
    tiles = [
        to_rgb(step.start_image[0]),
        to_rgb(step.decoded[0]),
        to_rgb(step.image[0]),
        heat(change * 8),  # full brightness at an eighth of the range: lesions are faint
        heat(at_size(detection.map, step.image.shape[-1])[0, 0].sigmoid()),
    ]
    score = float(detection.score[0].sigmoid())
    captions = [*CAPTIONS[:-1], f"heat map, p={score:.2f}"]
    return side_by_side(tiles, captions, tile)


@torch.inference_mode()
def restorations(detector: RdnaDetector, batch: Batch) -> Picture:
    """Images of a training batch, what the detector restores them to, their masks and maps: one row each."""
    restored, detection = detector.outputs(batch.images)
    rows = []
    captions = ("image", "reconstruction", "true mask", "map")
    parts = (batch.images, restored, batch.masks, detection.map.sigmoid())
    for image, normal, mask, drawn in zip(*parts, strict=True):
        rows.append(side_by_side([to_rgb(image), to_rgb(normal), heat(mask[0]), heat(drawn[0])], captions))
    return stack(rows)


def contact_sheet(
    images: Tensor, masks: Tensor, captions: Sequence[str], columns: int = 6, tile: int = 128
) -> Picture:
    """Images ``(N, C, H, W)`` in a grid, with the outline of ``masks (N, 1, H, W)`` bool in orange."""
    tiles = []
    for image, mask in zip(images, masks, strict=True):
        scale = max(tile // image.shape[-1], 1)
        picture = np.kron(to_rgb(image), np.ones((scale, scale, 1), np.uint8))
        inside = np.kron(mask[0].cpu().numpy(), np.ones((scale, scale), bool))
        picture[_outline(inside)] = (255, 140, 0)
        tiles.append(picture)
    blank = np.zeros_like(tiles[0])
    while len(tiles) % columns:
        tiles.append(blank)
    labels = [*captions, *[""] * (len(tiles) - len(captions))]
    rows = range(0, len(tiles), columns)
    return stack([side_by_side(tiles[i : i + columns], labels[i : i + columns], tile) for i in rows])


def class_grid(images: Tensor, classes: Tensor, names: tuple[str, ...], columns: int = 12) -> Picture:
    """Images ``(N, C, H, W)`` in [0, 1], a row a class; ``classes (N,)`` say where each belongs."""
    rows = []
    for number, name in enumerate(names):
        chosen = images[(classes == number).nonzero()[:columns, 0]]
        blank = [torch.zeros_like(images[0])] * (columns - len(chosen))
        tiles = [to_rgb(image) for image in [*chosen, *blank]]
        rows.append(side_by_side(tiles, [name[:8], *[""] * (columns - 1)], SMALL_TILE))
    return stack(rows)


def _outline(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    padded = np.pad(inside, 1)
    core = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    outline: npt.NDArray[np.bool_] = inside & ~core
    return outline


def save_picture(path: Any, picture: Picture) -> None:
    """Write a picture as PNG."""
    Image.fromarray(picture).save(path)


class Window:
    """A window that shows one picture after another (render mode "human")."""

    def __init__(self, title: str) -> None:
        try:
            import tkinter
        except ImportError as error:
            raise UserError(
                "render_mode='human' needs Python's tkinter, which this Python was built without: "
                "install it (for example python3-tk) or use render_mode='rgb_array'"
            ) from error
        try:
            self._root = tkinter.Tk()
        except tkinter.TclError as error:
            raise UserError(
                f"render_mode='human' needs a screen and found none ({error}): use render_mode='rgb_array'"
            ) from error
        self._root.title(title)
        self._label = tkinter.Label(self._root)
        self._label.pack()
        self._photo: Any = None
        self._closed = False
        self._root.protocol("WM_DELETE_WINDOW", self.close)

    def show(self, picture: Picture) -> None:
        """Show ``picture (H, W, 3)`` uint8; does nothing once the user has closed the window."""
        if self._closed:
            return
        from PIL import ImageTk

        # Tk keeps no reference to a picture: without ours it would vanish at once.
        self._photo = ImageTk.PhotoImage(Image.fromarray(picture), master=self._root)
        self._label.configure(image=self._photo)
        self._root.update()

    def close(self) -> None:
        """Close the window."""
        if not self._closed:
            self._closed = True
            self._root.destroy()
