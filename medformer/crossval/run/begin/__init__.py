"""What happens before the first fold: precision and plan are decided, and the plan is checked for leaks."""
