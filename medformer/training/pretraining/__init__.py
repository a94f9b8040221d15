"""Masked pretraining: an encoder learns to reconstruct what is hidden from it, before it sees a label."""
