"""Detectors that measure how far a token lies from normal ones, and what they keep of normal images."""
