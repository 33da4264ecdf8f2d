"""dmevpn: layer-2 networks between sites by NHRP and on-demand VXLAN shortcuts."""

__version__ = "0.1.0"
__all__ = ["__version__"]
