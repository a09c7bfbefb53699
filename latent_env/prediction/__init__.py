"""From any image to a verdict: a detector as it was trained, with its threshold."""
