"""Where tables of scores come from: one file for each format."""
