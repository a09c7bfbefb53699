"""How samples are compared with labelled anomalies: by a detector's features, and by descriptors."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_latents import seeded
from torch import Tensor

from detectors.blocks.last_layer import LastLayerInput
from detectors.transformer import TransformerDetector
from latent_env.rewards.anomaly_similarity import (
    AnomalyDescriptor,
    AnomalySimilarity,
    anomaly_descriptor,
    closeness,
)

SEEDS = st.integers(0, 2**31)
COUNT = 8


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.double)


def marked(count: int, top: int, left: int, height: int, width: int, side: int = 8) -> Tensor:
    marks = torch.zeros(count, 1, side, side, dtype=torch.bool)
    marks[:, :, top : top + height, left : left + width] = True
    return marks


# --- descriptors of anomalies ---


@settings(max_examples=50, deadline=None)
@given(SEEDS, st.integers(0, 5), st.integers(0, 5), st.integers(1, 3), st.integers(1, 3))
def test_a_descriptor_is_that_of_the_marked_tokens(
    seed: int, top: int, left: int, high: int, wide: int
) -> None:
    latents, marks = noise(2, 3, 8, 8, seed=seed), marked(2, top, left, high, wide)
    found = anomaly_descriptor(latents, marks)
    inside = latents[:, :, top : top + high, left : left + wide].flatten(2)
    assert torch.allclose(found.inside[:, :3], inside.mean(2))
    assert torch.allclose(found.inside[:, 3:], inside.std(2, correction=0).clamp_min(1e-3), atol=1e-6)
    rows, columns = torch.linspace(-1, 1, 8)[top : top + high], torch.linspace(-1, 1, 8)[left : left + wide]
    middle = torch.stack([rows.mean(), columns.mean(), torch.tensor(float(high * wide)).log()])
    assert torch.allclose(found.position.float(), middle.expand(2, 3), atol=1e-5)
    far = (torch.arange(8) - (top + (high - 1) / 2)).abs() > 2 + high / 2  # rows beyond its surroundings
    assert torch.equal(
        anomaly_descriptor(torch.where(far[:, None], 9.0, latents), marks).contrast, found.contrast
    )
    assert torch.allclose(anomaly_descriptor(latents + 5, marks).contrast, found.contrast)


def test_what_is_brighter_than_around_it_contrasts() -> None:
    marks = marked(1, 2, 3, 3, 3)
    assert torch.allclose(
        anomaly_descriptor(marks.double() * 2, marks).contrast, torch.tensor([[2.0]], dtype=torch.double)
    )
    assert float(anomaly_descriptor(torch.ones(1, 1, 8, 8), marks).contrast.abs().max()) < 1e-6


@pytest.mark.parametrize("side", [1, 8])
@pytest.mark.parametrize("all_marked", [False, True])
def test_nothing_and_everything_have_finite_descriptors(all_marked: bool, side: int) -> None:
    latents = noise(2, 3, side, side, seed=0)
    found = anomaly_descriptor(latents, torch.full((2, 1, side, side), all_marked))
    assert all(part.isfinite().all() for part in found)
    assert torch.allclose(found.inside[:, :3], latents.mean((2, 3)) * all_marked)


# --- labelled anomalies, and samples beside them ---


class Scene(NamedTuple):
    """A detector, what it reads of images, which of these are anomalies, and how these look."""

    detector: Any
    layer_input: LastLayerInput
    anomalous: Tensor
    descriptors: AnomalyDescriptor


@functools.cache
def make_scene() -> Scene:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = TransformerDetector(1, 16, width=16, depth=1, heads=2).double().eval()
        torch.nn.init.normal_(detector.out.weight, std=0.3)
    images = torch.rand(COUNT, 1, 16, 16, generator=seeded(5), dtype=torch.double)
    anomalous = torch.arange(COUNT) % 2 == 1
    images[anomalous] += 0.5
    with torch.no_grad():
        layer_input = detector.last_layer_input(images, 0.8 * images)
    corners = torch.cat([marked(1, number, number + 1, 2, 1 + number % 3) for number in range(4)])
    return Scene(detector, layer_input, anomalous, anomaly_descriptor(noise(4, 4, 8, 8, seed=1), corners))


def of(layer_input: LastLayerInput, chosen: Tensor) -> LastLayerInput:
    return LastLayerInput(*(part[chosen] for part in layer_input))


@pytest.mark.parametrize("with_descriptors", [False, True])
def test_labelled_anomalies_are_similar_to_themselves(with_descriptors: bool) -> None:
    detector, layer_input, anomalous, descriptors = make_scene()
    known = AnomalySimilarity(detector, layer_input, anomalous, descriptors if with_descriptors else None)
    own = known.embed(of(layer_input, anomalous), descriptors)
    assert torch.allclose(own, known.anomalies)
    assert torch.allclose(closeness(own, own).diagonal(), torch.ones(4, dtype=torch.double))
    density = known.density(own)
    assert ((density >= 1 / 4) & (density <= 1)).all()  # each lies where one of four does
    if not with_descriptors:
        everywhere = known.density(known.embed(layer_input))
        assert ((everywhere > 0) & (everywhere <= 1)).all()
    strange = LastLayerInput(1000 + layer_input.features, layer_input.offset)
    assert float(known.density(known.embed(of(strange, anomalous), descriptors)).max()) < 1e-6


def test_another_descriptor_is_far_whatever_the_detectors_features() -> None:
    detector, layer_input, anomalous, descriptors = make_scene()
    same = of(layer_input, anomalous)
    blind = AnomalySimilarity(detector, layer_input, anomalous)
    known = AnomalySimilarity(detector, layer_input, anomalous, descriptors)
    for part in AnomalyDescriptor._fields:
        other = descriptors._replace(**{part: getattr(descriptors, part) + 100})
        assert float(known.density(known.embed(same, other)).max()) < 1e-6
        assert torch.equal(blind.embed(same, other), blind.embed(same))
    assert blind.density(blind.embed(same)).min() >= known.density(known.embed(same, descriptors)).max() / 3


def test_every_part_weighs_the_same() -> None:
    detector, layer_input, anomalous, descriptors = make_scene()
    known = AnomalySimilarity(detector, layer_input, anomalous, descriptors)
    sizes = [len(unit) for unit in known.units]
    assert sizes[1:] == [8, 4, 3]
    for part in known.anomalies.split(sizes, 1)[1:]:
        assert float(torch.pdist(part).median()) == pytest.approx(1.0)
    larger = descriptors._replace(contrast=1000 * descriptors.contrast)  # in other units all is as it was
    again = AnomalySimilarity(detector, layer_input, anomalous, larger)
    assert torch.allclose(again.anomalies, known.anomalies)


def test_what_all_labelled_anomalies_share_tells_nothing_apart() -> None:
    detector, layer_input, anomalous, descriptors = make_scene()
    similar = AnomalyDescriptor(*(part[:1].expand_as(part) for part in descriptors))
    known = AnomalySimilarity(detector, layer_input, anomalous, similar)
    blind = AnomalySimilarity(detector, layer_input, anomalous)
    same = of(layer_input, anomalous)
    found = known.density(known.embed(same, descriptors))
    assert torch.allclose(found, blind.density(blind.embed(same)))
    one = torch.arange(COUNT) == 3
    alone = AnomalySimilarity(
        detector, layer_input, one, AnomalyDescriptor(*(part[:1] for part in descriptors))
    )
    assert not alone.descriptors  # from one it is unknown how much others differ
    assert float(alone.density(alone.anomalies)) == pytest.approx(1.0)
    assert int(alone.density(alone.embed(layer_input)).argmax()) == 3
