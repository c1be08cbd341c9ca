"""The cells that a test puts here."""

from survey_lib.experiments.runner import ALL_PROFILES

CELLS = []
STATISTICS = {}
GRIDS = dict.fromkeys(ALL_PROFILES, lambda: CELLS)
