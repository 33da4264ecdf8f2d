"""The kernel edges: vxlan FDB and bridge at a spoke, eBPF switch at a hub. Layer: edge."""
