"""How large an image may be."""

LARGEST_IMAGE = 512
"""Pixels a side."""
