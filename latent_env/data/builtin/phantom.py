"""The phantom: a synthetic CT data set with exact lesion masks, which needs no download."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError
from latent_env.data.builtin.anatomy import Anatomy, draw_anatomy
from latent_env.data.builtin.shapes import Field, random_waves, smooth_noise
from latent_env.data.dataset import Dataset, Split, check_size

NOISE = 4.0
"""The standard deviation of the noise, in grey levels."""

VISIBLE = 4.0
"""A pixel belongs to a lesion if that changes it by more grey levels."""


@dataclass(frozen=True)
class PhantomSlice:
    """One slice and its healthy twin: the same patient and noise without the lesions.

    :param image: ``(H, W)`` uint8.
    :param healthy: ``(H, W)`` uint8; equals ``image`` where there is no lesion.
    :param mask: ``(H, W)`` bool, where lesions change the noiseless image visibly.
    """

    image: NDArray[np.uint8]
    healthy: NDArray[np.uint8]
    mask: NDArray[np.bool_]


def make_phantom_dataset(
    size: int = 64, train: int = 600, valid: int = 120, test: int = 300, seed: int = 0
) -> Dataset:
    """Draw CT-like grey slices of synthetic patients, some with lesions.

    Every image is another patient, drawn from ``(seed, split, index)``: the same seed gives the same bytes,
    and the size of one split changes nothing in another.

    :param size: side in pixels, a multiple of 8 from 32 to 512.
    :param train: number of normal training images.
    :param valid: number of validation images, half of them with lesions.
    :param test: number of test images, half of them with lesions.
    """
    check_size(size)
    if size < 32:
        raise UserError(f"size={size} is too small for the phantom: give 32 or more.")
    for split, count, least in (("train", train, 1), ("valid", valid, 2), ("test", test, 2)):
        if count < least:
            raise UserError(f"{split}={count} images are too few for the phantom: give {least} up.")
    return Dataset(
        name="phantom",
        train=_draw_split("train", 0, size, train, 0, seed),
        valid=_draw_split("valid", 1, size, valid - valid // 2, valid // 2, seed),
        test=_draw_split("test", 2, size, test - test // 2, test // 2, seed),
    )


def draw_slice(rng: np.random.Generator, size: int, lesions: bool) -> PhantomSlice:
    """Draw one patient of ``size`` × ``size`` pixels, with one to three lesions or without.

    The lesions are drawn last, so the same state of ``rng`` gives the same patient either way.
    """
    anatomy = draw_anatomy(rng, size)
    noise = NOISE * rng.uniform(0.7, 1.3) * smooth_noise(rng, size, 0.75 * size / 64)
    healthy = anatomy.image
    image = healthy.copy()
    if lesions:
        while not np.any(np.abs(image - healthy) > VISIBLE):
            for _ in range(rng.choice([1, 2, 3], p=[0.6, 0.25, 0.15])):
                _add_lesion(rng, anatomy, image)
    mask = np.abs(image - healthy) > VISIBLE
    return PhantomSlice(_digitise(image + noise), _digitise(healthy + noise), mask)


def _add_lesion(rng: np.random.Generator, anatomy: Anatomy, image: Field) -> None:
    """Draw one lesion into ``image (H, W)``, in place."""
    host = anatomy.inside
    if rng.random() < 0.75:
        names = list(anatomy.organs)
        host = anatomy.organs["liver" if rng.random() < 0.7 else names[rng.integers(len(names))]]
    places = np.argwhere(host > 0.9)
    if not len(places):
        return
    row, column = places[rng.integers(len(places))]
    centre = float(anatomy.canvas.x[row, column]), float(anatomy.canvas.y[row, column])
    radius = 2 / 32 * 4 ** rng.beta(1.1, 1.6)  # 2 to 8 pixels of 64, the small more often
    stretch = np.exp(rng.normal(0, 0.15))
    shape = anatomy.canvas.ellipse(
        centre,
        (radius * stretch, radius / stretch),
        rng.uniform(0, np.pi),
        random_waves(rng, 0.14),
        edge=rng.uniform(1.0, 3.0) * image.shape[0] / 64,
    )
    shape = shape * host
    # The lesion, darker or brighter than its host, mostly replaces what was there.
    around = float((image * shape).sum() / max(float(shape.sum()), 1e-6))
    contrast = rng.choice([-1, 1], p=[0.6, 0.4]) * rng.uniform(16, 62)
    tissue = around + contrast + 0.5 * (image - around)
    if rng.random() < 0.25:  # a bright rim around a dark core
        core = anatomy.canvas.ellipse(
            centre, (0.62 * radius * stretch, 0.62 * radius / stretch), edge=2 * image.shape[0] / 64
        )
        tissue = around + abs(contrast) * (0.7 - 1.5 * core)
    image += shape * (tissue.astype(np.float32) - image)


def _digitise(image: Field) -> NDArray[np.uint8]:
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _draw_split(name: str, stream: int, size: int, normal: int, anomalous: int, seed: int) -> Split:
    count = normal + anomalous
    images = np.empty((count, 1, size, size), np.uint8)
    masks = np.zeros((count, size, size), np.bool_)
    labels = (np.arange(count) >= normal).astype(np.int64)
    for label in (0, 1):  # normals and anomalies count their patients separately
        for index, row in enumerate(np.flatnonzero(labels == label)):
            rng = np.random.default_rng([seed, stream, label, index])
            drawn = draw_slice(rng, size, lesions=label == 1)
            images[row, 0], masks[row] = drawn.image, drawn.mask
    names = tuple(f"{name}/{i:04d}" for i in range(count))
    return Split(images, labels, masks, names)
