"""Training of detectors: samples, batches, losses and loops, and the selection of an ensemble."""
