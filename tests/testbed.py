"""Made-up records of the common testbed: plausible numbers in the right shape, nothing is run."""

import random
from dataclasses import asdict, replace

from survey_lib.evidence.records import Record
from survey_lib.experiments.common_testbed import grid
from survey_lib.experiments.context import cell_key
from survey_lib.methods.contract import METHODS

DENSE = {"params": 80_000, "macs": 2_500_000, "bytes": 320_000, "accuracy": 0.88}


def numbers(cell):
    """Numbers of a cell, the same every time: methods differ, and tuning draws them together."""
    draw = random.Random(repr((cell.arm, cell.seed, cell.net, cell.method, cell.keep, cell.epochs,
                               cell.knob, cell.how, cell.brief)))  # fmt: skip
    own = random.Random(cell.method).uniform(-1, 1)
    entry = METHODS.get(cell.method)
    keep = cell.keep if entry is None or entry.steers == "budget" else 0.3
    masks = entry is not None and entry.kind == "weights"
    lost = 0.1 * (1 - keep) + (0.25 - 0.2 * own) * (1 - keep) / (1 + 8 * cell.epochs)
    score = DENSE["accuracy"] - lost - 0.004 * own + draw.gauss(0, 0.003)
    loss = 1.5 + lost
    best = abs(cell.lr - grid.rate(cell.net, 5)) if cell.lr else 0
    text = cell.net == "char_gpt"
    if cell.brief:
        if text:
            return {"val": loss, "val_loss": loss}
        return {"val_re": score - 0.01 * best} | ({"merit": score - best} if cell.knob else {})
    found = {"val": loss if text else score - 0.02, "val_loss": loss, "loss": loss}
    found |= {"test": loss if text else score - 0.05 / (1 + cell.epochs)}
    if not text:
        found |= {"val_re": score + 0.002, "test_re": score}
    params = DENSE["params"] if masks else int(DENSE["params"] * keep)
    macs = DENSE["macs"] if masks else int(DENSE["macs"] * keep)
    found |= {
        "params": params, "macs": macs, "nonzeros": int(DENSE["params"] * keep),
        "macs_nonzero": int(DENSE["macs"] * keep), "activations": 9000,
        "bytes": int(DENSE["bytes"] * keep), "bytes_dense": 4 * params,
        "bytes_bitmask": int(DENSE["bytes"] * keep), "bytes_csr": int(DENSE["bytes"] * keep),
    }  # fmt: skip
    if cell.arm in ("dense", "method"):
        found |= {"dense_ms": 2.5, "net_ms": 2.5 if masks else 1 + 1.5 * keep}
    return found | (
        {"steps": round(79 * cell.epochs), "seconds": 1.0} if cell.arm != "dense" else {}
    )


def record(cell, **changes):
    """A finished record of a cell."""
    found = changes or numbers(cell)
    return Record("common_testbed", "study", asdict(cell), cell.seed,
                  cell_key("common_testbed", cell), "done", found,
                  provenance={"seconds": 1.0, "commit": "abc", "made": "2026-01-01"})  # fmt: skip


def made_up(*names):
    """Records of whole pieces."""
    chosen = [p for p in grid.PIECES if p.name in (names or grid.RUN)]
    cells = dict.fromkeys(
        cell for piece in chosen for seed in range(grid.SEEDS)
        for cell in at_some_rate(piece, seed)
    )  # fmt: skip
    return [record(cell) for cell in cells]


def at_some_rate(piece, seed):
    """A piece's cells, at any rate where its rates have not been chosen yet."""
    return [
        replace(cell, lr=grid.RATES.get(grid.role_of(cell), 0.1)) if cell.epochs else cell
        for cell in grid.unrated(piece, seed)
    ]
