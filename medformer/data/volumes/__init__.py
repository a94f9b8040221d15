"""Volumes on disk: layouts, checks, the plan made from them, preparation, patches."""
