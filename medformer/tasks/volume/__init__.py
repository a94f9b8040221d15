"""Volumes: segmentation and classification of 3-D scans."""
