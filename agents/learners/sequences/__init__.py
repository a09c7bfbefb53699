"""Learning from recorded episodes: trajectories, demonstrations, and the decision transformer."""
