"""From the configuration of an agent to the agent, and its training in rounds."""
