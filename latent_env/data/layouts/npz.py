"""A user's ``.npz`` files, one a split: of plain arrays, or of object arrays, which need pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError
from latent_common.files import check_archive
from latent_env.data.finding import find_file, show_tree
from latent_env.data.samples import ArraySample, Problems, Source
from latent_env.data.splitting import Splitting, evenly_spaced_samples, set_aside

KEYS = {
    "images": ("images", "image", "x", "data", "arr_0"),
    "labels": ("labels", "label", "y", "targets", "arr_1"),
    "masks": ("masks", "mask"),
    "names": ("names", "file_names", "filenames", "paths"),
}
TREE = """\
  train.npz    images (N, H, W), (N, H, W, C) or (N, C, H, W), uint8 or floats in [0, 1]
  test.npz     the same, with labels (N,): 0 normal, 1 anomaly; perhaps masks (N, H, W), names (N,)
  valid.npz    optional, like test.npz; otherwise a share of train is set aside"""


def npz_source(
    root: Path,
    name: str,
    splitting: Splitting,
    problems: Problems,
    trust_pickle: bool,
    channels: int | None = None,
) -> Source:
    """``train.npz``, ``test.npz`` and perhaps ``valid.npz`` in ``root``.

    :param trust_pickle: open files of object arrays, which may run any code while they are read.
    """
    files = {
        split: find_file(root, *names)
        for split, names in {
            "train": ("train.npz",),
            "valid": ("valid.npz", "val.npz"),
            "test": ("test.npz",),
        }.items()
    }
    for split in ("train", "test"):
        if files[split] is None:
            raise UserError(
                f"{root.absolute()} holds no {split}.npz. Expected there:\n{TREE}\n{show_tree(root)}"
            )
    samples = {
        split: _read(path, split, problems, trust_pickle) for split, path in files.items() if path is not None
    }
    wrong = next((sample for sample in samples["train"] if sample.label), None)
    if wrong is not None:
        raise UserError(
            f"{files['train']}: {wrong.name} is labelled an anomaly, but train must be normal only"
        )
    remarks = []
    if "valid" not in samples:
        if len(samples["train"]) < 2:
            raise UserError(f"{files['train']} holds one image only, but two are the least")
        samples["train"], samples["valid"], by_group = set_aside(
            samples["train"], splitting.valid_fraction, splitting.seed, splitting.group
        )
        remarks.append(f"there is no valid.npz: {by_group or 'a part'} of train was set aside for it")
    limited = {
        split: [
            sample
            for label in (0, 1)
            for sample in evenly_spaced_samples(
                [s for s in samples[split] if s.label == label], splitting.limit
            )
        ]
        for split in files
    }
    remarks += splitting.count_labelled(limited)
    settings = {"root": str(root.resolve()), **splitting.settings(), "track": "official"}
    found = [path for path in files.values() if path is not None]
    return Source(name or root.resolve().name or "npz", limited, found, settings, channels, remarks)


def _read(path: Path, split: str, problems: Problems, trust_pickle: bool) -> list[ArraySample]:
    try:
        check_archive(path)
        with np.load(path, allow_pickle=trust_pickle) as archive:
            held = {key.lower(): archive[key] for key in archive.files}
    except UserError:
        raise
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise UserError(
                f"{path} holds object arrays, which were saved for allow_pickle=True. Reading them can run "
                "any code in the file. If you made it yourself or trust who did: dataset.trust_pickle=true. "
                "Then it is read once, and stored in a form that needs no trust."
            ) from error
        raise UserError(f"{path} can't be read ({error})") from error
    except Exception as error:  # a damaged archive, or a pickle in it, raises anything
        raise UserError(f"{path} is damaged or no .npz file ({error})") from error
    images = _find(path, held, "images")
    if images is None:
        raise UserError(f"{path} holds {', '.join(held) or 'nothing'}, but no {' or '.join(KEYS['images'])}")
    labels = _find(path, held, "labels", len(images))
    if labels is None and split != "train":
        raise UserError(
            f"{path} holds no {' or '.join(KEYS['labels'])}: {split} needs to say what is an anomaly "
            "(0 normal, 1 anomaly)"
        )
    masks, names = _find(path, held, "masks", len(images)), _find(path, held, "names", len(images))
    samples = []
    for row in range(len(images)):
        title = f"{path.name}[{row}]"
        try:
            label = 0 if labels is None else _label(labels[row], title)
            mask = None if masks is None or not label else _mask(masks[row], title)
            samples.append(
                ArraySample(
                    as_pixels(np.asarray(images[row]), title),
                    label,
                    title if names is None else str(names[row]),
                    mask,
                )
            )
        except UserError as error:
            problems.note(f"{path.parent / str(error)}")
    return samples


def _find(
    path: Path, held: Mapping[str, NDArray[Any]], what: str, count: int | None = None
) -> NDArray[Any] | None:
    array = next((held[key] for key in KEYS[what] if key in held), None)
    if array is not None and (array.ndim < 1 or (count is not None and len(array) != count)):
        raise UserError(f"{path}: {what} must be one an image, but are {array.shape} for {count} images")
    return array


def _label(value: Any, title: str) -> int:
    label = np.asarray(value).squeeze()
    if label.ndim or label.dtype.kind not in "iubf" or label not in (0, 1):
        raise UserError(f"{title}: the label {value} is neither 0 (normal) nor 1 (anomaly)")
    return int(label)


def _mask(value: Any, title: str) -> NDArray[np.bool_]:
    mask = np.asarray(value).squeeze()
    if mask.ndim != 2 or mask.dtype.kind not in "biuf":
        raise UserError(f"{title}: its mask is {mask.shape} {mask.dtype}: expected numbers (H, W)")
    return mask > 0


def as_pixels(image: NDArray[Any], title: str) -> NDArray[np.uint8]:
    """An image as ``(H, W)`` or ``(H, W, 3)`` uint8, from either order of channels."""
    if image.dtype.kind not in "biuf":
        raise UserError(f"{title} is {image.dtype}: expected numbers")
    if image.ndim == 3 and image.shape[0] in (1, 3) and image.shape[2] not in (1, 3):
        image = image.transpose(1, 2, 0)
    if image.ndim == 3 and image.shape[2] == 1:
        image = image[:, :, 0]
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or not image.size:
        raise UserError(f"{title} is {image.shape}: expected (H, W), (H, W, C) or (C, H, W) with C 1 or 3")
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    if image.dtype == np.bool_:
        return np.ascontiguousarray(image * np.uint8(255))
    if image.dtype.kind == "f" and np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1:
        return np.ascontiguousarray(np.rint(image * 255).astype(np.uint8))
    if image.dtype.kind in "iu" and image.min() >= 0 and image.max() <= 255:
        return np.ascontiguousarray(image.astype(np.uint8))
    raise UserError(
        f"{title} is {image.dtype} from {image.min()} to {image.max()}: expected whole numbers from 0 to "
        "255, or floats from 0 to 1"
    )
