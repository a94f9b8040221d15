"""Classifiers of connectomes: the published METAFormer, corrected and as published, and one on the shared backbone."""
