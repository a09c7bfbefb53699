"""How detectors are trained from scratch: one trainer a kind of detector."""
