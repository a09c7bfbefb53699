"""All that can be chosen: one folder of YAML files a choice, and the types of their keys."""
