"""Cards: one paper each, as data that every room may read."""
