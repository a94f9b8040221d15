"""What happens before the first fold: the plan is drawn from the rows that folds may use, and checked for leaks."""
