"""Autoencoders, how they learn, and the frozen, whitened wrapper that the environment uses them in."""

from latent_env.autoencoders.conv import ConvAutoencoder
from latent_env.autoencoders.frozen import FrozenAutoencoder
from latent_env.autoencoders.generative import GenerativeAutoencoder
from latent_env.autoencoders.memory_autoencoder import MemoryAutoencoder
from latent_env.autoencoders.pretrained import PretrainedAutoencoder

__all__ = [
    "ConvAutoencoder",
    "FrozenAutoencoder",
    "GenerativeAutoencoder",
    "MemoryAutoencoder",
    "PretrainedAutoencoder",
]
