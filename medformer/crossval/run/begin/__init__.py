"""What a run settles before its first fold: which rows the folds may have, its plan, and that nothing leaks."""
