"""How an action becomes a change of the latent (and an edit of the image): one file a perturbation."""
