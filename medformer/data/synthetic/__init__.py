"""Pictures with exact masks, made from a seed, for demonstrations and tests."""
