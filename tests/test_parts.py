"""The largest connected part of a mask."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from latent_env.prediction.parts import largest_part


@pytest.mark.parametrize("smooth", [0, 1, 2])
def test_it_is_the_one_that_scipy_finds(smooth: int) -> None:
    random = np.random.default_rng(smooth)
    for _ in range(100):
        height, width = random.integers(1, 30, 2)
        mask = ndimage.gaussian_filter(random.normal(size=(height, width)), smooth) > 0.2 * random.normal()
        found = largest_part(mask)
        if not mask.any():
            assert found is None
            continue
        parts, _ = ndimage.label(mask)
        sizes = np.bincount(parts[mask])
        assert found is not None
        assert found.area == sizes.max()
        assert (found.rows, found.columns) == ndimage.find_objects(parts)[int(sizes.argmax()) - 1]


def test_a_spiral_is_one_part() -> None:
    mask = np.zeros((41, 41), bool)
    row, column, length = 20, 20, 2
    for turn in range(36):
        for _ in range(length):
            mask[row, column] = True
            row += (0, 1, 0, -1)[turn % 4]
            column += (1, 0, -1, 0)[turn % 4]
        length += 2 * (turn % 2)
    found = largest_part(mask)
    assert found is not None
    assert found.area == mask.sum()
