"""Plans from training cases."""
