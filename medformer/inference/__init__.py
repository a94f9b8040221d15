"""From trained networks to masks: test-time flips, ensembles, thresholds, verified export, scoring of folders."""
