"""Pictures, and the window of render mode "human"."""

from __future__ import annotations

import os

import gymnasium as gym
import numpy as np
import pytest
import torch
from conftest import SCREEN, WORLDS

from latent_common.errors import UserError
from latent_env.rendering import (
    GAP,
    TILE,
    close_up,
    contact_sheet,
    heat,
    outlined,
    side_by_side,
    tile_side,
    to_rgb,
)


@pytest.mark.parametrize("world", WORLDS)
def test_five_tiles_at_a_size_one_can_see(world: str) -> None:
    env = gym.make("LatentAug-v0", artifacts=world, horizon=4, render_mode="rgb_array")
    env.reset(seed=0)
    start = env.render()
    env.action_space.seed(0)
    for _ in range(4):
        env.step(env.action_space.sample())
    moved = env.render()
    assert isinstance(start, np.ndarray)
    assert isinstance(moved, np.ndarray)
    assert start.dtype == np.uint8
    assert start.shape == moved.shape
    assert start.shape[1] == 5 * (TILE + GAP) + GAP

    def tile(picture: np.ndarray, index: int) -> np.ndarray:  # type: ignore[type-arg]
        left = GAP + index * (TILE + GAP)
        return picture[-TILE - GAP : -GAP, left : left + TILE]

    assert np.array_equal(tile(start, 0), tile(moved, 0))  # the original stays
    assert np.array_equal(tile(start, 0), tile(start, 2))  # nothing has been augmented yet
    assert not np.array_equal(tile(start, 2), tile(moved, 2))
    assert tile(start, 3).max() < tile(moved, 3).max()  # the difference lights up


def test_colours() -> None:
    colour = torch.zeros(3, 4, 4)
    colour[0] = 1
    assert to_rgb(colour)[0, 0].tolist() == [255, 0, 0]
    assert to_rgb(torch.full((1, 2, 2), 128, dtype=torch.uint8))[1, 1].tolist() == [128] * 3
    ramp = heat(torch.tensor([[0.0, 0.5, 1.0, 7.0]])).sum(2)[0]
    assert ramp[0] < ramp[1] < ramp[2] == ramp[3]


def test_large_images_get_large_tiles_and_photographs_are_enlarged_smoothly() -> None:
    assert [tile_side(size) for size in (8, 64, 128, 256, 512)] == [192, 192, 256, 256, 512]
    steps = torch.zeros(3, 64, 64)
    steps[:, :, 32:] = 1
    assert len(np.unique(side_by_side([to_rgb(steps)], [""])[-TILE:-GAP, GAP:-GAP])) > 2
    digit = torch.zeros(1, 8, 8)
    digit[:, :, 4:] = 1
    assert set(np.unique(side_by_side([to_rgb(digit)], [""])[-TILE:-GAP, GAP:-GAP])) == {0, 255}


def test_an_outline_hides_nothing_of_what_it_surrounds() -> None:
    picture = np.random.default_rng(0).integers(0, 200, (64, 64, 3)).astype(np.uint8)
    inside = np.zeros((64, 64), bool)
    inside[30:34, 20:40] = True
    drawn = outlined(picture, inside, 64)
    changed = (drawn != picture).any(2)
    assert changed.any()
    assert not changed[28:36, 18:42].any()  # it keeps away
    assert not changed[:24].any()  # but not far
    assert changed.sum() < 2 * (4 + 20 + 4 * 5)  # and is one pixel wide
    np.testing.assert_array_equal(outlined(picture, np.zeros_like(inside), 64), picture)


def test_a_close_up_shows_the_largest_part_within_the_picture() -> None:
    inside = np.zeros((64, 64), bool)
    assert inside[close_up(inside)].shape == (64, 64)
    inside[60:64, 0:20] = True
    inside[2, 2] = True  # a speck far away
    rows, columns = close_up(inside)
    assert (rows.stop, columns.start) == (64, 0)
    assert inside[rows, columns].shape == (32, 32)
    assert inside[rows, columns].sum() == 80


def test_contact_sheets_outline_the_mask() -> None:
    masks = torch.zeros(5, 1, 16, 16, dtype=torch.bool)
    masks[0, 0, 4:9, 4:9] = True
    sheet = contact_sheet(torch.zeros(5, 1, 16, 16), masks, ["a"] * 5, columns=3, tile=64)
    orange = (sheet == (255, 140, 0)).all(axis=2)
    assert orange.any()
    rows, columns = np.nonzero(orange)
    assert columns.max() < 64 + 2 * GAP  # only in the first tile
    assert rows.max() < 64 + 30


@pytest.mark.skipif(not SCREEN, reason="needs a screen")
def test_a_window_opens_where_there_is_a_screen() -> None:
    env = gym.make("LatentAug-v0", render_mode="human")
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert env.render() is None
    env.close()
    env.close()


@pytest.mark.skipif(SCREEN or os.name == "nt", reason="there is a screen")
def test_where_there_is_no_screen_it_says_so() -> None:
    env = gym.make("LatentAug-v0", render_mode="human")
    with pytest.raises(UserError, match=r"render_mode='human' needs .*rgb_array"):
        env.reset(seed=0)
