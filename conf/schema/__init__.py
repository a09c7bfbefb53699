"""The types of all keys, which Hydra checks them against; their defaults stand in the YAML files."""
