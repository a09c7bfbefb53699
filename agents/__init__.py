"""Whatever chooses Δz, learned or not, and what becomes of it: rollouts, the closed loop, reports."""
