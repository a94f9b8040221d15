"""Prepared volumes and their patches."""
