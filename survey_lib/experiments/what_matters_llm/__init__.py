"""Santacroce et al. (2023): which neurons of a language model matter."""
