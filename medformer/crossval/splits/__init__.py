"""Splits that somebody else made: reading them, and finding their cases."""
