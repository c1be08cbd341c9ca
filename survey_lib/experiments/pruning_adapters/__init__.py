"""Structured pruning adapters: what is measured (cells) and what is asked (study)."""
