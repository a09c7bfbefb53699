"""What a step is paid for: one file a reward term, and their weighted sum."""
