"""The hub's switch: its program, and libbpf seen from Python. Layer: edge."""
