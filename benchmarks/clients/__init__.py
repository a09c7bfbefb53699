"""Libraries that train on the environments, each tried as ``docs/clients.md`` shows it."""
