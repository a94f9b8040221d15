"""Comparing tables of scores."""
