"""Agents that learn from what the worlds pay, all with the interface of Stable-Baselines3."""
