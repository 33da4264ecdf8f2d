"""Spoke, hub and the node that composes them. Layer: role."""
