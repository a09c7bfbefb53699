"""TAESD and its relatives (TAESDXL, TAESD3, TAEF1, TAEF2): their layers, and their original weights.

The layers are told by the names of the weights, which begin with a layer's number, and by their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from latent_common.errors import UserError, first_line
from latent_env.autoencoders.generative.network import PublishedNetwork, round_to_half

PARTS = ("encoder", "decoder")
COMPRESSION = 8
LATENT_BOUND = 3.0
"""Decoders begin by bending latents into ±3."""

FIRST, LAST, FIRST_POOL = "0.weight", "14.weight", "11.pool.0.weight"
"""Tensors of the encoder by which its width, its latent channels and its pooling are known."""

WIDEST = 512
"""No published network of this family has more channels."""


class Clamp(nn.Module):
    """Latents, bent smoothly into ±3."""

    def forward(self, latents: Tensor) -> Tensor:
        """Latents of any shape to latents of the same shape."""
        return torch.tanh(latents / LATENT_BOUND) * LATENT_BOUND


class Block(nn.Module):
    """Three convolutions around which a shortcut leads.

    :param pools: whether statistics of the whole image are added first.
    """

    def __init__(self, width: int, pools: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(width, width), nn.ReLU(True), _conv(width, width), nn.ReLU(True), _conv(width, width)
        )
        if pools:
            wide = 4 * width
            inward, outward = nn.Conv2d(width, wide, 1, bias=False), nn.Conv2d(wide, width, 1, bias=False)
            self.pool = nn.Sequential(inward, nn.GroupNorm(4, wide), nn.ReLU(True), outward)
        self.pools = pools

    def forward(self, x: Tensor) -> Tensor:
        """Features ``(B, width, h, w)`` to features of the same shape."""
        if self.pools:
            x = x + self.pool(x)
        return torch.relu(self.conv(x) + x)


def _conv(before: int, after: int, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride, padding=1, bias=bias)


def _blocks(width: int, pools: bool = False) -> list[nn.Module]:
    return [Block(width, pools) for _ in range(3)]


def make_encoder(latent_channels: int, width: int, pools: bool) -> nn.Sequential:
    """Images ``(B, 3, H, W)`` to latents ``(B, latent_channels, H / 8, W / 8)``."""
    layers: list[nn.Module] = [_conv(3, width), Block(width, False)]
    for level in range(3):
        layers += [_conv(width, width, stride=2, bias=False), *_blocks(width, pools and level == 2)]
    return nn.Sequential(*layers, _conv(width, latent_channels))


def make_decoder(latent_channels: int, width: int, pools: bool) -> nn.Sequential:
    """Latents ``(B, latent_channels, h, w)`` to images ``(B, 3, 8 h, 8 w)``."""
    layers: list[nn.Module] = [Clamp(), _conv(latent_channels, width), nn.ReLU()]
    for level in range(3):
        layers += [*_blocks(width, pools and level == 0), nn.Upsample(scale_factor=2)]
        layers.append(_conv(width, width, bias=False))
    return nn.Sequential(*layers, Block(width, False), _conv(width, 3))


class TaesdNetwork(PublishedNetwork):
    """A network of this family.

    :param width: channels of all layers but the first and the last.
    :param pools: whether the blocks nearest to the latent know statistics of the whole image, as TAEF2's do.
    """

    def __init__(self, latent_channels: int, width: int, pools: bool) -> None:
        if not (0 < latent_channels <= WIDEST and 0 < width <= WIDEST):
            raise UserError(f"{latent_channels} latent channels and a width of {width} are no TAESD")
        super().__init__(latent_channels, COMPRESSION)
        self.width, self.pools = width, pools
        self.encoder = make_encoder(latent_channels, width, pools)
        self.decoder = make_decoder(latent_channels, width, pools)

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [0, 1] to raw latents ``(B, K, H / 8, W / 8)``."""
        latents: Tensor = self.encoder(images)
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents ``(B, K, h, w)`` to images ``(B, 3, 8 h, 8 w)``."""
        images: Tensor = self.decoder(latents)
        return images

    def decoding_part(self) -> nn.Module:
        """The decoder."""
        return self.decoder

    def description(self) -> dict[str, Any]:
        """The arguments that build it again, and where it comes from."""
        shape = {"latent_channels": self.latent_channels, "width": self.width, "pools": self.pools}
        return {"source": "taesd", **shape}


def load_taesd(name: str) -> TaesdNetwork:
    """The network whose original weights lie in the folder ``name``, from safetensors only."""
    if not name:
        raise UserError(
            "autoencoder.weights is missing: name a folder with encoder.safetensors and decoder.safetensors, "
            "the original weights of TAESD or one of its relatives, such as TAEF2"
        )
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise UserError(f"autoencoder.weights={name}: there is no such folder")
    found = {part: _read(name, folder / f"{part}.safetensors") for part in PARTS}
    with torch.device("meta"):  # what the names say may be nonsense: no memory is taken before all fits
        network = _described(name, found["encoder"])
    for part in PARTS:
        _check(name, part, found[part], getattr(network, part).state_dict())
        getattr(network, part).load_state_dict(found[part], assign=True)
    round_to_half(network)
    return network


def _read(name: str, path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(_missing(name, path))
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"autoencoder.weights={name}: {path.name} is damaged ({first_line(error)})"
        ) from error
    for key, tensor in tensors.items():
        if not (tensor.is_floating_point() and tensor.isfinite().all()):
            raise UserError(f"autoencoder.weights={name}: {key} in {path.name} holds no finite numbers")
    return {key: tensor.float() for key, tensor in tensors.items()}


def _missing(name: str, path: Path) -> str:
    """What is wrong with a folder without the file ``path``."""
    text = f"autoencoder.weights={name}: the folder holds no {path.name}"
    if (path.parent / "config.json").is_file():
        return f"{text}, but a config.json: autoencoder=diffusers autoencoder.model={name} reads such folders"
    if any(path.parent.glob("*.pth")) or any(path.parent.glob("*.pt")):
        return f"{text}: weights are read from safetensors only, since a pickle can run any code"
    return f"{text}: it should have encoder.safetensors and decoder.safetensors"


def _described(name: str, encoder: Mapping[str, Tensor]) -> TaesdNetwork:
    """The architecture that an encoder's tensors are of."""
    shapes = [tuple(encoder[key].shape) if key in encoder else () for key in (FIRST, LAST)]
    if not all(len(shape) == 4 for shape in shapes):
        raise UserError(
            f"autoencoder.weights={name}: encoder.safetensors has no convolutions {FIRST} and {LAST}: names "
            "should begin with the layers' numbers, as in the original weights of TAESD and its relatives"
        )
    (width, *_), (latent_channels, *_) = shapes
    if max(width, latent_channels) > WIDEST:
        raise UserError(f"autoencoder.weights={name}: {max(width, latent_channels)} channels are no TAESD")
    return TaesdNetwork(latent_channels, width, FIRST_POOL in encoder)


def _check(name: str, part: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise a ``UserError`` for the first tensor that is missing, unknown, or of another shape."""
    for key in sorted(found.keys() | expected.keys(), key=_place):
        shapes = [tuple(tensors[key].shape) if key in tensors else None for tensors in (found, expected)]
        if shapes[0] != shapes[1]:
            has, needs = ("no such tensor" if shape is None else f"one of {shape}" for shape in shapes)
            raise UserError(
                f"autoencoder.weights={name}: {part}.safetensors has {has} called {key}, where this "
                f"family has {needs}"
            )


def _place(key: str) -> tuple[int, str]:
    """Where a tensor stands in the network; nameless layers last."""
    number = key.partition(".")[0]
    return (int(number) if number.isascii() and number.isdigit() else 2**31, key)
