"""What a training writes to disk."""
