"""How the networks around denoising learn: critic, diffusion baseline, and the classifier of samples."""
