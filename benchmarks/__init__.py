"""How much dmevpn does in a CPU second, and how fast: ``python -m benchmarks``."""
