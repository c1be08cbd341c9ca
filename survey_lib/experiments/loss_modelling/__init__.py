"""Revisiting loss modelling: what is measured (cells) and what is asked (study)."""
