"""Scores and a budget give a recipe; every request that cannot be served says so."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_lib.measure.macs import count_macs
from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.selection import ScoreError, select
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.models import build_model

X = torch.randn(1, 1, 28, 28)
MODEL = build_model("mobilenet_small", generator=torch.Generator().manual_seed(0))
GRAPH = trace_groups(MODEL, X)


def scores(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {c.name: torch.rand(c.size, generator=g) for c in GRAPH.prunable}


def kept_counts(recipe):
    return np.array([len(recipe.get(g.name, range(g.size))) for g in GRAPH.groups])


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 1000), st.floats(0.1, 1.0), st.sampled_from(["macs", "params", "activations"]),
    st.sampled_from(["global", "local"]), st.sampled_from(["", "macs", "activations"]),
)  # fmt: skip
def test_the_budget_is_met_within_one_removal(seed, keep, metric, scope, per):
    costs = Costs(GRAPH, metric)
    try:
        recipe = select(GRAPH, scores(seed), Budget(metric, keep), scope=scope, per=per)
    except BudgetNotMet:
        floor = costs(np.array([1 if not g.protected else g.size for g in GRAPH.groups]))
        assert floor > keep * costs.dense
        return
    kept = kept_counts(recipe)
    assert costs(kept) <= keep * costs.dense
    more = [costs(kept + (np.arange(len(kept)) == i)) for i, g in enumerate(GRAPH.groups)
            if kept[i] < g.size]  # fmt: skip
    assert not more or max(more) > keep * costs.dense  # some unit back would break it
    assert (kept >= 1).all()
    for group in GRAPH.prunable:  # within a group the lowest scores went
        s = scores(seed)[group.name]
        stay = torch.tensor(recipe[group.name])
        gone = torch.tensor(sorted(set(range(group.size)) - set(recipe[group.name])), dtype=int)
        assert not len(gone) or s[gone].max() <= s[stay].min()


def test_the_real_net_has_the_macs_that_were_promised():
    recipe = select(GRAPH, scores(), Budget("macs", 0.4))
    small = apply_recipe(MODEL, GRAPH, recipe)
    assert 0.38 < count_macs(small, X) / count_macs(MODEL, X) <= 0.4


def test_global_ranks_across_groups_and_local_does_not():
    s = scores()
    s["blocks.0.layers.0"] = s["blocks.0.layers.0"] + 100  # one group far above all others
    wide = select(GRAPH, s, Budget("macs", 0.6), scope="global")
    even = select(GRAPH, s, Budget("macs", 0.6), scope="local")
    assert len(wide["blocks.0.layers.0"]) == 48
    shares = [len(even[g.name]) / g.size for g in GRAPH.prunable]
    assert max(shares) - min(shares) < 0.1


class Two(torch.nn.Module):
    """Four channels on 8 × 8, then eight on 4 × 4; a layer over them."""

    def __init__(self, first=4, second=8):
        super().__init__()
        self.a = torch.nn.Conv2d(1, first, 1, bias=False)
        self.b = torch.nn.Conv2d(first, second, 1, stride=2, bias=False)
        self.head = torch.nn.Linear(second, 2, bias=False)

    def forward(self, x):
        return self.head(self.b(self.a(x)).mean((2, 3)))


def kept_of_two(sizes, params, **options):
    """Units of (a, b) that are left when at most so many parameters are."""
    graph = trace_groups(Two(*sizes), torch.zeros(1, 1, 8, 8))
    same = {g.name: torch.arange(g.size).float() for g in graph.prunable}
    budget = Budget("params", params / Costs(graph, "params").dense)
    recipe = select(graph, same, budget, scope="local", **options)
    return len(recipe["a"]), len(recipe["b"])


def test_local_shares_are_taken_at_their_middle():
    """One unit of eight is 1/16 on its way, one of four 1/8: the larger group loses one first,
    wherever it stands, then the smaller one, then the larger group two (3/16, 5/16)."""
    # widths (a, b) have a + a·b + 2·b parameters
    assert [kept_of_two((4, 8), n) for n in (52, 46, 38, 33, 28)] == [
        (4, 8), (4, 7), (3, 7), (3, 6), (3, 5),
    ]  # fmt: skip
    assert [kept_of_two((8, 4), n) for n in (48, 43, 34, 30, 26)] == [
        (8, 4), (7, 4), (7, 3), (6, 3), (5, 3),
    ]  # fmt: skip
    # by twos: blocks of 2/8 and 2/4 have their middles at 1/8 and 1/4
    assert kept_of_two((4, 8), 51, round_to=2) == (4, 6)
    assert kept_of_two((8, 4), 47, round_to=2) == (6, 4)


def test_scores_are_divided_by_what_they_name_not_by_the_budgets_metric():
    """A channel of a is 64 outputs and 64 + 16·8 MACs, one of b 16 outputs and 16·4 + 2 MACs.

    By outputs a's scores are divided by 64 and b's by 16, by MACs by 192 and by 66.
    """
    graph = trace_groups(Two(), torch.zeros(1, 1, 8, 8))
    assert Costs(graph, "activations").savings(Costs(graph, "macs").sizes).tolist() == [64, 16, 1]
    assert Costs(graph, "macs").savings(Costs(graph, "macs").sizes).tolist() == [192, 66, 8]
    # a's lowest is 3.5 times b's: 3.5/64 < 1/16, but 3.5/192 > 1/66
    scores = {"a": torch.tensor([3.5, 99, 99, 99]), "b": torch.tensor([1.0] + 7 * [99])}
    for metric in ("macs", "params", "activations"):
        budget = Budget(metric, 0.99)
        by_outputs = select(graph, scores, budget, per="activations")
        by_macs = select(graph, scores, budget, per="macs")
        assert (len(by_outputs["a"]), len(by_outputs["b"])) == (3, 8)
        assert (len(by_macs["a"]), len(by_macs["b"])) == (4, 7)


def test_normalising_by_macs_removes_what_is_dear():
    same = {g.name: torch.ones(g.size) + 1e-6 * torch.arange(g.size) for g in GRAPH.prunable}
    costs = Costs(GRAPH, "macs")
    dear = GRAPH.groups[int(np.argmax(costs.savings(costs.sizes)))]
    recipe = select(GRAPH, same, Budget("macs", 0.95), per="macs")
    gone = {g.name: g.size - len(recipe[g.name]) for g in GRAPH.prunable}
    assert max(gone, key=gone.get) == dear.name
    assert sum(v > 0 for v in gone.values()) == 1


@pytest.mark.parametrize("to", [4, 8, 16])
def test_kept_counts_are_multiples(to):
    recipe = select(GRAPH, scores(), Budget("macs", 0.5), round_to=to)
    for group in GRAPH.prunable:
        n = len(recipe[group.name])
        assert n % to == 0 or n == group.size
        assert n >= min(to, group.size)


def test_min_keep_is_kept_and_what_is_reachable_is_said():
    with pytest.raises(BudgetNotMet, match=r"macs=0\.05 is out of reach.*down to 0\.[1-9]"):
        select(GRAPH, scores(), Budget("macs", 0.05), min_keep=20)
    recipe = select(GRAPH, scores(), Budget("macs", 0.5), min_keep=14)
    assert min(map(len, recipe.values())) >= 14


def test_the_order_of_units_follows_a_permutation():
    s = {k: v.double() for k, v in scores().items()}
    order = {k: torch.randperm(len(v), generator=torch.Generator().manual_seed(1))
             for k, v in s.items()}  # fmt: skip
    plain = select(GRAPH, s, Budget("macs", 0.5))
    moved = select(GRAPH, {k: v[order[k]] for k, v in s.items()}, Budget("macs", 0.5))
    for k in s:
        assert sorted(order[k][moved[k]].tolist()) == plain[k]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "no group was scored"),
        ({"nowhere": torch.ones(3)}, "no prunable channel group 'nowhere'"),
        ({"classifier": torch.ones(10)}, "no prunable channel group 'classifier'"),
        ({"head.0": torch.ones(95)}, r"head\.0: need 96 finite scores, got shape \(95,\)"),
        ({"head.0": torch.full((96,), torch.nan)}, r"head\.0: need 96 finite scores.*NaN"),
    ],
)
def test_scores_that_do_not_fit_are_one_clear_sentence(bad, message):
    with pytest.raises(ScoreError, match=message):
        select(GRAPH, bad, Budget("macs", 0.5))


def test_other_bad_requests():
    with pytest.raises(ValueError, match="no scope 'layer'"):
        select(GRAPH, scores(), Budget("macs", 0.5), scope="layer")
    with pytest.raises(ValueError, match="cannot be budgeted by 'bits'"):
        select(GRAPH, scores(), Budget("bits", 0.5))
    with pytest.raises(ValueError, match="at least 1"):
        select(GRAPH, scores(), Budget("macs", 0.5), min_keep=0)
    for keep in (0, 1.5):
        with pytest.raises(ValueError, match=r"keep must lie in \(0, 1\]"):
            Budget("macs", keep)


def test_a_share_that_a_net_has_is_met_by_that_net():
    """(cost / dense) · dense is below the cost for one pair in 26, by a rounding."""
    below = 0
    for dense in range(2, 200):
        for cost in range(1, dense):
            budget = Budget("macs", cost / dense)
            below += budget.keep * dense < cost
            assert cost <= budget.allowed(dense) < cost + 1
    assert below > 0
    assert Budget("macs", 1.0).allowed(7) >= 7
