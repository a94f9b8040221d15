"""Cross-validation as the unit of work: a frozen plan, a journal of fold jobs, one out-of-fold table."""
