"""What is left of the models' own speed in the step, PPO, training and imports."""
