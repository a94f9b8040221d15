"""Cohorts of connectomes: from the layouts they are published in to one manifest and one memory-mapped store."""
