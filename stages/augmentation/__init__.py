"""`train_ppo.py`: an agent makes samples, detectors learn from them, and before is compared with after."""
