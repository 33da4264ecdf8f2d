"""NHRP (RFC 2332) with VPN support (RFC 2735), without any I/O. Layer: core."""
