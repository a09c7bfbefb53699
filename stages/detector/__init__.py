"""How a command gets its detector: the plan that is built before anything is trained, and what comes of it."""
