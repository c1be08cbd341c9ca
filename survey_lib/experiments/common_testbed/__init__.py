"""The common testbed: all methods of the registry, from the same dense nets."""
