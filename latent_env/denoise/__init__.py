"""The environment ``LatentDenoise-v0``: an agent turns noise into an image, paid by a critic network."""
