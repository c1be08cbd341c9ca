"""ThiNet: what is measured (cells, and layers one by one) and what is asked (study)."""
