"""`train_ppo.py env=latent_denoise`: an agent that generates images from noise, rewarded by a critic."""
