"""Counting MACs: this library against fvcore and against one forward pass."""

import logging

import numpy as np
import torch
from fvcore.nn import FlopCountAnalysis

from benchmarks.common import line, take_turns, write
from benchmarks.zoo import images, net
from survey_lib.measure.macs import count_macs
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups


def main() -> None:
    logging.getLogger("fvcore").setLevel(logging.ERROR)
    model, x = net("resnet18"), images(1, 224)
    costs = Costs(trace_groups(model, x), "macs")
    kept = (costs.sizes + 1) // 2

    def fvcore() -> dict[str, int]:
        return FlopCountAnalysis(model, x).unsupported_ops_warnings(False).by_operator()

    @torch.no_grad()
    def forward() -> None:
        model(x)

    by_operator = fvcore()
    counted = {
        "ours": count_macs(model, x),
        "fvcore": int(by_operator["conv"] + by_operator["linear"]),
        "closed form": costs(costs.sizes),
    }
    if len(set(counted.values())) > 1:
        raise SystemExit(f"the sides count different things: {counted}")

    times = take_turns(
        {
            "ours": (lambda: None, lambda _: count_macs(model, x)),
            "fvcore": (lambda: None, lambda _: fvcore()),
            "one forward": (lambda: None, lambda _: forward()),
            "closed form": (lambda: None, lambda _: costs(np.array(kept))),
        }
    )

    def row(name: str, over: str, under: str) -> dict:
        sides = {side: times[side] for side in (over, under)}
        return line(name, "resnet18, 224 × 224", sides, (over, under), None, macs=counted)

    rows = [
        row("MAC count", "fvcore", "ours"),
        row("MAC count", "ours", "one forward"),
        row("MACs of a recipe", "ours", "closed form"),
    ]
    write("macs", rows)


if __name__ == "__main__":
    main()
