"""Medical image segmentation and connectome classification on one MetaFormer backbone."""

__version__ = "0.1.0"
