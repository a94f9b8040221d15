"""Files of connectomes and people."""
