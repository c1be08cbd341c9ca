"""A closer look: what is measured (cells) and what is asked (study)."""
