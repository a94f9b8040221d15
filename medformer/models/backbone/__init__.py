"""The shared MetaFormer backbone, its mixers and its named variants."""
