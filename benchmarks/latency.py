"""Latency harness against itself, and a pruned net against its dense twins.

Writes ``benchmarks/latency.jsonl``: one JSON line a row with both sides of each ratio.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

from survey_lib import files
from survey_lib.evidence.records import commit, machine
from survey_lib.measure.latency import compare_latency
from survey_lib.measure.macs import count_macs
from survey_lib.mechanics.budget import Budget
from survey_lib.methods import to_prune_or_not as method
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import load_task


def main() -> None:
    large, small = load_task("cnn_small"), load_task("cnn_small", width=0.16)
    nets = {
        "a": large.build(seeded(0)),
        "a again": large.build(seeded(0)),
        "pruned": large.build(seeded(0)),
        "small": small.build(seeded(0)),
    }
    weights = method.prunable_weights(nets["pruned"])
    masked = method.MaskedWeights(weights)
    masked.prune_to(
        method.final_sparsity(nets["pruned"], weights, Budget("nonzeros", 0.05)), "layerwise"
    )
    x = large.example(64)
    times = compare_latency(nets, x, rounds=25)
    base, base_macs = times["a"].minimum, count_macs(nets["a"], x)
    shared = {"commit": commit(), "made": datetime.now(UTC).isoformat(timespec="seconds")}
    rows = []
    for name in ("a again", "pruned", "small"):
        speed_up = base / times[name].minimum
        label = {"a again": "A/A ratio", "pruned": "sparse net", "small": "narrow net"}[name]
        rows.append(
            {
                "row": label,
                "dense_ms": round(1000 * base, 4),
                "this_ms": round(1000 * times[name].minimum, 4),
                "speed_up": round(speed_up, 4),
                "mac_ratio": round(base_macs / count_macs(nets[name], x), 4),
                "noisy": times[name].noisy or times["a"].noisy,
                "rounds": times[name].rounds,
            }
            | shared
            | machine()
        )
    text = "".join(json.dumps(r) + "\n" for r in rows)
    files.write_atomic(Path(__file__).parent / "latency.jsonl", text)
    print(text, end="")


if __name__ == "__main__":
    main()
