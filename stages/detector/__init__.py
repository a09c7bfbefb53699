"""How a command gets its detector: a plan that is built before anything is trained, and what comes of it."""
