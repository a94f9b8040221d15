"""Images and their masks."""
