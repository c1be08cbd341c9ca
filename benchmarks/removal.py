"""Removing half of every group: this engine against torch-pruning.

In the first row of a net the groups are found before the clock starts, on both sides. In the
second the clock runs from the net to the smaller net, groups included. Both change the net in
place; what the library does by default, leaving the dense net as it is, is the third side. The
proof that a graph's first recipe is exact is off in both and has a row of its own.
"""

import copy

from benchmarks.common import line, take_turns, write
from benchmarks.zoo import CUT, halves, images, net, peer_fresh, peer_prune, peer_step
from survey_lib.measure.size import count_parameters
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe


def main() -> None:
    rows = []
    for name in CUT:
        model, x = net(name), images(1, 64)
        graph = trace_groups(model, x)
        recipe = halves(graph)
        kept = {
            s.module: len(recipe[g.name]) * s.positions.shape[1]
            for g in graph.prunable
            for s in g.slices
            if (s.tensor, s.axis) == ("weight", 0) and s.role != "in"
        }

        def ours(inplace, model=model, graph=graph, recipe=recipe):
            def prepare():
                return copy.deepcopy(model) if inplace else model

            return prepare, lambda m: apply_recipe(m, graph, recipe, inplace=inplace, check=False)

        def theirs(model=model, x=x, kept=kept):
            return lambda: peer_fresh(model, x), lambda given: peer_prune(given, kept)

        small = {
            "ours": count_parameters(apply_recipe(model, graph, recipe, check=False)),
            "torch-pruning": count_parameters(peer_prune(peer_fresh(model, x), kept)),
        }
        if len(set(small.values())) > 1:
            raise SystemExit(f"removal of {name}: the sides removed different things: {small}")
        times = take_turns(
            {"ours": ours(True), "torch-pruning": theirs(), "ours, into a copy": ours(False)}
        )
        rows.append(
            line(
                "removal",
                f"{name}, half of every group",
                times,
                ("torch-pruning", "ours"),
                (10, None),
                params=small,
            )
        )

        def fresh(model=model):
            return copy.deepcopy(model)

        def whole(m, x=x, recipe=recipe):
            return apply_recipe(m, trace_groups(m, x), recipe, inplace=True, check=False)

        small = {
            "ours": count_parameters(whole(fresh())),
            "torch-pruning": count_parameters(peer_step(fresh(), x)),
        }
        if len(set(small.values())) > 1:
            raise SystemExit(f"pruning {name}: the sides removed different things: {small}")
        times = take_turns(
            {"ours": (fresh, whole), "torch-pruning": (fresh, lambda m, x=x: peer_step(m, x))}
        )
        rows.append(
            line(
                "net to smaller net",
                f"{name}, half of every group",
                times,
                ("torch-pruning", "ours"),
                (1, None),
                params=small,
            )
        )

        def found(model=model, x=x):
            return trace_groups(model, x)  # a graph's first recipe alone is checked

        def checked(check, model=model, recipe=recipe):
            return lambda traced: apply_recipe(model, traced, recipe, check=check)

        times = take_turns(
            {"with the check": (found, checked(True)), "without": (found, checked(False))}
        )
        rows.append(
            line(
                "self-check",
                f"{name}, half of every group, into a copy",
                times,
                ("with the check", "without"),
                None,
            )
        )
    write("removal", rows)


if __name__ == "__main__":
    main()
