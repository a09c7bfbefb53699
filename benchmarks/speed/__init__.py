"""How fast steps, PPO and trainings are next to the least that they could cost."""
