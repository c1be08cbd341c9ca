"""The cells that a test puts here."""

CELLS = []
GRIDS = dict.fromkeys(("smoke", "study", "full", "tune"), list) | {"quick": lambda: CELLS}
STATISTICS = {"value": lambda rows: rows[0].numbers["value"]}
