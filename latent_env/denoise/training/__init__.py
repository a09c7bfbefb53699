"""How networks of denoising learn: the critic, a classifier that evaluates samples, a diffusion baseline."""
