"""Features of connectomes: scikit-learn transformers."""
