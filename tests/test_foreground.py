"""Where the object is in normal images, and how actions lead to places on it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latent_env.data import make_phantom_dataset
from latent_env.perturbations.places import Places
from latent_env.worlds.foreground import object_masks


def discs(count: int, size: int = 64, channels: int = 1, noise: float = 0.0) -> tuple[Tensor, Tensor]:
    """Textured discs in front of a plain background: images uint8 and masks ``(N, 1, H, W)`` bool."""
    generator = torch.Generator().manual_seed(0)
    place = torch.arange(size).float()
    centre = size * (0.4 + 0.2 * torch.rand(count, 2, generator=generator))
    down, right = place[None, :, None] - centre[:, :1, None], place[None, None] - centre[:, 1:, None]
    inside = (down.square() + right.square()).sqrt() < size / 4
    texture = 0.5 + 0.4 * torch.rand(count, channels, size, size, generator=generator)
    plain = 0.1 + noise * torch.rand(count, channels, size, size, generator=generator)
    images = torch.where(inside[:, None], texture, plain)
    return (images * 255).to(torch.uint8), inside[:, None]


def overlap(found: Tensor, expected: Tensor) -> float:
    """The smallest intersection over union of ``(N, 1, H, W)`` bool."""
    return float(((found & expected).sum((1, 2, 3)) / (found | expected).sum((1, 2, 3))).min())


@pytest.mark.parametrize(("size", "channels", "noise"), [(64, 1, 0.0), (64, 3, 0.05), (256, 1, 0.05)])
def test_an_object_in_front_of_a_plain_background_is_found(size: int, channels: int, noise: float) -> None:
    images, expected = discs(6, size, channels, noise)
    found = object_masks(images)
    assert found is not None
    assert found.shape == expected.shape
    assert overlap(found, expected) > 0.93


def test_the_phantom_has_a_body() -> None:
    images = torch.from_numpy(make_phantom_dataset(64, 30, 16, 16).train.images[:20])
    found = object_masks(images)
    assert found is not None
    assert 0.4 < float(found.float().mean()) < 0.7
    assert found[:, 0, 32, 32].all()
    assert not found[:, 0, 0].any()
    assert not (images * ~found > 40).any()


def test_textures_and_empty_images_have_no_object() -> None:
    generator = torch.Generator().manual_seed(0)
    texture = torch.randint(0, 256, (6, 1, 64, 64), generator=generator, dtype=torch.uint8)
    faint = torch.randint(120, 136, (6, 1, 64, 64), generator=generator, dtype=torch.uint8)
    slope = torch.linspace(0, 255, 64).expand(6, 1, 64, 64).to(torch.uint8)
    for images in (texture, faint, slope, torch.zeros_like(texture)):
        assert object_masks(images) is None


def test_an_odd_image_among_many_gets_what_is_usual() -> None:
    images, _ = discs(10)
    images[3] = torch.randint(0, 256, images[3].shape, dtype=torch.uint8)
    found = object_masks(images)
    assert found is not None
    usual = found.float().mean(0) > 0.6
    assert overlap(found[3:4], usual[None]) > 0.8
    images[:5] = images[3]
    assert object_masks(images) is None


@settings(max_examples=30)
@given(data=st.data())
def test_every_action_leads_to_a_place_on_the_object(data: st.DataObject) -> None:
    seed = data.draw(st.integers(0, 1000))
    allowed = torch.rand(3, 1, 9, 11, generator=torch.Generator().manual_seed(seed)) > 0.7
    allowed[:, 0, 4, 5] = True
    places = Places(allowed)
    numbers = torch.tensor(data.draw(st.lists(st.tuples(*[st.floats(-1, 1)] * 2), min_size=3, max_size=3)))
    sources = torch.tensor([2, 0, 1])
    row, column = places.chosen(sources, numbers).round().long().unbind(1)
    assert allowed[sources, 0, row, column].all()
    row, column = places.pulled_inside(sources, 20 * numbers).round().long().unbind(1)
    middle = places.centre(sources).round().long()
    assert (allowed[sources, 0, row, column] | ((row == middle[:, 0]) & (column == middle[:, 1]))).all()


def test_all_places_are_reached_about_as_often() -> None:
    _, inside = discs(1, 16)
    places, grid = Places(inside), (torch.arange(200) + 0.5) / 100 - 1
    numbers = torch.cartesian_prod(grid, grid)
    row, column = (
        places.chosen(torch.zeros(len(numbers), dtype=torch.int64), numbers).round().long().unbind(1)
    )
    counts = torch.zeros(16, 16).index_put((row, column), torch.ones(len(row)), accumulate=True)
    assert torch.equal(counts > 0, inside[0, 0])
    expected = len(numbers) / int(inside.sum())
    assert float((counts[inside[0, 0]] / expected - 1).abs().max()) < 0.3


def test_actions_go_from_end_to_end_where_all_is_allowed() -> None:
    places = Places(torch.ones(1, 1, 8, 12, dtype=torch.bool))
    ends = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    found = places.chosen(torch.arange(3), ends)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.0], [7.0, 11.0], [3.5, 5.5]]), atol=0.51, rtol=0)
    assert torch.equal(places.centre(torch.tensor([2])), torch.tensor([[3.5, 5.5]]))
