"""How fast networks are on this machine: what `medformer bench` shows, and what `benchmarks/` compares with peers.

Sides are timed in turns in one process, beside the machine's own limits: the rate of its matrix products and of copies.
"""
