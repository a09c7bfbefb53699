"""Backbones compute the hidden states that are asked for, and no others, in few operations."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import tiny_backbones
import torch
from torch import Tensor, nn

from latent_env.autoencoders.backbone import Backbone, load_backbone

SIZE = tiny_backbones.SIZE
KINDS = {"mobilenet": [1, 5], "resnet": [1, 3], "dino": [1, 2]}
"""Some layers of each, which aren't the last ones."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def backbone(kind: str, tmp_path: Path) -> Backbone:
    folder = getattr(tiny_backbones, kind)(tmp_path / kind)
    return load_backbone(str(folder), SIZE, KINDS[kind], None)


def pictures(count: int = 3) -> Tensor:
    return torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(7))


def whole(backbone: Backbone) -> Backbone:
    """A copy of ``backbone`` that computes with the network as it is stored."""
    return deepcopy(backbone).use_whole_network()


def used(backbone: Backbone) -> nn.Module:
    backbone(pictures(1))
    return backbone._lean[0]


def test_features_are_the_same_but_for_rounding(backbone: Backbone) -> None:
    assert torch.allclose(backbone(pictures()), whole(backbone)(pictures()), atol=1e-5)


def test_layers_that_no_one_asks_for_are_not_computed(backbone: Backbone) -> None:
    counts = [sum(1 for _ in network.parameters()) for network in (used(backbone), backbone.network)]
    assert counts[0] < counts[1]
    assert not any(isinstance(module, nn.BatchNorm2d) for module in used(backbone).modules())


def test_what_is_stored_is_the_network_as_it_was(backbone: Backbone) -> None:
    before, digest = {k: v.clone() for k, v in backbone.state_dict().items()}, backbone.digest()
    used(backbone)
    after = backbone.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert backbone.digest() == digest


def test_weights_that_stay_as_they_are_take_no_more_memory(backbone: Backbone) -> None:
    stored = {parameter.data_ptr() for parameter in backbone.network.parameters()}
    folded = {
        parameter.data_ptr()
        for module in used(backbone).modules()
        if isinstance(module, nn.Conv2d)
        for parameter in module.parameters()
    }
    others = {parameter.data_ptr() for parameter in used(backbone).parameters()} - folded
    assert others <= stored


def test_other_weights_give_other_features(backbone: Backbone) -> None:
    used(backbone)
    other = {k: v + 0.1 * v.abs() if v.is_floating_point() else v for k, v in backbone.state_dict().items()}
    holder = nn.ModuleList([backbone])  # as a part of an autoencoder that is read from a file
    before = backbone(pictures())
    holder.load_state_dict({f"0.{name}": value for name, value in other.items()})
    assert not torch.allclose(backbone(pictures()), before, atol=1e-3)
    assert torch.allclose(backbone(pictures()), whole(backbone)(pictures()), atol=1e-5)


def test_of_another_type_it_computes_with_that_type(backbone: Backbone) -> None:
    features = backbone(pictures())
    assert torch.allclose(backbone.double()(pictures().double()).float(), features, atol=1e-4)


def test_gradients_flow_through_it_even_if_it_was_first_used_without(backbone: Backbone) -> None:
    with torch.inference_mode():
        used(backbone)
    found = []
    for each in (backbone, whole(backbone)):
        images = pictures().requires_grad_()
        each(images).square().mul(torch.arange(each.grid)).sum().backward()
        assert images.grad is not None
        found.append(images.grad)
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()  # a unit near zero may be on either side


def test_it_is_the_same_network_if_it_is_made_where_numbers_are_rounded(backbone: Backbone) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert used(backbone) is not backbone.network
    assert torch.allclose(backbone(pictures()), whole(backbone)(pictures()), atol=1e-5)


@pytest.mark.parametrize("kind", ["mobilenet"], indirect=True)
def test_a_network_that_would_change_is_left_alone(backbone: Backbone) -> None:
    class Doubling(nn.BatchNorm2d):
        def forward(self, values: Tensor) -> Tensor:
            return 2 * super().forward(values)

    for module in backbone.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.__class__ = Doubling
    features = backbone(pictures(2))
    assert torch.equal(features, whole(backbone)(pictures(2)))
    assert used(backbone) is backbone.network
