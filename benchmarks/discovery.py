"""Finding all groups: this engine against torch-pruning, each from the net to its groups."""

from benchmarks.common import line, take_turns, write
from benchmarks.zoo import FAMILIES, images, net, peer_groups
from survey_lib.mechanics.graph import trace_groups


def main() -> None:
    rows = []
    for name in FAMILIES:
        for size in (64, 224):
            model, x = net(name), images(1, size)
            times = take_turns(
                {
                    "ours": (lambda: None, lambda _, m=model, x=x: trace_groups(m, x)),
                    "torch-pruning": (lambda: None, lambda _, m=model, x=x: peer_groups(m, x)),
                    "one forward": (lambda: None, lambda _, m=model, x=x: m(x)),
                }
            )
            units = len(trace_groups(model, x).prunable), len(peer_groups(model, x))
            rows.append(
                line(
                    "group discovery",
                    f"{name}, {size} × {size}",
                    times,
                    ("torch-pruning", "ours"),
                    (2, None),
                    groups={"ours": units[0], "torch-pruning": units[1]},
                )
            )
    write("discovery", rows)


if __name__ == "__main__":
    main()
