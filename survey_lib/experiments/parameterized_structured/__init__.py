"""Experiment of the chapter on parameterized structured pruning."""
