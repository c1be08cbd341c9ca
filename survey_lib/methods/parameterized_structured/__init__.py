"""Parameterized structured pruning (Schindler et al. 2019): the method, its rivals, its columns."""
