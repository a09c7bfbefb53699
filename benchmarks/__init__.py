"""What can be measured: speed, memory, and whether augmentation helps; each is one command."""
