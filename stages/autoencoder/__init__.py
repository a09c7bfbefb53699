"""How a command gets its autoencoder: one plan a kind, and what is shown of its training."""
