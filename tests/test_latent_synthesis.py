"""Anomalies made of latents: where they are, of what they are made, and how often."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import SEEDS, SHAPES, noise, seeded
from torch import Tensor

from detectors.synthetic.latent import KINDS, LARGEST_SHARE, LatentSynthesis
from detectors.tokens import as_tokens, grid_of
from latent_common.errors import UserError


@settings(max_examples=60)
@given(SHAPES, st.sampled_from([*KINDS, None]), st.integers(1, 9), SEEDS)
def test_latents_change_in_their_masks_alone(
    shape: tuple[int, ...], kind: str | None, batch: int, seed: int
) -> None:
    latents = noise(batch, shape, seed)
    kept = latents.clone()
    synthesis = LatentSynthesis({kind: 1.0} if kind else dict.fromkeys(KINDS, 1.0))
    if grid_of(shape) == (1, 1) and kind not in ("noise", "shift"):  # there is nowhere to take tokens from
        with pytest.raises(UserError, match="several tokens"):
            synthesis(latents, seeded(seed))
        return
    made = synthesis(latents, seeded(seed))
    assert torch.equal(latents, kept)
    assert made.images.shape == latents.shape
    assert made.masks.shape == (batch, 1, *grid_of(shape))
    assert set(made.masks.unique().tolist()) <= {0.0, 1.0}
    assert (made.masks.sum((1, 2, 3)) >= 1).all()
    inside = made.masks.flatten(1) == 1
    same = (as_tokens(made.images) == as_tokens(latents)).all(2)
    assert same[~inside].all()
    if kind in ("noise", "shift"):
        assert not same[inside].any()
    again = synthesis(latents, seeded(seed))
    assert torch.equal(made.images, again.images)
    assert torch.equal(made.masks, again.masks)


@settings(max_examples=30)
@given(st.integers(1, 40), st.integers(1, 40), SEEDS)
def test_no_region_is_larger_than_a_quarter(rows: int, columns: int, seed: int) -> None:
    masks = LatentSynthesis({"noise": 1.0})(torch.zeros(20, 1, rows, columns), seeded(seed)).masks
    area = max(LARGEST_SHARE * rows * columns, 1)
    # An ellipse at most three times as long as wide holds no more points of a grid than this, wherever
    # it lies: its area, half its outline and one.
    outline = 2 * math.pi * math.sqrt(area / math.pi * (3 + 1 / 3) / 2)
    assert masks.sum((1, 2, 3)).max() <= area + outline / 2 + 1


def test_regions_are_of_every_size_and_everywhere() -> None:
    masks = LatentSynthesis({"noise": 1.0})(torch.zeros(1000, 1, 20, 20), seeded()).masks[:, 0]
    assert (masks.sum(0) > 0).all()
    sizes = masks.sum((1, 2))
    assert (sizes <= 2).sum() > 50
    assert (sizes > 60).sum() > 50
    tall = masks.amax(2).sum(1) / masks.amax(1).sum(1)
    assert tall.min() < 0.5
    assert tall.max() > 2


def test_other_seeds_make_other_anomalies() -> None:
    latents, synthesis = noise(20), LatentSynthesis(dict.fromkeys(KINDS, 1.0))
    before = torch.get_rng_state()
    first, other = synthesis(latents, seeded(1)), synthesis(latents, seeded(2))
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.masks, other.masks)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_shift_is_the_same_for_all_tokens_and_noise_is_not() -> None:
    latents = noise(30, (6, 9, 9))
    for kind, alike in (("shift", True), ("noise", False)):
        made = LatentSynthesis({kind: 1.0})(latents, seeded())
        change, inside = as_tokens(made.images - latents), made.masks.flatten(1) == 1
        large = [number for number in range(30) if inside[number].sum() > 1]
        for number in large:
            changes = change[number, inside[number]]
            assert torch.allclose(changes, changes[:1].expand_as(changes), atol=1e-5) == alike
        assert len(large) > 10


def coded(count: int, rows: int = 6, columns: int = 7) -> Tensor:
    """Latents whose tokens say in channel 0 which image they are of, and in channel 1 where they were."""
    image = torch.arange(count).float()[:, None, None].expand(count, rows, columns)
    place = torch.arange(rows * columns).float().view(1, rows, columns).expand(count, rows, columns)
    return torch.stack([image, place], 1)


def test_a_transplant_is_of_one_other_image_and_place() -> None:
    latents = coded(40)
    made = LatentSynthesis({"transplant": 1.0})(latents, seeded())
    inside = made.masks.flatten(1) == 1
    tokens, places = as_tokens(made.images), torch.arange(42)
    moves = set()
    for number in range(40):
        image, place = tokens[number, inside[number]].unbind(1)
        assert len(image.unique()) == 1
        assert image[0] != number
        moved = (place - places[inside[number]]) % 42
        assert len(moved.unique()) == 1
        moves.add((int(image[0] - number) % 40, int(moved[0])))
    assert len(moves) > 30
    of_two = LatentSynthesis({"transplant": 1.0})(coded(2), seeded())
    for number in range(2):
        assert (of_two.images[number, 0, of_two.masks[number, 0] == 1] == 1 - number).all()


def test_a_shuffle_is_of_the_images_own_tokens() -> None:
    latents = coded(20)
    made = LatentSynthesis({"shuffle": 1.0})(latents, seeded())
    assert torch.equal(made.images[:, 0], latents[:, 0])
    moved = made.images[:, 1] != latents[:, 1]
    assert moved.sum() > 0.9 * made.masks.sum()
    for number in range(20):
        places = as_tokens(made.images)[number, made.masks[number].flatten() == 1, 1]
        assert len(places.unique()) == len(places)
    constant = torch.arange(20.0).view(20, 1, 1, 1).expand(20, 2, 6, 7)
    assert torch.equal(LatentSynthesis({"shuffle": 1.0})(constant, seeded()).images, constant)


def test_a_single_latent_can_be_spoilt_in_every_way() -> None:
    for kind in KINDS:
        made = LatentSynthesis({kind: 1.0})(noise(1), seeded())
        assert made.images.isfinite().all()
        assert made.masks.sum() >= 1


def test_weights_say_how_often() -> None:
    # A shuffle leaves constant latents as they are, a shift doesn't.
    latents = torch.zeros(1000, 2, 4, 4)
    for weights, share in (
        ({"shift": 3.0, "shuffle": 1.0}, 0.75),
        ({"shift": 0.0, "shuffle": 2.0, "noise": 0.0}, 0.0),
        ({"shift": 0.5, "shuffle": 0.0}, 1.0),
    ):
        made = LatentSynthesis(weights)(latents, seeded())
        changed = (made.images != 0).flatten(1).any(1).float().mean()
        assert float(changed) == pytest.approx(share, abs=0.06 if 0 < share < 1 else 0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"noise": 1.0, "cutpaste": 1.0}, r"unknown latent synthesis \['cutpaste'\]: choose among .*shuffle"),
        ({"noise": -1.0, "shift": 2.0}, "must be finite and not negative"),
        ({"noise": 0.0, "shift": 0.0}, "at least one above 0"),
        ({"noise": float("nan")}, "must be finite"),
        ({"noise": float("inf"), "shift": 1.0}, "must be finite"),
        ({}, "at least one above 0"),
    ],
)
def test_impossible_weights_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        LatentSynthesis(weights)
