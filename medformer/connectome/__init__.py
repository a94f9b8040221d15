"""Connectivity measures, harmonization and linear models over brain regions; what learns, learns within a fold."""
