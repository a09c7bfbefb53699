"""What an agent made, for people: contact sheets, figures, and samples in the original files."""
