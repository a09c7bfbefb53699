"""Pretrained vision networks, frozen: what detectors see with, or what ``z`` is made of."""

from latent_env.autoencoders.backbone.loading import HALVES, empty_backbone, load_backbone
from latent_env.autoencoders.backbone.network import AUTOENCODER, IMAGENET, Backbone

__all__ = ["AUTOENCODER", "HALVES", "IMAGENET", "Backbone", "empty_backbone", "load_backbone"]
