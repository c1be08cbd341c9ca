"""A closer look at structured pruning: the long run, and the shapes that are trained instead."""
