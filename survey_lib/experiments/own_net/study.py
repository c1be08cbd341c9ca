"""A user's own net: which methods, rates and seeds are run is asked by the user, in compare.py."""

from collections.abc import Callable

from survey_lib.experiments.own_net.cells import Cell

GRIDS: dict[str, Callable[[], list[Cell]]] = {}
STATISTICS: dict[str, Callable] = {}
