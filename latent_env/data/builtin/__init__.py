"""Data sets that need no files: handwritten digits and a synthetic CT phantom."""
