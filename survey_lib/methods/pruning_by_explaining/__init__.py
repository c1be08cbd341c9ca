"""Pruning by explaining (Yeom et al. 2021): the method, and its rivals on the same footing."""
