"""Fisher signal of all channels: one forward and backward pass with it, against one without.

The signal rides on the pass that training makes anyway. Both sides compute the same gradients of
the weights; what differs is one product and one sum for each tensor that a layer reads.
"""

from collections.abc import Callable

from torch import Tensor, nn

from benchmarks.common import Side, line, take_turns, write
from survey_lib.mechanics.gates import GateGradients
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task, load_task

NETS = {
    "resnet_small": {"blocks": 2},
    "densenet_small": {"bottleneck": 4},
    "vgg_small": {},
}
BATCH = 128


def plain(task: Task, net: nn.Module, x: Tensor, y: Tensor) -> Callable[[None], None]:
    """A training step's forward and backward pass."""

    def act(_: None) -> None:
        net.zero_grad(set_to_none=True)
        task.loss(net(x), y).backward()

    return act


def with_signal(
    task: Task, net: nn.Module, graph: ChannelGraph, x: Tensor, y: Tensor
) -> Callable[[None], dict[str, Tensor]]:
    """The same, and Δ of every channel."""

    def act(_: None) -> dict[str, Tensor]:
        net.zero_grad(set_to_none=True)
        with GateGradients(net, graph) as gates:
            task.loss(net(x), y).backward()
        n = len(x)
        return {name: (n * g).square().sum(0) / (2 * n) for name, g in gates.coupled().items()}

    return act


def main() -> None:
    rows = []
    for name, options in NETS.items():
        task = load_task(name, **options)
        net = task.build(seeded(0)).train()
        graph = trace_groups(net, task.example(1))
        x, y = task.train.x[:BATCH], task.train.y[:BATCH]
        sides: dict[str, Side] = {
            "with Δ": (lambda: None, with_signal(task, net, graph, x, y)),
            "plain": (lambda: None, plain(task, net, x, y)),
        }
        rows.append(
            line(
                "Fisher scores",
                f"{name}, all {sum(g.size for g in graph.prunable)} channels, batch of {BATCH}",
                take_turns(sides, rounds=31),
                ("with Δ", "plain"),
                (None, 1.15),
            )
        )
    write("fisher", rows)


if __name__ == "__main__":
    main()
