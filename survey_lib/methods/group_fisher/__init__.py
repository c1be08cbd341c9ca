"""Group Fisher pruning (Liu et al. 2021): the method, and the paper's way to find groups."""
