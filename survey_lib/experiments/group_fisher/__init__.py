"""Group Fisher pruning: what is measured (cells) and what is asked (study)."""
