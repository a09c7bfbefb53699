"""What episodes share: the frozen networks and the images of a world, in memory and as artifacts on disk."""
