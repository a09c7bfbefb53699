"""Poisson blending: against a direct solver, and without seams."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.sparse.linalg import spsolve
from torch import Tensor
from torch.nn import functional

from latent_env.perturbations.membrane import fill_smoothly, seamless

SIZE = 48


def holes(size: int = SIZE) -> Tensor:
    """A disc, a thin bar from border to border, a ring, and a corner: ``(4, 1, H, W)`` bool."""
    place = (torch.arange(size) + 0.5) / size - 0.5
    row, column = torch.meshgrid(place, place, indexing="ij")
    distance = (row.square() + column.square()).sqrt()
    shapes = [
        distance < 0.3,
        row.abs() < 0.03,
        (distance < 0.4) & (distance > 0.2),
        (row < 0) & (column < 0.1),
    ]
    return torch.stack(shapes)[:, None]


def pictures(size: int = SIZE) -> Tensor:
    """Noise, coarse and fine, ``(4, 1, H, W)``."""
    generator = torch.Generator().manual_seed(0)
    coarse = functional.interpolate(
        torch.rand(4, 1, 6, 6, generator=generator), (size, size), mode="bilinear"
    )
    return coarse + 0.2 * torch.rand(4, 1, size, size, generator=generator)


def solved(values: npt.NDArray[np.float64], hole: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """``values (H, W)`` with the hole filled by a direct solver: every pixel is its neighbours' mean."""
    number = np.full(hole.shape, -1)
    number[hole] = np.arange(hole.sum())
    matrix = sparse.lil_matrix((hole.sum(), hole.sum()))
    right = np.zeros(hole.sum())
    for row, column in np.argwhere(hole):
        own = number[row, column]
        for there in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if not (0 <= there[0] < hole.shape[0] and 0 <= there[1] < hole.shape[1]):
                continue
            matrix[own, own] += 1
            if hole[there]:
                matrix[own, number[there]] -= 1
            else:
                right[own] += values[there]
    filled = values.copy()
    filled[hole] = spsolve(matrix.tocsr(), right)
    return filled


@pytest.mark.parametrize("number", range(4))
def test_holes_are_filled_as_a_direct_solver_fills_them(number: int) -> None:
    values, hole = pictures()[number : number + 1], holes()[number : number + 1]
    expected = solved(values[0, 0].double().numpy(), hole[0, 0].numpy())
    found = fill_smoothly(values, hole)
    error = np.abs(found[0, 0].numpy() - expected)
    assert error.max() < 0.04 * float(values.max() - values.min())
    assert torch.equal(found[~hole], values[~hole])


def test_a_batch_is_filled_as_single_images_are() -> None:
    values, hole = pictures().expand(-1, 3, -1, -1), holes()
    together = fill_smoothly(values, hole)
    for number in range(4):
        alone = fill_smoothly(values[number : number + 1], hole[number : number + 1])
        torch.testing.assert_close(together[number], alone[0], atol=1e-5, rtol=0)


@settings(max_examples=20)
@given(slope=st.tuples(*[st.floats(-1, 1)] * 3), size=st.sampled_from([16, 24, 48]))
def test_a_slope_vanishes_and_detail_stays(slope: tuple[float, float, float], size: int) -> None:
    place = torch.linspace(-1, 1, size)
    plane = slope[0] + slope[1] * place[:, None] + slope[2] * place[None]
    disc = holes(size)[:1]
    detail = torch.zeros(1, 1, size, size)
    detail[0, 0, size // 2, size // 2] = 1.0
    left = seamless(detail + plane, disc)
    scale = 1e-3 + 0.02 * sum(map(abs, slope))
    torch.testing.assert_close(left, detail, atol=scale, rtol=0)


def test_no_seam_is_left_at_the_boundary() -> None:
    """What was 0.5 brighter than its surroundings meets them without a step; its texture is still there."""
    region = holes()[:1]
    texture = 0.1 * pictures()[:1]
    change = seamless(texture + 0.5, region)
    inside = functional.max_pool2d((~region).float(), 3, 1, 1).bool() & region
    assert float(change[inside].abs().max()) < 0.05
    assert not change[~region].any()
    assert float(change[region].std()) == pytest.approx(float(texture[region].std()), rel=0.5)


def test_without_anything_around_it_a_hole_changes_nothing() -> None:
    change = pictures()
    everywhere = torch.ones_like(change, dtype=torch.bool)
    torch.testing.assert_close(seamless(change, everywhere), change)
    assert not seamless(change, ~everywhere).any()
