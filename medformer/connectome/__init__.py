"""Connectivity measures, harmonization and linear models of brain regions, fitted within a fold."""
