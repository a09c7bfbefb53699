"""Tiny image autoencoders that nobody trained: random weights, saved as published ones are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from latent_env.autoencoders.generative.taesd import TaesdNetwork

COMPRESSION = {"AutoencoderTiny": 8, "AutoencoderKL": 4, "AutoencoderDC": 32}
"""The classes of diffusers that can be used, and the pixels a side that a token stands for."""


def taesd(folder: Path, latent_channels: int = 4, width: int = 8, pools: bool = False) -> Path:
    """Encoder and decoder in half precision, with the original names; ``pools`` as TAEF2."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = TaesdNetwork(latent_channels, width, pools)
        with torch.no_grad():  # as if it had been trained: latents differ, and what is drawn lies in [0, 1]
            network.encoder[-1].weight.mul_(20)
            network.decoder[-1].weight.mul_(3)
            network.decoder[-1].bias.fill_(0.5)
    folder.mkdir(parents=True)
    for part in ("encoder", "decoder"):
        tensors = getattr(network, part).state_dict()
        save_file({name: t.half() for name, t in tensors.items()}, folder / f"{part}.safetensors")
    return folder


def diffusers(folder: Path, kind: str) -> Path:
    """An autoencoder of one of diffusers' classes, as the library saves it."""
    import diffusers as library

    blocks = (8, 8, 8, 8)
    types = ("ResBlock",) * 5 + ("EfficientViTBlock",)
    shapes: dict[str, dict[str, Any]] = {
        "AutoencoderTiny": {
            "encoder_block_out_channels": blocks,
            "decoder_block_out_channels": blocks,
            "num_encoder_blocks": (1, 1, 1, 1),
            "num_decoder_blocks": (1, 1, 1, 1),
        },
        "AutoencoderKL": {
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": blocks[:3],
            "norm_num_groups": 4,
        },
        "AutoencoderDC": {
            "latent_channels": 8,
            "attention_head_dim": 4,
            "encoder_block_types": types,
            "decoder_block_types": types,
            "encoder_block_out_channels": (8,) * 6,
            "decoder_block_out_channels": (8,) * 6,
            "encoder_layers_per_block": (1,) * 6,
            "decoder_layers_per_block": (1,) * 6,
            "encoder_qkv_multiscales": ((),) * 5 + ((5,),),
            "decoder_qkv_multiscales": ((),) * 5 + ((5,),),
        },
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(library, kind)(**shapes[kind]).save_pretrained(folder)
    return folder
