"""The judge itself: what a wrong engine could do, and the word that must follow."""

import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from survey_lib.mechanics.groups import GraphError
from tests.mechanics import judge as court
from tests.mechanics.judge import EXACT, NOTHING, REFUSED, WRONG, judge
from tests.mechanics.toys import Concatenated, Flattened, Plain, Residual, example
from tests.oracles.channels import UnmetReader, Zeroing, call, scrambled

TRACE, APPLY = court.trace_groups, court.apply_recipe


def verdict(make=Plain, **options):
    torch.manual_seed(0)
    model = make()
    return judge(model, example(model), **options)


def test_the_engine_as_it_is_passes():
    found = verdict()
    assert (found.word, found.groups, found.units) == (EXACT, 2, 11)
    assert found.moved > 0.1
    assert 0 < found.error < 1e-13


def spoil_graph(monkeypatch, spoil):
    """Groups that are wrong, in an engine that doesn't check itself."""

    def trace(model, example, **options):
        return spoil(TRACE(model, example, **options))

    def apply(model, graph, recipe, **options):
        return APPLY(model, graph, recipe, **options | {"check": False})

    monkeypatch.setattr(court, "trace_groups", trace)
    monkeypatch.setattr(court, "apply_recipe", apply)


def spoil_net(monkeypatch, spoil):
    def apply(model, graph, recipe, **options):
        return spoil(APPLY(model, graph, recipe, **options), model)

    monkeypatch.setattr(court, "apply_recipe", apply)


def each_group(change):
    return lambda graph: replace(graph, groups=tuple(map(change, graph.groups)))


def without(role, module, tensor):
    """Groups that have forgotten one of their slices."""

    def change(group):
        kept = [s for s in group.slices if (s.role, s.module, s.tensor) != (role, module, tensor)]
        return replace(group, slices=tuple(kept))

    return each_group(change)


@pytest.mark.parametrize(
    ("make", "spoil", "what"),
    [
        (Plain, without("in", "b", "weight"), "the pruned net crashes"),
        (Plain, without("through", "norm", "running_var"), "the pruned net crashes"),
        (Plain, without("out", "a", "bias"), "the pruned net crashes"),
        (Concatenated, without("in", "c", "weight"), "the pruned net crashes"),
        (Plain, each_group(lambda g: replace(g, protected="")), "silent|crashes|shape"),
    ],
)
def test_a_graph_that_forgets_is_wrong(make, spoil, what, monkeypatch):
    spoil_graph(monkeypatch, spoil)
    found = verdict(make)
    assert found.word == WRONG
    assert re.search(what, found.reason), found.reason


def test_reading_columns_of_other_channels_is_a_silent_difference(monkeypatch):
    def shift(group):
        moved = [
            replace(s, positions=s.positions[::-1].copy()) if s.role == "in" else s
            for s in group.slices
        ]
        return replace(group, slices=tuple(moved))

    spoil_graph(monkeypatch, each_group(shift))
    found = verdict(Flattened)
    assert (found.word, "silent difference" in found.reason) == (WRONG, True)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda small, dense: nudge(small, 1e-7), "silent difference"),
        (lambda small, dense: nudge(dense, 1e-12) or small, "apply_recipe changed the net"),
        (lambda small, dense: dense.train() and small, "apply_recipe changed the net"),
        (lambda small, dense: small.eval(), "other modes"),
        (lambda small, dense: small.requires_grad_(True), "others are frozen"),
        (lambda small, dense: torch.manual_seed(3) and small, "random state"),
        (lambda small, dense: small.register_forward_pre_hook(print) and nn.Identity(), "modes"),
    ],
)
def test_a_net_that_is_changed_is_wrong(spoil, what, monkeypatch):
    spoil_net(monkeypatch, spoil)
    found = verdict(seeds=0)
    assert found.word == WRONG
    assert what in found.reason


def nudge(net, by):
    with torch.no_grad():
        net.head.bias[0] += by
    return None if by == 1e-12 else net


def test_miscounting_is_wrong(monkeypatch):
    spoil_graph(monkeypatch, lambda graph: replace(graph, layers=graph.layers[1:]))
    found = verdict()
    assert (found.word, found.reason[:5]) == (WRONG, "MACs:")


def test_a_reader_the_net_never_reads_with_is_wrong(monkeypatch):
    def claim(group):
        slices = [replace(s, module="head") if s.role == "in" else s for s in group.slices]
        return replace(group, slices=tuple(slices))

    spoil_graph(monkeypatch, each_group(claim))
    assert verdict(Residual).word == WRONG


@pytest.mark.parametrize(
    ("error", "word", "what"),
    [
        (GraphError("a: no"), REFUSED, "a: no"),
        (GraphError("a: no\nand more"), WRONG, "not one sentence"),
        (IndexError("tuple index"), WRONG, "crash in trace_groups: IndexError: tuple index"),
    ],
)
def test_refusals_and_crashes_are_told_apart(error, word, what, monkeypatch):
    def trace(model, example):
        raise error

    monkeypatch.setattr(court, "trace_groups", trace)
    found = verdict()
    assert found.word == word
    assert what in found.reason


def test_a_refusal_that_changes_the_net_is_wrong(monkeypatch):
    def trace(model, example):
        model.eval()
        raise GraphError("a: no")

    monkeypatch.setattr(court, "trace_groups", trace)
    assert "a refusal changed the net" in verdict().reason


def test_a_difference_that_the_engine_itself_refuses_is_a_refusal_by_its_proof(monkeypatch):
    def apply(model, graph, recipe, **options):
        if options == court.UNPROVEN:
            return APPLY(model, graph, recipe, check=False)
        raise GraphError("a: off by 1")

    monkeypatch.setattr(court, "apply_recipe", apply)
    found = verdict()
    assert (found.word, "its own proof refuses" in found.reason) == (WRONG, True)
    spoil_graph(monkeypatch, without("in", "b", "weight"))
    monkeypatch.setattr(court, "apply_recipe", apply)
    found = verdict()
    assert (found.word, found.proof, found.reason) == (REFUSED, True, "a: off by 1")


def test_the_engines_own_check_refuses_a_graph_that_forgets(monkeypatch):
    spoil_graph(monkeypatch, without("in", "b", "weight"))
    monkeypatch.setattr(court, "apply_recipe", APPLY)
    found = verdict()
    assert (found.word, found.proof) == (REFUSED, True)
    assert "removing units of" in found.reason
    assert "nothing was changed" in found.reason


def test_a_net_that_cannot_be_trained_though_the_dense_one_can_is_wrong(monkeypatch):
    spoil_net(monkeypatch, lambda small, dense: untrainable(small))
    found = verdict(seeds=0, again=True)
    assert (found.word, "cannot be trained" in found.reason) == (WRONG, True), found.reason


def untrainable(net):
    """Its answers have no gradient."""
    net.head.register_forward_hook(lambda _module, _given, out: out.detach())
    return net


def test_a_protected_net_is_told_from_an_exact_one(monkeypatch):
    spoil_graph(monkeypatch, each_group(lambda g: replace(g, protected=g.protected or "no")))
    found = verdict()
    assert (found.word, found.protected) == (NOTHING, {"a": "no", "b": "no"})


def test_what_is_worked_out_by_hand_counts():
    assert verdict(by_hand=lambda net, x, kept: net(x)).word == WRONG


# The oracle.


def test_readers_are_known_by_their_weight_however_they_are_called():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.c = nn.Parameter(torch.randn(2, 4)), nn.Conv1d(4, 2, 1)

        def forward(self, x):
            rows = torch.nn.functional.linear(weight=self.w, input=x)
            return rows, x @ self.w.T, self.c(x[:, :, None]), x.sum(1)

    net, x = scrambled(Net()), torch.randn(3, 4, dtype=torch.float64)
    gone = {id(net.w): (net.w, 1, [1, 3]), id(net.c.weight): (net.c.weight, 1, [0])}
    with torch.no_grad(), Zeroing(gone) as mode:
        rows, other, maps, total = call(net, x)
    some = x * torch.tensor([1, 0, 1, 0])
    assert torch.allclose(rows, some @ net.w.T, atol=1e-14)
    assert torch.equal(other, x @ net.w.T)  # not a function that is called with the weight
    assert torch.allclose(maps, net.c((x * torch.tensor([0, 1, 1, 1]))[:, :, None]), atol=1e-14)
    assert torch.equal(total, x.sum(1))
    assert mode.met == set(gone)


def test_a_share_of_every_group_is_zeroed_in_every_group():
    conv = scrambled(nn.Conv2d(6, 4, 1, groups=2, bias=False))
    x = torch.randn(1, 6, 2, 2, dtype=torch.float64)
    with torch.no_grad(), Zeroing({id(conv.weight): (conv.weight, 1, [1])}):
        got = conv(x)
    x[:, [1, 4]] = 0
    assert torch.allclose(got, conv(x), atol=1e-14)


def test_an_axis_that_does_not_read_is_an_error():
    layer = scrambled(nn.Linear(3, 3))
    mode = Zeroing({id(layer.weight): (layer.weight, 0, [1])})
    with pytest.raises(UnmetReader, match="does not read axis 0"), mode:
        layer(torch.ones(1, 3, dtype=torch.float64))
