"""Images: segmentation of polyps."""
