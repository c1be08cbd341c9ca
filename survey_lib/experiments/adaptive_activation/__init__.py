"""Adaptive activation-based pruning: what is measured (cells) and what is asked (study)."""
