"""Comparisons over data sets and seeds, and measurements of speed: one command each, which prints a table."""
