"""Everything that can be configured: the choices (YAML), their types, and what is said of mistakes."""
