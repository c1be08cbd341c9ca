"""Rethinking pruning: the pruned shape, trained from scratch at equal epochs or equal cost."""
