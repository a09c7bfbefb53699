"""`latent-aug export --samples`: what an agent made, in the layouts that other programs read."""
