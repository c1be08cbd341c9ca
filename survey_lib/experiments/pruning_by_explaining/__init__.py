"""Pruning by explaining (Yeom et al. 2021): what is measured, and what is asked."""
