"""Connectomes: autism against control."""
