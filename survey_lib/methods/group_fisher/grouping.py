r"""The paper's layer grouping: which layers share the mask on their inputs (algorithm 1).

A layer (convolution or linear) is known by its nearest ancestors among layers, its *parents* P[l].
Layers that share a parent are coupled; so is a layer whose parent is a grouped or depthwise
convolution with that convolution itself, whose inputs and outputs go together.

:func:`first_match` is algorithm 1 to the letter. It joins a layer to the first group that fits and
never merges two groups, so its result depends on the order of the layers. :func:`union_find` is
what the pruning rests on, and agrees with the channel engine
(:mod:`survey_lib.mechanics.graph`) on nets without concatenation. Where maps are concatenated, the
paper's groups are coarser: they name layers, the engine's name channels.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

from torch import fx, nn

from survey_lib.mechanics.groups import CONV, ChannelGraph

Parents = Mapping[str, AbstractSet[str]]


def is_grouped(module: nn.Module) -> bool:
    """Whether inputs and outputs of a layer must be removed together."""
    return isinstance(module, CONV) and module.groups > 1


def parents(model: nn.Module) -> tuple[dict[str, set[str]], set[str]]:
    """Step (i): P[l] by layer, in the order of the forward pass, and the grouped convolutions.

    From each layer the graph is searched backwards, through everything that is no layer.
    """
    graph = fx.symbolic_trace(model).graph
    layers = {
        n: str(n.target)
        for n in graph.nodes
        if n.op == "call_module"
        and isinstance(model.get_submodule(str(n.target)), (*CONV, nn.Linear))
    }
    found: dict[str, set[str]] = {}
    for node, name in layers.items():
        above: set[str] = set()
        seen: set[fx.Node] = set()
        stack = list(node.all_input_nodes)
        while stack:
            n = stack.pop()
            if n in seen:
                continue
            seen.add(n)
            if n in layers:
                above.add(layers[n])
            else:
                stack.extend(n.all_input_nodes)
        found.setdefault(name, set()).update(above)
    return found, {name for name in found if is_grouped(model.get_submodule(name))}


def first_match(p: Parents, grouped: AbstractSet[str] = frozenset()) -> list[list[str]]:
    r"""Step (ii) as the paper prints it: layer l joins the first group g with
    :math:`P[l] \cap (P[g] \cup C_g) \neq \emptyset`, where :math:`C_g` are the grouped
    convolutions in g; then P[g] grows by P[l]. Layers without parents read the input.
    """  # noqa: D205
    groups: list[tuple[list[str], set[str]]] = []  # (layers of g, P[g])
    for layer, above in p.items():
        if not above:
            continue
        for members, p_g in groups:
            c_g = {m for m in members if m in grouped}
            if above & (p_g | c_g):
                members.append(layer)
                p_g |= above
                break
        else:
            groups.append(([layer], set(above)))
    return [members for members, _ in groups]


def union_find(p: Parents, grouped: AbstractSet[str] = frozenset()) -> list[list[str]]:
    """The same relation, closed: whatever a layer touches is joined, groups included."""
    root: dict[str, str] = {}

    def find(x: str) -> str:
        root.setdefault(x, x)
        while root[x] != x:
            root[x] = root[root[x]]
            x = root[x]
        return x

    for layer, above in p.items():
        for parent in above:  # a mask on inputs of l is one on outputs of its parents
            root[find(f"in {layer}")] = find(f"out {parent}")
    for layer in grouped:
        root[find(f"in {layer}")] = find(f"out {layer}")
    groups: dict[str, list[str]] = {}
    for layer, above in p.items():
        if above:
            groups.setdefault(find(f"in {layer}"), []).append(layer)
    return list(groups.values())


def engine_groups(model: nn.Module, graph: ChannelGraph) -> list[list[str]]:
    """The engine's groups in the paper's terms: the layers whose inputs carry a group's mask."""
    found = []
    for group in graph.groups:
        inside = [s.module for s in group.slices if s.role == "in" or (
            s.role == "through" and is_grouped(model.get_submodule(s.module)))]  # fmt: skip
        if inside:
            found.append(list(dict.fromkeys(inside)))
    return found


def as_sets(groups: Sequence[Sequence[str]]) -> set[frozenset[str]]:
    """Groups without their order, to be compared."""
    return {frozenset(g) for g in groups}
