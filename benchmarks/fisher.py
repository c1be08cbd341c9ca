"""Fisher scores of all channels against one plain forward and backward pass on the same batch."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.common import line, take_turns, write
from benchmarks.zoo import images, net
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.statistics import fisher
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import load_task


def cases() -> list[tuple[str, nn.Module, Tensor, int]]:
    """(case, net, batch, classes)."""
    found = [
        (f"{name}, batch 8, 64 × 64", net(name), images(8, 64), 1000)
        for name in ("resnet18", "mobilenet_v2")
    ]
    task = load_task("resnet_small")
    found.append(("resnet_small, batch 64", task.build(seeded(0)), task.example(64), 10))
    return found


def main() -> None:
    rows = []
    for case, model, x, classes in cases():
        model.eval()
        graph = trace_groups(model, x)
        y = torch.randint(classes, (len(x),), generator=seeded(0))
        parameters = list(model.parameters())

        def plain(model=model, x=x, y=y, parameters=parameters) -> None:
            torch.autograd.grad(F.cross_entropy(model(x), y), parameters)

        def scores(model=model, graph=graph, x=x, y=y) -> None:
            fisher(model, graph, F.cross_entropy, [(x, y)])

        times = take_turns(
            {
                "Fisher": (lambda: None, lambda _, act=scores: act()),
                "forward and backward": (lambda: None, lambda _, act=plain: act()),
            },
            rounds=25,
        )
        ratio = ("Fisher", "forward and backward")
        rows.append(line("Fisher scores", case, times, ratio, (None, 1.15)))
    write("fisher", rows)


if __name__ == "__main__":
    main()
