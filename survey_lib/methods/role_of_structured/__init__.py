"""The role of structured pruning: SeReNe and LOBSTER (method), and where they cut (thresholds)."""
