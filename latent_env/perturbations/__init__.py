"""How an action becomes a change of the latent, and of the image beside it: one file a kind."""
