"""Tiny pretrained networks that nobody trained: random weights, saved as transformers saves them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import (
    BertConfig,
    BertModel,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    MobileNetV1Config,
    MobileNetV1Model,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
)

SIZE = 64
"""The side in pixels of the images that these encode."""

PATCH, REGISTERS = 8, 3
"""Of the transformers."""


def _saved(kind: type[PreTrainedModel], config: Any, folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = kind(config)
        # As if it had been trained: without such statistics, deep maps would be the same for every image.
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None
        if not isinstance(network, BertModel):
            with torch.no_grad():
                network.train()(pixel_values=torch.randn(8, 3, SIZE, SIZE))
    network.train(False).save_pretrained(folder)
    return folder


def mobilenet(folder: Path) -> Path:
    """MobileNetV1 of a quarter of the usual width and 23 layers."""
    config = MobileNetV1Config(depth_multiplier=0.25, image_size=SIZE)
    return _saved(MobileNetV1Model, config, folder)


def resnet(folder: Path) -> Path:
    """A ResNet of four blocks, which halve the image five times."""
    sizes: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    config = ResNetConfig(**sizes, layer_type="basic")
    return _saved(ResNetModel, config, folder)


def _dino(**more: Any) -> dict[str, Any]:
    shape = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "mlp_ratio": 2}
    return {**shape, "patch_size": PATCH, "image_size": SIZE, "initializer_range": 0.3, **more}


def dino(folder: Path) -> Path:
    """DINOv2: a class token, then the patches."""
    return _saved(Dinov2Model, Dinov2Config(**_dino()), folder)


def dino_with_registers(folder: Path) -> Path:
    """DINOv2: a class token, some registers, then the patches."""
    config = Dinov2WithRegistersConfig(**_dino(num_register_tokens=REGISTERS))
    return _saved(Dinov2WithRegistersModel, config, folder)


def bert(folder: Path) -> Path:
    """A network that reads text and takes no images."""
    config = BertConfig(
        vocab_size=50, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64
    )
    return _saved(BertModel, config, folder)
