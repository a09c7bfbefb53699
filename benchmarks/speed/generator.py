"""A step in a world that a published generator draws and a backbone sees, against these networks alone.

Both have the architectures of published networks and random weights: these don't change what a step costs.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable

import torch

from benchmarks.speed.steps import RAW, TENSOR, counted
from benchmarks.speed.timing import Rates, in_turns
from detectors.base import FEATURES
from detectors.latent_transformer import LatentTransformerDetector
from latent_common.errors import UserError
from latent_env.autoencoders import FrozenAutoencoder, GenerativeAutoencoder
from latent_env.autoencoders.backbone import Backbone
from latent_env.autoencoders.generative.taesd import TaesdNetwork
from latent_env.autoencoders.pretrained import fit_encoder
from latent_env.chunks import worlds_at_once
from latent_env.dynamics import Dynamics
from latent_env.settings import Settings
from latent_env.worlds.world import World

LATENT_CHANNELS, WIDTH = 32, 64
"""Of TAEF2."""

COMPONENTS, STARTS = 64, 16


def make_world(size: int, device: str) -> World:
    """A world with the layers of TAEF2 and MobileNet V1 for colour images of ``size`` pixels a side."""
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        raise UserError("--parts generator needs transformers: `pip install '.[pretrained]'`") from error
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (STARTS, 3, size, size), dtype=torch.uint8, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawing = GenerativeAutoencoder(TaesdNetwork(LATENT_CHANNELS, WIDTH, pools=True), 3, size)
        seeing = transformers.MobileNetV1Model(transformers.MobileNetV1Config())
        backbone = Backbone(seeing, json.loads(seeing.config.to_json_string()), size)
        encoder, _ = fit_encoder(backbone, images, 3, COMPONENTS)
        detector = LatentTransformerDetector(encoder.latent_shape, STARTS, reads=FEATURES)
    frozen = FrozenAutoencoder(drawing).calibrate(images)
    detector.memory.fill(encoder.encode(images.float() / 255), torch.arange(STARTS))
    return World.build(
        frozen, detector.eval().requires_grad_(False), images, torch.device(device), backbone=encoder
    )


def networks(dynamics: Dynamics) -> Callable[[], None]:
    """What a step can't do without: the new latent is decoded, and the detector sees the image."""
    world, latent = dynamics.world, dynamics.last.latent.clone()
    some = worlds_at_once(world.autoencoder.size, world.device)

    @torch.inference_mode()
    def work() -> None:
        for part in latent.split(some):
            world.detect(world.autoencoder.decode(part))

    return work


def measure(num_worlds: int, size: int, device: str, repeats: int, seconds: float) -> Rates:
    """World steps a second of local strokes that the detector pays for, and of the networks alone."""
    settings = Settings(perturbation="local_edit", edits="strokes", reward={"boundary": 1.0}, horizon=1)
    dynamics = settings.dynamics(make_world(size, device), num_worlds)
    dynamics.reset_tensor(seeds=torch.arange(num_worlds, device=dynamics.world.device))
    generator = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(num_worlds, dynamics.perturbation.action_size, generator=generator) - 1
    actions = actions.to(dynamics.world.device)

    def step_tensor() -> None:
        dynamics.step_tensor(actions)
        dynamics.reset_tensor()

    ways = {RAW: networks(dynamics), TENSOR: step_tensor}
    counted_ways = {name: counted(num_worlds, work) for name, work in ways.items()}
    return in_turns(counted_ways, repeats, seconds, f"generator, {num_worlds} worlds")
