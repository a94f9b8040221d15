"""The command line: one module per task, which wires parts and computes nothing."""
