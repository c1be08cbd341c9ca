"""The role of structured pruning: what is measured (cells) and what is asked (study)."""
