"""Any folder of images in MVTec AD's layout."""

from pathlib import Path

import numpy as np

from detectors.errors import UserError
from latent_env.data.dataset import Dataset, check_size
from latent_env.data.images import (
    Sample,
    check_limit,
    decide_channels,
    find_folder,
    list_folders,
    list_images,
    read_split,
    spread,
)

LAYOUT = """\
  train/good/*.png                         normal images to learn from
  test/good/*.png                          normal images to measure on
  test/<defect>/000.png                    anomalous images, one folder a kind
  ground_truth/<defect>/000_mask.png       their masks (optional, but then for all)"""


def load_folder_dataset(
    root: str | Path,
    size: int,
    channels: int | None = None,
    name: str | None = None,
    valid_fraction: float = 0.15,
    seed: int = 0,
    limit: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Load a folder laid out as MVTec AD's categories are.

    Images of any shape are stretched to ``size`` × ``size`` pixels. Valid is a random part of
    ``train/good`` and so holds normal images only.

    :param root: the folder that holds ``train`` and ``test``.
    :param size: side in pixels, a multiple of 8 from 8 to 256.
    :param channels: 1 for grey, 3 for RGB, None for what the training images are.
    :param name: what the data set is called; by default as its folder.
    :param valid_fraction: share of ``train/good`` that becomes the valid split, between 0 and 1.
    :param seed: which images become the valid split.
    :param limit: read at most so many images of train/good, of test/good and of the anomalies.
    :param progress: show progress bars.
    """
    check_size(size)
    check_limit(limit)
    if not 0 < valid_fraction < 1:
        raise UserError(f"valid_fraction={valid_fraction} must lie between 0 and 1, say 0.15.")
    root = Path(root).expanduser()
    if not root.is_dir():
        what = "is a file" if root.exists() else "does not exist"
        raise UserError(
            f"The data folder {root.absolute()} {what}. Expected there:\n{LAYOUT}\n"
            "Name the folder that holds train and test: dataset.root=/path/to/folder."
        )
    train = spread(_normal_samples(root, "train"), limit)
    if len(train) < 2:
        raise UserError(
            f"{root / 'train' / 'good'} holds one image only, but two are the least: one to learn "
            "from, one to validate on. Add normal images."
        )
    good = spread(_normal_samples(root, "test"), limit)
    anomalies = spread(_anomalous_samples(root), limit)
    masked = any(sample.mask for sample in anomalies)

    order = np.random.default_rng(seed).permutation(len(train))
    count = min(max(round(valid_fraction * len(train)), 1), len(train) - 1)
    valid_rows = set(order[:count].tolist())
    parts = {
        "train": [sample for i, sample in enumerate(train) if i not in valid_rows],
        "valid": [sample for i, sample in enumerate(train) if i in valid_rows],
        "test": good + anomalies,
    }
    channels = decide_channels(train, channels)
    name = name or root.absolute().name
    splits = {
        split: read_split(samples, size, channels, masked, progress, f"{name} {split}")
        for split, samples in parts.items()
    }
    return Dataset(name, **splits)


def pair_masks(images: list[Path], masks: list[Path]) -> dict[Path, Path]:
    """Match masks to images by name: ``000_mask`` or ``000`` for ``000``, whatever the ending."""
    by_stem = {mask.stem.lower(): mask for mask in masks}
    pairs = {}
    for image in images:
        for stem in (f"{image.stem}_mask".lower(), image.stem.lower()):
            if stem in by_stem:
                pairs[image] = by_stem[stem]
                break
    orphans = sorted(set(masks) - set(pairs.values()))
    if orphans:
        where = images[0].parent if images else "the test images"
        raise UserError(
            f"{orphans[0]}: this mask has no image of the same name in {where}"
            f"{_and_more(orphans)}. Add the image or delete the mask."
        )
    return pairs


def check_all_masked(samples: list[Sample], expected: str) -> None:
    """Raise a ``UserError`` if some anomalous images have masks and others have none."""
    missing = [sample.path for sample in samples if sample.mask is None]
    if missing and len(missing) < len(samples):
        raise UserError(
            f"{missing[0]}: this anomalous image has no mask although others have one"
            f"{_and_more(missing)}. Add its mask ({expected}), or remove all masks to go without."
        )


def _and_more(paths: list[Path]) -> str:
    return f" (and {len(paths) - 1} more like it)" if len(paths) > 1 else ""


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _normal_samples(root: Path, split: str) -> list[Sample]:
    """The normal images of ``train`` or ``test``; there must be some."""
    parent = find_folder(root, split)
    folder = find_folder(parent, "good") if parent else None
    if folder is None:
        raise UserError(
            f"{root / split / 'good'} does not exist. Expected below {root.absolute()}:\n{LAYOUT}\n"
            f"Put normal images there, or name another folder: dataset.root=/path/to/folder."
        )
    images = list_images(folder)
    if not images:
        raise UserError(f"{folder} holds no images (png, jpg, bmp, tif or webp). Put normal images there.")
    return [Sample(path, 0, _relative(path, root)) for path in images]


def _anomalous_samples(root: Path) -> list[Sample]:
    """The images of every folder in ``test`` but ``good``, with their masks."""
    test = find_folder(root, "test")
    truth = find_folder(root, "ground_truth")
    samples: list[Sample] = []
    defects = [folder for folder in list_folders(test or root) if folder.name.lower() != "good"]
    for folder in defects:
        images = list_images(folder)
        mask_folder = find_folder(truth, folder.name) if truth else None
        pairs = pair_masks(images, list_images(mask_folder) if mask_folder else [])
        samples += [Sample(path, 1, _relative(path, root), pairs.get(path)) for path in images]
    if not samples:
        raise UserError(
            f"{root / 'test'} holds no anomalous images: expected a folder a kind of defect beside "
            f"test/good, such as test/scratch/000.png. Without any, nothing can be measured."
        )
    known = {folder.name.lower() for folder in defects} | {"good"}
    for folder in list_folders(truth) if truth else []:
        if folder.name.lower() not in known and list_images(folder):
            raise UserError(
                f"{folder} holds masks, but there is no {root / 'test' / folder.name} with their "
                "images. Add the images or delete the masks."
            )
    check_all_masked(samples, "ground_truth/<defect>/<name>_mask.png")
    return samples
