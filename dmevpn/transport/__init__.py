"""Providers of IDatagramTransport: NHRP over GRE, or over memory. Layer: edge."""
