"""What a command does: its stages, from the command line to the report, and what they share."""
