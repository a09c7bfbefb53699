"""Whatever chooses the change Δz of a latent, learned or not, and rollouts from agents to images."""
