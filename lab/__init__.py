"""A laboratory of network namespaces: real kernels' devices, real daemons, real frames.

The demo, the system tests and the benchmarks build their networks with it. It is not installed
with dmevpn, and it imports nothing from it: what it knows of the daemon is what a user knows.
"""
