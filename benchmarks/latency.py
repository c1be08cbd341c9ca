"""The latency harness against itself, pruned nets against nets built at the same widths.

And what a saving in MACs brings in time: speed-up ÷ MAC ratio, for channels and for weights.
"""

import copy

from torch import Tensor, nn

from benchmarks.common import line, write
from benchmarks.zoo import HalfResNet18, halves, images, net
from survey_lib.measure.latency import compare_latency
from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_parameters
from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.methods import to_prune_or_not
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import load_task

ROUNDS = 25
WITHIN = (0.97, 1.03)


def halved(model: nn.Module, x: Tensor) -> nn.Module:
    """Half of every group removed, first half kept."""
    graph = trace_groups(model, x)
    return apply_recipe(model, graph, halves(graph))


def twins() -> list[tuple[str, nn.Module, nn.Module | None, Tensor]]:
    """(case, dense net, net built at half the widths where there is one, batch)."""
    cases: list[tuple[str, nn.Module, nn.Module | None, Tensor]] = []
    for name in ("resnet_small", "vgg_small", "mobilenet_small", "densenet_small"):
        task = load_task(name)
        built = load_task(name, width=0.5).build(seeded(0)) if name in _UNIFORM else None
        cases.append((f"{name}, batch 64", task.build(seeded(0)), built, task.example(64)))
    for name in ("resnet18", "mobilenet_v2", "densenet121"):
        built = HalfResNet18() if name == "resnet18" else None
        cases.append((f"{name}, batch 4, 128 × 128", net(name), built, images(4, 128)))
    return cases


# nets whose every layer is one group or several whole ones: half of each is the net of half width
_UNIFORM = ("resnet_small", "vgg_small", "mobilenet_small")


def harness() -> list[dict]:
    rows = []
    for name in ("cnn_small", "resnet_small", "mobilenet_small"):
        task = load_task(name)
        model = task.build(seeded(0))
        nets = {"a": model, "a again": copy.deepcopy(model)}
        times = compare_latency(nets, task.example(64), rounds=ROUNDS)
        rows.append(
            line(
                "A/A", f"{name}, batch 64", times, ("a", "a again"), WITHIN, tries=times["a"].tries
            )
        )
    return rows


def channels() -> list[dict]:
    rows = []
    for case, dense, built, x in twins():
        small = halved(dense, x)
        nets = {"dense": dense, "pruned": small} | ({"built": built} if built else {})
        times = compare_latency(nets, x, rounds=ROUNDS)
        macs = {name: count_macs(model, x[:1]) for name, model in nets.items()}
        sizes = {name: count_parameters(model) for name, model in nets.items()}
        shared = {"macs": macs, "params": sizes, "tries": times["dense"].tries}
        if built:
            if macs["pruned"] != macs["built"]:
                raise SystemExit(f"{case}: the twins differ: {macs}")
            pair = {name: times[name] for name in ("pruned", "built")}
            rows.append(line("same widths", case, pair, ("built", "pruned"), WITHIN, **shared))
        rows.append(_speed_up("half the channels", case, times, macs, shared))
    return rows


def weights() -> list[dict]:
    """95 % of the weights set to zero, and a narrow net of about as many non-zeros."""
    large, narrow = load_task("cnn_small"), load_task("cnn_small", width=0.16)
    dense = large.build(seeded(0))
    pruned = copy.deepcopy(dense)
    found = to_prune_or_not.prunable_weights(pruned)
    masked = to_prune_or_not.MaskedWeights(found)
    sparsity = to_prune_or_not.final_sparsity(pruned, found, Budget("nonzeros", 0.05))
    masked.prune_to(sparsity, "layerwise")
    x = large.example(64)
    rows = []
    sides = {"19 of 20 weights zero": pruned, "0.16 × as wide": narrow.build(seeded(0))}
    for case, small in sides.items():
        nets = {"dense": dense, "pruned": small}
        times = compare_latency(nets, x, rounds=ROUNDS)
        macs = {name: count_macs(model, x[:1]) for name, model in nets.items()}
        shared = {"macs": macs, "tries": times["dense"].tries}
        rows.append(_speed_up(case, "cnn_small, batch 64", times, macs, shared))
    return rows


def _speed_up(row: str, case: str, times: dict, macs: dict, shared: dict) -> dict:
    sides = {name: times[name] for name in ("dense", "pruned")}
    found = line(row, case, sides, ("dense", "pruned"), None, **shared)
    mac_ratio = macs["dense"] / macs["pruned"]
    efficiency = found["ratio"] / mac_ratio
    return found | {"mac_ratio": round(mac_ratio, 4), "efficiency": round(efficiency, 4)}


def main() -> None:
    write("latency", harness() + channels() + weights())


if __name__ == "__main__":
    main()
