"""Real peers in a guest whose kernel has GRE devices: `make interop`, docs/interop.md."""
