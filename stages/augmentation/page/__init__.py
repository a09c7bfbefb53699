"""`report.html` of a run of `train_ppo.py` in LatentAug-v0: a module for each of its sections."""
