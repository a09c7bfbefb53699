"""Measurements of speed and memory, each one command."""
