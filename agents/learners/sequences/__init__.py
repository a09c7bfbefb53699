"""Learning from recorded episodes: trajectories, who demonstrates them, and the decision transformer."""
