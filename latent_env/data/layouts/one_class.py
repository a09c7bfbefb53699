"""Classification data sets with one class as normal and all others as anomalies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latent_common.errors import UserError
from latent_env.data.samples import ArraySample, Source
from latent_env.data.splitting import Splitting, evenly_spaced_samples


@dataclass(frozen=True)
class Classified:
    """The images of an archive with their classes.

    :param images: ``(N, H, W)`` grey or ``(N, H, W, 3)`` RGB, uint8.
    :param classes: ``(N,)`` whole numbers from 0 to 9.
    """

    images: NDArray[np.uint8]
    classes: NDArray[np.integer]


def check_normal(
    normal: int | Sequence[int], example: str, what: str = "class", alone: bool = True
) -> list[int]:
    """The classes that count as normal, checked: one to nine different ones from 0 to 9.

    :param example: a valid setting, for the error.
    :param what: the word for a class in the error.
    :param alone: whether a single number is allowed instead of a list.
    """
    plural = "classes" if what == "class" else f"{what}s"
    hint = f"give one to nine different {plural} from 0 to 9, for example {example}"
    given: object = normal
    if alone and isinstance(normal, int | np.integer) and not isinstance(normal, bool):
        given = [normal]
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise UserError(f"normal={normal!r} names no {what}: {hint}.")
    for value in given:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= 9:
            raise UserError(f"normal={normal!r} holds {value!r}, which is no {what}: {hint}.")
    classes = [int(value) for value in given]
    if not classes:
        raise UserError(f"normal=[] names no {what}: {hint}.")
    if len(set(classes)) < len(classes):
        twice = next(value for value in classes if classes.count(value) > 1)
        raise UserError(f"normal={classes} names {twice} twice: {hint}.")
    if len(classes) == 10:
        raise UserError(f"normal={classes} leaves no {what} to be the anomaly: {hint}.")
    return classes


def one_class_source(
    name: str,
    train: Classified,
    test: Classified,
    normal: Sequence[int],
    splitting: Splitting,
    files: Sequence[Path],
    class_names: Sequence[str],
    border: int = 0,
) -> Source:
    """Split one against the rest; test is the archive's own.

    Of the archive's normal training images a share becomes valid, joined by as many anomalies, evenly
    from the other classes; the other anomalies of the archive's training images are not used.

    :param class_names: names of the classes, which become part of the images' names.
    :param border: black pixels to add on every side.
    """
    rng = np.random.default_rng(splitting.seed)
    rows = {digit: rng.permutation(np.flatnonzero(train.classes == digit)) for digit in range(10)}
    normals = rng.permutation(np.concatenate([rows[digit] for digit in normal]))
    count = min(max(round(splitting.valid_fraction * len(normals)), 1), len(normals) - 1)
    others = [digit for digit in range(10) if digit not in normal]
    each = -(-count // len(others))
    anomalies = np.concatenate([rows[digit][:each] for digit in others])

    def samples(split: str, held: Classified, chosen: NDArray[np.integer]) -> list[ArraySample]:
        found = [
            ArraySample(
                held.images[row],
                int(held.classes[row] not in normal),
                f"{split}/{class_names[held.classes[row]]}/{row:05d}",
                kind=class_names[held.classes[row]],
                border=border,
            )
            for row in np.sort(chosen)
        ]
        parts = ([s for s in found if s.label == label] for label in (0, 1))
        return [sample for part in parts for sample in evenly_spaced_samples(part, splitting.limit)]

    splits = {
        "train": samples("train", train, normals[count:]),
        "valid": samples("train", train, np.concatenate([normals[:count], anomalies])),
        "test": samples("test", test, np.arange(len(test.classes))),
    }
    remarks = splitting.count_labelled(splits)
    title = f"{name}_{'_'.join(map(str, normal))}"
    settings: dict[str, Any] = {"files": [str(path.resolve()) for path in files], "normal": list(normal)}
    settings |= {**splitting.settings(), "track": "official"}
    return Source(title, splits, files, settings, remarks=remarks)
