"""scikit-learn's bundled handwritten digits, some of them normal and the others anomalies."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from latent_env.data.dataset import Dataset, Split
from latent_env.data.layouts.one_class import check_normal

TRAIN_SHARE, VALID_SHARE = 0.6, 0.15


def load_digits_dataset(normal: Sequence[int], seed: int = 0) -> Dataset:
    """Load the 1797 digits of 8×8 pixels; no download, no pixel masks.

    Of the normal digits 60 % go to train, 15 % to valid and 25 % to test. Valid gets as many
    anomalies as normals, evenly from the other digits; test gets the rest.

    :param normal: the digits that count as normal, for example ``[3]`` or ``[0, 6, 8, 9]``.
    :param seed: which images go to which split.
    """
    chosen = check_normal(normal, "[3]", "digit", alone=False)
    bunch = load_digits()
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]  # (N, 1, 8, 8)
    digits = np.asarray(bunch.target)
    rng = np.random.default_rng(seed)

    normals = rng.permutation(np.flatnonzero(np.isin(digits, chosen)))
    first = round(TRAIN_SHARE * len(normals))
    second = first + round(VALID_SHARE * len(normals))
    classes = [rng.permutation(np.flatnonzero(digits == digit)) for digit in range(10) if digit not in chosen]
    wanted = -(-(second - first) // len(classes))
    # Of a small rest (nine normal digits leave one) test keeps at least half.
    each = [min(wanted, len(part) // 2) for part in classes]
    valid = np.concatenate([part[:n] for n, part in zip(each, classes, strict=True)])
    test = np.concatenate([part[n:] for n, part in zip(each, classes, strict=True)])

    def split(normal_rows: NDArray[np.int64], anomalous_rows: NDArray[np.int64]) -> Split:
        rows = np.concatenate([normal_rows, anomalous_rows])
        labels = (~np.isin(digits[rows], chosen)).astype(np.int64)
        names = tuple(f"digit {digits[row]}/{row:04d}" for row in rows)
        return Split(pixels[rows], labels, None, names)

    return Dataset(
        name="digits",
        train=split(normals[:first], normals[:0]),
        valid=split(normals[first:second], valid),
        test=split(normals[second:], test),
    )
