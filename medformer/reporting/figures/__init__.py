"""Figures and pictures of the report."""
