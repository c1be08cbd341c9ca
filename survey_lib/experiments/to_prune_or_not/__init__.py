"""To prune, or not to prune: what is measured (cells) and what is asked (study)."""
