"""Published image autoencoders as the frozen autoencoder: sharp without any training."""

from latent_env.autoencoders.generative.autoencoder import GenerativeAutoencoder, fit_whitening
from latent_env.autoencoders.generative.from_diffusers import load_diffusers
from latent_env.autoencoders.generative.network import PublishedNetwork, round_to_half
from latent_env.autoencoders.generative.taesd import load_taesd

__all__ = [
    "GenerativeAutoencoder",
    "PublishedNetwork",
    "fit_whitening",
    "load_diffusers",
    "load_taesd",
    "round_to_half",
]
