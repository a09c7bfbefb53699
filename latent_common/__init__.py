"""What every package uses and none owns: errors, artifacts, precision, progress bars, image sources."""
