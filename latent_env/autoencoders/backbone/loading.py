"""Pretrained networks from a folder or the Hugging Face hub, and architectures without their weights."""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from latent_common.errors import UserError, first_line
from latent_env.autoencoders.backbone.network import AUTOENCODER, IMAGENET, Backbone
from latent_env.autoencoders.quiet import quietly

INSTALL = "`pip install '.[pretrained]'` installs what it takes"

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and standard deviation of colours for networks that expect values in [-1, 1]."""

OFFERS_CODE = re.compile(
    r"auto_map|custom_pipelines|quantization_config|use_pretrained_backbone|use_timm_backbone"
    r"|_*(attn|experts)_implementation(_internal)?"
)
"""Keys of a description that may name code, packages or other networks to load: they are left out."""


def load_backbone(
    name: str,
    size: int,
    layers: Sequence[int] | None,
    grid: int | None,
    group: str = AUTOENCODER,
    tile: int | None = None,
) -> Backbone:
    """The network in a local folder or of this name on the Hugging Face hub, from safetensors only."""
    key = f"{group}.backbone"
    if not name:
        raise UserError(
            f"{key} is missing: name a folder with config.json and model.safetensors, or a model of the "
            f"Hugging Face hub, for example {key}=facebook/dinov2-small"
        )
    folder = Path(name).expanduser()
    if folder.is_dir():
        for needed in ("config.json", "*.safetensors"):
            if not any(folder.glob(needed)):
                raise UserError(
                    f"{key}={name}: the folder holds no {needed.replace('*', 'model')}: it "
                    "should be a model as transformers saves it (weights are read from safetensors only)"
                )
    elif name.startswith((".", "~", os.sep)) or name.count("/") > 1:
        raise UserError(f"{key}={name}: there is no such folder")
    transformers = _transformers()
    place = str(folder) if folder.is_dir() else name
    try:
        with quietly(transformers):
            facts, _ = transformers.PreTrainedConfig.get_config_dict(place, local_files_only=folder.is_dir())
            network = transformers.AutoModel.from_pretrained(
                place,
                config=_configuration(transformers, facts),
                local_files_only=folder.is_dir(),
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
    except Exception as error:  # errors of the hub and the network have no common class
        if folder.is_dir():
            raise UserError(
                f"{key}={name}: transformers can't load this folder ({first_line(error)})"
            ) from error
        raise UserError(
            f"{key}={name} is no folder here, and the Hugging Face hub failed "
            f"({first_line(error)}): name a local folder, or check the name and the network"
        ) from error
    description = without_code(json.loads(network.config.to_json_string()))
    colours = _colours(transformers, place, description)
    return Backbone(network, description, size, layers, grid, colours, group, tile)


def empty_backbone(
    description: Mapping[str, Any],
    size: int,
    layers: Sequence[int],
    grid: int,
    colours: Sequence[Sequence[float]],
    tile: int | None = None,
) -> Backbone:
    """A backbone with weights to be loaded, as stored artifacts need it."""
    transformers = _transformers()
    description = without_code(description)
    try:
        config = _configuration(transformers, description)
        with torch.random.fork_rng(devices=[]), quietly(transformers):
            network = transformers.AutoModel.from_config(config, trust_remote_code=False)
    except Exception as error:  # a damaged description raises anything
        raise UserError(f"the backbone can't be built from its description ({first_line(error)})") from error
    return Backbone(network.float(), description, size, layers, grid, colours, tile=tile)


def without_code(facts: Any) -> Any:
    """The description of a network, without all that could make transformers load code or other networks."""
    if isinstance(facts, Mapping):
        kept = {key: value for key, value in facts.items() if not OFFERS_CODE.fullmatch(str(key))}
        return {key: without_code(value) for key, value in kept.items()}
    return [without_code(value) for value in facts] if isinstance(facts, list) else facts


def _configuration(transformers: Any, facts: Mapping[str, Any]) -> Any:
    """The configuration that a ``config.json`` describes, of a kind of network that transformers has."""
    kept = without_code(facts)
    return transformers.AutoConfig.for_model(kept.pop("model_type", None), **kept)


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise UserError(f"a pretrained backbone needs transformers: {INSTALL}") from error


def _colours(transformers: Any, name: str, description: Mapping[str, Any]) -> Sequence[Sequence[float]]:
    """Mean and standard deviation that the network expects of colours, from its preprocessor if known."""
    try:
        facts, _ = transformers.ImageProcessingMixin.get_image_processor_dict(
            name, local_files_only=Path(name).is_dir()
        )
    except (OSError, ValueError):  # none there
        facts = {}
    given = [facts.get("image_mean"), facts.get("image_std")]
    if all(isinstance(part, Sequence) and len(part) == 3 for part in given):
        return given
    if all(isinstance(part, int | float) for part in given):
        return [[part] * 3 for part in given]
    return HALVES if str(description.get("model_type")).startswith("mobilenet") else IMAGENET
