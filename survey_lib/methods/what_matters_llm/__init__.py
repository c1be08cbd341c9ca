"""Santacroce et al. (2023): gradual pruning of neurons by movement, and GUM."""
