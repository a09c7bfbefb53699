"""Synthetic anomalies made without an agent: those that detectors learn from, and kinds that none does."""
