"""The report and the model card, made from a run's files alone; a model is never loaded."""
