"""Layouts of folders and files of volumes."""
