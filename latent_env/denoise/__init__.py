"""Image generation as an episode: a forward process to noise, an artist that undoes it, and a critic."""
