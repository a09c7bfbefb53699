"""The study of augmentation: train_ppo.py over settings, tracks, data sets, variants, agents and seeds."""
