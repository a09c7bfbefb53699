"""The study that says whether augmentation by an agent helps: `python -m benchmarks.augmentation`."""
