"""What a run will take, and how to make it fit."""
