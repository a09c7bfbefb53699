"""Features of a backbone, against those of the same network with all its layers, as it was trained.

It has the architecture of MobileNet V1 and random weights: these don't change what an image costs.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from copy import deepcopy

import torch

from benchmarks.speed.steps import counted
from benchmarks.speed.timing import Rates, in_turns
from latent_common.errors import UserError
from latent_env.autoencoders.backbone import Backbone

OURS, WHOLE = "backbone", "the network as it was trained"

IMAGES = 32
"""So many at once."""


def make_backbone(size: int, device: str) -> Backbone:
    """A backbone for images of ``size`` pixels a side."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise UserError("--parts backbone needs transformers: `pip install '.[pretrained]'`") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = transformers.MobileNetV1Model(transformers.MobileNetV1Config())
    return Backbone(network, json.loads(network.config.to_json_string()), size).to(device)


def measure(size: int, device: str, repeats: int, seconds: float) -> Rates:
    """Images a second."""
    ours = make_backbone(size, device)
    whole = deepcopy(ours).use_whole_network()
    images = torch.rand(IMAGES, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)

    def encoding(backbone: Backbone) -> Callable[[], None]:
        @torch.inference_mode()
        def encode() -> None:
            backbone(images)

        return encode

    ways = {name: counted(IMAGES, encoding(each)) for name, each in {WHOLE: whole, OURS: ours}.items()}
    return in_turns(ways, repeats, seconds, f"backbone, {size} pixels")
