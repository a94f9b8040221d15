"""Geometry and file formats: the only code that opens or writes an image."""
