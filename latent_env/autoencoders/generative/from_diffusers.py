"""Image autoencoders of the library diffusers, from a folder or the Hugging Face hub."""

from __future__ import annotations

import importlib
import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latent_common.errors import UserError, first_line
from latent_env.autoencoders.generative.network import PublishedNetwork, round_to_half
from latent_env.autoencoders.quiet import quietly

INSTALL = "`pip install '.[generative]'` installs what it takes"

CLASSES = ("AutoencoderTiny", "AutoencoderKL", "AutoencoderDC")
"""The classes whose ``encode`` and ``decode`` are known here."""

BLOCKS = ("encoder_block_out_channels", "block_out_channels")
"""Keys of a description that list the encoder's levels; each but the first halves the image."""

PROBED = 64
"""A network is tried on one image of so many pixels a side."""


class DiffusersNetwork(PublishedNetwork):
    """One of diffusers' image autoencoders; of a variational one, latents are the modes of its posterior."""

    def __init__(self, model: Any) -> None:
        facts = model.config
        levels = next(facts[key] for key in BLOCKS if key in facts)
        super().__init__(int(facts["latent_channels"]), 2 ** (len(levels) - 1))
        self.model = model

    def encode(self, images: Tensor) -> Tensor:
        """Images ``(B, 3, H, W)`` in [0, 1] to raw latents ``(B, K, H / c, W / c)``."""
        answer = self.model.encode(images * 2 - 1, return_dict=False)[0]
        latents: Tensor = answer if isinstance(answer, Tensor) else answer.mode()
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Raw latents ``(B, K, h, w)`` to images ``(B, 3, c h, c w)``."""
        return (self.model.decode(latents, return_dict=False)[0] + 1) / 2

    def decoding_part(self) -> nn.Module:
        """The decoder."""
        decoder: nn.Module = self.model.decoder
        return decoder

    def description(self) -> dict[str, Any]:
        """The class, and the arguments that its constructor knows, without other keys of ``config.json``."""
        kind = type(self.model)
        return {"source": "diffusers", "class": kind.__name__, "config": _arguments(kind, self.model.config)}


def _arguments(kind: type, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The plain arguments of the constructor of ``kind`` among ``facts``."""
    known = {key: facts[key] for key in inspect.signature(kind).parameters if key in facts}
    arguments: dict[str, Any] = json.loads(json.dumps(known))
    return arguments


def load_diffusers(name: str) -> DiffusersNetwork:
    """The autoencoder in a local folder or of this name on the Hugging Face hub, from safetensors only."""
    if not name:
        raise UserError(
            "autoencoder.model is missing: name a folder with config.json and "
            "diffusion_pytorch_model.safetensors, or a model of the Hugging Face hub, for example "
            "autoencoder.model=madebyollin/taesdxl"
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        _check_folder(name, folder)
    elif name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise UserError(f"autoencoder.model={name}: there is no such folder")
    model = _loaded(_diffusers(), name, folder)
    round_to_half(model)
    network = DiffusersNetwork(model.eval())
    _try(name, network)
    return network


def _check_folder(name: str, folder: Path) -> None:
    if (folder / "encoder.safetensors").is_file():
        raise UserError(
            f"autoencoder.model={name}: the folder holds original weights: autoencoder=taesd "
            f"autoencoder.weights={name} reads them"
        )
    for needed in ("config.json", "*.safetensors"):
        if not any(folder.glob(needed)):
            raise UserError(
                f"autoencoder.model={name}: the folder holds no "
                f"{needed.replace('*', 'diffusion_pytorch_model')}: it should be an autoencoder as diffusers "
                "saves it (weights are read from safetensors only)"
            )


def _loaded(diffusers: Any, name: str, folder: Path) -> Any:
    """The model of one of the known classes, with all its weights."""
    local = folder.is_dir()
    source, quiet = str(folder) if local else name, quietly(diffusers)
    try:
        with quiet:
            kind = _class(
                diffusers, name, diffusers.AutoencoderKL.load_config(source, local_files_only=local)
            )
            model, report = kind.from_pretrained(
                source,
                local_files_only=local,
                use_safetensors=True,
                torch_dtype=torch.float32,
                low_cpu_mem_usage=False,
                output_loading_info=True,
            )
    except UserError:
        raise
    except Exception as error:  # errors of the hub, the file and the network have no common class
        if local:
            raise UserError(
                f"autoencoder.model={name}: diffusers can't load this folder ({first_line(error)})"
            ) from error
        raise UserError(
            f"autoencoder.model={name} is no folder here, and the Hugging Face hub failed "
            f"({first_line(error)}): name a local folder, or check the name and the network"
        ) from error
    for what in ("missing_keys", "mismatched_keys", "unexpected_keys"):  # the library only warns of them
        if report.get(what):
            raise UserError(
                f"autoencoder.model={name}: weights and config.json don't belong together "
                f"({what.replace('_', ' ')}, such as {report[what][0]})"
            )
    return model


def _class(diffusers: Any, name: str, facts: Mapping[str, Any]) -> Any:
    kind = facts.get("_class_name")
    if kind not in CLASSES:
        raise UserError(
            f"autoencoder.model={name}: config.json names the class {kind}, but only {', '.join(CLASSES)} "
            "can be used"
        )
    return getattr(diffusers, kind)


@torch.no_grad()
def _try(name: str, network: DiffusersNetwork) -> None:
    """Raise a ``UserError`` for a network that doesn't turn colour images into latents and back."""
    try:
        latents = network.encode(torch.zeros(1, 3, PROBED, PROBED))
        images = network.decode(latents)
    except Exception as error:
        raise UserError(
            f"autoencoder.model={name}: the network takes no colour images ({first_line(error)})"
        ) from error
    side = PROBED // network.compression
    expected = (1, network.latent_channels, side, side), (1, 3, PROBED, PROBED)
    if (tuple(latents.shape), tuple(images.shape)) != expected:
        raise UserError(
            f"autoencoder.model={name}: an image of {PROBED} pixels becomes a latent of "
            f"{tuple(latents.shape)} and an image of {tuple(images.shape)}: this is no image autoencoder"
        )


def empty_diffusers(kind: str, config: Mapping[str, Any]) -> DiffusersNetwork:
    """An autoencoder with weights to be loaded, as stored artifacts need it."""
    if kind not in CLASSES:
        raise UserError(f"the generator is a {kind}, but this version knows {', '.join(CLASSES)}")
    diffusers = _diffusers()
    try:
        with quietly(diffusers):
            known = getattr(diffusers, kind)
            return DiffusersNetwork(known(**_arguments(known, config)).eval())
    except Exception as error:  # a damaged description raises anything
        raise UserError(f"the generator can't be built from its description ({first_line(error)})") from error


def _diffusers() -> Any:
    try:
        return importlib.import_module("diffusers")
    except ImportError as error:
        raise UserError(f"autoencoder=diffusers needs diffusers: {INSTALL}") from error
