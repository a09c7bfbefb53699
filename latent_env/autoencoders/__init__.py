"""Autoencoders, and the frozen, whitened form in which the environment wraps them."""

from latent_env.autoencoders.conv import ConvAutoencoder
from latent_env.autoencoders.frozen import FrozenAutoencoder

__all__ = ["ConvAutoencoder", "FrozenAutoencoder"]
