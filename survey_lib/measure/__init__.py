"""Sizes, MACs, latency."""
