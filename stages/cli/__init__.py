"""From the command line to a checked configuration: help, defaults, and one line for a mistake."""
