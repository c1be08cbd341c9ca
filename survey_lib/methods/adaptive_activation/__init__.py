"""Adaptive activation-based pruning (Zhao et al. 2022): controller, rounds, size targets."""
