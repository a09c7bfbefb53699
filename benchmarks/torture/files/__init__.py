"""Damaged and hostile files: kinds, what can be wrong with them, and how each is opened."""
