"""What detectors are built from: maps of tokens and pixels, distances, a memory bank, the last layer."""
