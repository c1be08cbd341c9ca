"""From what was noted while a net ran to its channel groups."""

from collections import defaultdict
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from survey_lib.mechanics.groups import (
    ChannelGraph,
    ChannelGroup,
    Layer,
    Slice,
)
from survey_lib.mechanics.labels import NO_LABELS, NOTHING, Labelling

# Attributes that say a hidden width and that no forward pass reads.
WIDTHS = ("intermediate_size", "hidden_features", "hidden_dim")


def grouped_units(net: Labelling, inputs: tuple[tuple, dict[str, Any]]) -> ChannelGraph:
    """Groups, layers and costs of a traced net.

    Args:
        net: what was noted.
        inputs: the example, as positional and keyword inputs.
    """
    unit_of = _units(net)
    pinned: dict[int, str] = {}
    for ids, why in net.pins:
        for unit in np.unique(unit_of[ids]).tolist():
            pinned.setdefault(unit, why)
    for key, where in net.whole.items():
        if key in net.slices:
            ids = net.slices[key][1]
            for unit in np.unique(unit_of[ids[ids != NOTHING]]).tolist():
                pinned.setdefault(unit, f"{where} also reads a tensor that carries no channels")
    _separate_tensors(net, unit_of, pinned)
    _unequal_lengths(net, unit_of, pinned)
    _named_sizes(net, unit_of, pinned)
    counted = _attributes(net, unit_of, pinned)
    groups, group_of = _groups(net, unit_of, pinned, counted)
    layers = []
    for (path, name), (positions, outputs, rows, ids) in net.layers.items():
        shrinks = _by_group(ids, unit_of, group_of, groups)
        axis = 0 if ids is None else len(ids)
        layers.append(Layer(path, positions, outputs, rows, shrinks, axis, name))
    unit_macs: dict[str, float] = defaultdict(float)
    other = 0.0
    sizes = {g.name: g.size for g in groups}
    for macs, ids in net.products:
        shares = _by_group(ids, unit_of, group_of, groups)
        each = 0.0 if ids is None else macs / len(ids)
        for name, n in shares.items():
            unit_macs[name] += each * n
        other += macs - each * sum(sizes[name] * n for name, n in shares.items())
    shapes, uncounted, met = {}, set(), set()
    for path, module in net.paths:
        for name, p in module._parameters.items():
            if p is not None:
                shapes[path, name] = tuple(p.shape)
                if id(p) in met:
                    uncounted.add((path, name))
                met.add(id(p))
    for owner in net.layers:  # a weight that is a buffer, e.g. of a blur
        if owner not in shapes:
            shapes[owner] = tuple(net.tensors[owner].shape)
            uncounted.add(owner)
    return ChannelGraph(
        groups, tuple(layers), shapes, frozenset(uncounted),
        type(net.model).__name__, dict(unit_macs), other, inputs,
    )  # fmt: skip


def _units(net: Labelling) -> np.ndarray:
    """Unit of each label: labels that were joined, directly or not."""
    rows = np.concatenate([e[0] for e in net.edges] or [np.empty(0, int)])
    columns = np.concatenate([e[1] for e in net.edges] or [np.empty(0, int)])
    joined = coo_array(
        (np.ones(len(rows), bool), (rows, columns)), shape=(net.n_labels, net.n_labels)
    )
    return connected_components(joined, directed=False)[1]


def _separate_tensors(net: Labelling, unit_of: np.ndarray, pinned: dict[int, str]) -> None:
    """Tensors labelled by element join the slices where one of their axes carries units."""
    met = _met(net, unit_of) if net.separate else unit_of
    for owner, ids in net.separate.items():
        units = unit_of[ids]
        layered = [key for key in net.slices if key[:2] == owner]
        for key in layered:
            here = net.slices[key][1]
            for unit in np.unique(unit_of[here[here != NOTHING]]).tolist():
                pinned.setdefault(unit, f"{owner[1]} of {owner[0] or 'the net'} is read beside "
                                  f"its layer in {net.beside[id(net.tensors[owner])]}")  # fmt: skip
        if layered or not met[units].any():
            continue
        axis = _axis_of_units(units, met)
        if axis is None:
            for unit in np.unique(units).tolist():
                pinned.setdefault(unit, f"{owner[1]} of {owner[0] or 'the net'} has no axis of "
                                  "its own for them")  # fmt: skip
            continue
        rows = np.moveaxis(ids, axis, 0).reshape(ids.shape[axis], -1)
        at = met[np.moveaxis(units, axis, 0).reshape(rows.shape)].argmax(1)
        net.slices[(*owner, axis)] = ("through", rows[np.arange(len(rows)), at])
    for t, where in net.beside.items():
        for owner in net.owners.get(t, ()):
            if owner not in net.separate:  # too large to be labelled by element
                for key, (_, ids) in net.slices.items():
                    if key[:2] == owner:
                        for unit in np.unique(unit_of[ids[ids != NOTHING]]).tolist():
                            pinned.setdefault(unit, f"{owner[1]} of {owner[0] or 'the net'} is "
                                              f"read beside its layer in {where}")  # fmt: skip


def _axis_of_units(units: np.ndarray, met: np.ndarray) -> int | None:
    """The axis of a tensor along which its units vary; elements that nobody met don't count."""
    found = []
    for axis in range(units.ndim):
        rows = np.moveaxis(units, axis, 0).reshape(units.shape[axis], -1)
        low = np.where(met[rows], rows, len(met)).min(1)
        high = np.where(met[rows], rows, -1).max(1)
        if (low == high).all():
            found.append((len(np.unique(low)), len(rows), -axis))
    return -max(found)[2] if found else None


def _unequal_lengths(net: Labelling, unit_of: np.ndarray, pinned: dict[int, str]) -> None:
    """Axes that must stay equally long carry the same units, or stay whole."""
    for a, b, why in net.same:
        ua, ub = (unit_of[ids[ids != NOTHING]] for ids in (a, b))
        if not np.array_equal(np.sort(ua), np.sort(ub)):
            for unit in np.unique(np.concatenate([ua, ub])).tolist():
                pinned.setdefault(unit, why)


def _named_sizes(net: Labelling, unit_of: np.ndarray, pinned: dict[int, str]) -> None:
    """An axis of a parameter's view whose size is written down shrinks by an attribute or not."""
    if not net.sized:
        return
    met = _met(net, unit_of)
    for ids, axis, tag, where in net.sized:
        units = unit_of[ids]
        if not met[units].any():
            continue
        rows = np.moveaxis(units, axis, 0).reshape(units.shape[axis], -1)
        known = [set(row[met[row]].tolist()) for row in rows]
        if all(found == known[0] for found in known):
            if tag is not None:
                net.spoilt.setdefault(tag, f"{where} shapes another axis by it")
        elif tag is not None and all(len(found) == 1 for found in known):
            at = met[rows].argmax(1)
            labels = np.moveaxis(ids, axis, 0).reshape(rows.shape)
            net.counts.append((tag, labels[np.arange(len(rows)), at]))
        else:
            for unit in np.unique(units[met[units]]).tolist():
                pinned.setdefault(unit, f"{where} names their number; write -1 instead")


def _met(net: Labelling, unit_of: np.ndarray) -> np.ndarray:
    """Which units lie on a layer."""
    met = np.zeros(len(unit_of), bool)
    for _, ids in net.slices.values():
        met[unit_of[ids[ids != NOTHING]]] = True
    return met


def _attributes(
    net: Labelling, unit_of: np.ndarray, pinned: dict[int, str]
) -> dict[tuple[str, str], np.ndarray]:
    """Attribute → units it counts; where it serves another purpose too, these stay."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for (path, tensor, axis), why in _spoilt_axes(net):
        if (path, tensor, axis) in net.slices:
            _pin_labels(net.slices[path, tensor, axis][1], unit_of, pinned, why)
    for tag, ids in net.counts:
        units = np.sort(unit_of[ids])
        if ":" in tag[1]:  # a size of a tensor follows by itself, where the same units lie there
            _, there = net.slices.get((tag[0], *_axis_named(tag[1])), ("", NO_LABELS))
            if not np.array_equal(np.sort(unit_of[there[there != NOTHING]]), units):
                why = f"a size of {tag[0]} gives another axis its length"
                _pin_labels(ids, unit_of, pinned, why)
                _pin_labels(there, unit_of, pinned, why)
            continue
        known = found.setdefault(tag, units)
        why = ""
        if tag in net.spoilt:
            why = f"{tag[1]} of {tag[0] or 'the net'} serves another purpose too: {net.spoilt[tag]}"
        elif not np.array_equal(known, units):
            why = f"{tag[1]} of {tag[0] or 'the net'} counts channels of several layers"
        if why:
            for unit in np.unique(np.concatenate([known, units])).tolist():
                pinned.setdefault(unit, why)
    return found


def _axis_named(size: str) -> tuple[str, int]:
    tensor, _, axis = size.partition(":")
    return tensor, int(axis)


def _spoilt_axes(net: Labelling) -> list[tuple[tuple[str, str, int], str]]:
    """Axes of weights whose size serves another purpose; why."""
    return [
        ((path, *_axis_named(size)), f"its number serves another purpose: {why}")
        for (path, size), why in net.spoilt.items()
        if ":" in size
    ]


def _pin_labels(ids: np.ndarray, unit_of: np.ndarray, pinned: dict[int, str], why: str) -> None:
    for unit in np.unique(unit_of[ids[ids != NOTHING]]).tolist():
        pinned.setdefault(unit, why)


def _by_group(
    ids: np.ndarray | None, unit_of: np.ndarray, group_of: np.ndarray,
    groups: tuple[ChannelGroup, ...],
) -> dict[str, int]:  # fmt: skip
    """How many of these labels one unit of each group holds."""
    if ids is None:
        return {}
    here = group_of[unit_of[ids[ids != NOTHING]]]
    return {
        groups[g].name: int(n) // groups[g].size
        for g, n in zip(*np.unique(here[here >= 0], return_counts=True), strict=True)
    }


def _groups(
    net: Labelling,
    unit_of: np.ndarray,
    pinned: dict[int, str],
    counted: dict[tuple[str, str], np.ndarray],
) -> tuple[tuple[ChannelGroup, ...], np.ndarray]:
    """Units that lie equally often on the same axes, under the same ties, are one group.

    Returns:
        The groups, and the group of each unit (−1: none).
    """
    slices = net.slices
    n_units = int(unit_of.max()) + 1 if len(unit_of) else 0
    words = np.random.default_rng(0)  # one random word for each axis: a unit's sum names its place
    place = np.zeros(n_units, np.uint64)
    nowhere = np.iinfo(np.int64).max
    first = np.full(n_units, nowhere)
    units_on: dict[tuple[str, str, int], np.ndarray] = {}
    offset = 0
    seen: dict[int, np.ndarray] = {}
    for key, (_, ids) in slices.items():
        if id(ids) not in seen:
            seen[id(ids)] = np.where(ids == NOTHING, -1, unit_of[ids])
        units = units_on[key] = seen[id(ids)]
        found = units[units >= 0]
        np.add.at(place, found, words.integers(2**63, dtype=np.uint64))
        np.minimum.at(first, found, offset + np.flatnonzero(units >= 0))
        offset += len(units)
    for units in counted.values():
        np.add.at(place, units, words.integers(2**63, dtype=np.uint64))
    # a protected unit never shares a group with a free one
    reasons = {why: i for i, why in enumerate(dict.fromkeys(["", *pinned.values()]))}
    reason = np.zeros(n_units, np.int64)
    for unit, why in pinned.items():
        reason[unit] = reasons[why]
    known = np.argsort(first, kind="stable")[: int((first < nowhere).sum())]
    group_of = np.full(n_units, -1)
    if not len(known):
        return (), group_of
    keys = np.stack([place[known], reason[known].astype(np.uint64)])
    _, start, inverse = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(start))[inverse.ravel()]  # groups in the order of their first unit
    members = np.split(known[np.argsort(rank, kind="stable")], np.cumsum(np.bincount(rank))[:-1])
    index = np.full(n_units, -1)  # unit → its number within its group
    for g, units in enumerate(members):
        index[units] = np.arange(len(units))
        group_of[units] = g
    why_of = list(reasons)
    ties = _ties(net, unit_of, members)
    sizes = [len(units) for units in members]
    found_slices: list[list[Slice]] = [[] for _ in members]
    flattened: list[list[str]] = [[] for _ in members]
    beside: list[list[str]] = [[] for _ in members]
    # most axes carry the labels of another one, as one and the same array
    spots: dict[int, list[tuple[int, np.ndarray]]] = {}
    for (module, tensor, axis), units in units_on.items():
        role, ids = slices[(module, tensor, axis)]
        if id(ids) not in spots:
            spots[id(ids)] = _places(units, group_of, index, sizes)
        present = spots[id(ids)]
        for g, positions in present:
            found_slices[g].append(Slice(module, tensor, axis, role, positions))
            wide = max((s.positions.shape[1] for s in found_slices[g] if s.role != "in"), default=1)
            if role == "in" and positions.shape[1] > wide:
                each = positions.shape[1] // wide
                flattened[g].append(f"flattened: {module} reads {each} positions of each channel")
            if role == "in" and len(present) > 1:
                beside[g].append(module)
    attributes: dict[int, list[tuple[str, str, int]]] = defaultdict(list)
    for tag, there in counted.items():
        for g, n in zip(*np.unique(group_of[there], return_counts=True), strict=True):
            attributes[int(g)].append((*tag, int(n) // sizes[g]))
    names: dict[str, int] = defaultdict(int)
    groups = []
    for g, units in enumerate(members):
        why = why_of[reason[units[0]]]
        base = next((s.module for s in found_slices[g] if s.role == "out"), "")
        base = base or found_slices[g][0].module
        names[base] += 1
        name = base if names[base] == 1 else f"{base}#{names[base]}"
        said = [*ties.get(int(units[0]), []), *flattened[g]]
        if beside[g]:
            said.append(f"concatenated: read beside others by {', '.join(beside[g])}")
        counts = attributes[g]
        least = 2 if any((group_of[unit_of[ids]] == g).any() for ids in net.least) else 1
        counts += _widths(net, found_slices[g], len(units), {c[:2] for c in counts})
        groups.append(
            ChannelGroup(
                name, len(units), tuple(found_slices[g]), tuple(dict.fromkeys(said)), why,
                tuple(counts), least,
            )
        )  # fmt: skip
    return tuple(groups), group_of


def _places(
    units: np.ndarray, group_of: np.ndarray, index: np.ndarray, sizes: list[int]
) -> list[tuple[int, np.ndarray]]:
    """Groups that lie on an axis, each with the positions (units, k) of its units."""
    here = np.where(units >= 0, group_of[units], -1)
    g = int(here[0])
    if g >= 0 and (here == g).all():  # as nearly always: one group, its units in order
        number = index[units]
        if len(number) == sizes[g] and (number[1:] > number[:-1]).all():
            return [(g, np.arange(len(number))[:, None])]
        return [(g, np.argsort(number, kind="stable").reshape(sizes[g], -1))]
    found = []
    for g in np.unique(here[here >= 0]).tolist():
        at = np.flatnonzero(here == g)
        order = np.argsort(index[units[at]], kind="stable")
        found.append((g, at[order].reshape(sizes[g], -1)))
    return found


def _ties(net: Labelling, unit_of: np.ndarray, members: list[np.ndarray]) -> dict[int, list[str]]:
    """Why units were joined, by each group's first unit, which speaks for all."""
    speaks = np.zeros(len(unit_of), bool)
    speaks[[units[0] for units in members]] = True
    ties: dict[int, list[str]] = defaultdict(list)
    if not net.edges:
        return ties
    units = unit_of[np.concatenate([e[0] for e in net.edges])]
    number = np.repeat(np.arange(len(net.edges)), [len(e[0]) for e in net.edges])
    n = max(1, len(unit_of))
    for pair in np.unique(number[speaks[units]] * n + units[speaks[units]]).tolist():
        ties[pair % n].append(net.edges[pair // n][2])
    return ties


def _widths(
    net: Labelling, slices: list[Slice], size: int, known: set[tuple[str, str]]
) -> list[tuple[str, str, int]]:
    """Attributes of the parent that say the hidden width and that no forward pass reads."""
    found = []
    for s in slices:
        parent = s.module.rpartition(".")[0]
        if s.role != "out" or s.tensor != "weight" or parent not in net.modules:
            continue
        for attribute in WIDTHS:
            value = net.modules[parent].__dict__.get(attribute)
            mine = (parent, attribute)
            if type(value) is int and value == size and mine not in known:
                known.add(mine)
                found.append((*mine, 1))
    return found
