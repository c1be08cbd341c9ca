"""Tied tensors: written once, tied again, whatever the file and the net say of them."""

import copy

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from survey_lib.measure.size import file_bytes
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.sparse import StorageError, load_sparse, model_bytes, save_sparse
from survey_lib.mechanics.surgery import apply_recipe, load_compressed, save_compressed
from survey_lib.tasks.data import DataError
from survey_lib.tasks.own import load_weights
from survey_lib.tasks.states import distinct, fill


class Tied(nn.Module):
    """Embedding and output share a matrix, and one block stands twice."""

    def __init__(self, tie=True):
        super().__init__()
        self.e = nn.Embedding(11, 6)
        self.a = self.b = nn.Linear(6, 6)
        self.c = nn.Linear(6, 9)
        self.d = nn.Linear(9, 6)
        self.o = nn.Linear(6, 11, bias=False)
        if tie:
            self.o.weight = self.e.weight

    def forward(self, t):
        return self.o(self.d(self.c(self.b(self.a(self.e(t)).relu()).relu()).relu()))


T = torch.arange(10).view(2, 5)
TIED = {"b.weight": "a.weight", "b.bias": "a.bias", "o.weight": "e.weight"}


def test_each_tensor_stands_once():
    net = Tied()
    tensors, tied = distinct(net)
    assert tied == TIED
    assert set(tensors) | set(tied) == set(net.state_dict())
    assert sum(t.numel() for t in tensors.values()) == sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("sparse", [False, True])
def test_the_file_of_a_net_has_the_bytes_of_its_parameters(sparse, tmp_path):
    net = Tied()
    whole = 4 * sum(p.numel() for p in net.parameters())
    if sparse:
        with torch.no_grad():
            net.e.weight[1:] = 0
        written = save_sparse(net, tmp_path / "net")
        assert written == whole - 4 * 60 + 9 == model_bytes(net, "bitmask")
    else:
        assert model_bytes(net) == whole
        save_file(distinct(net)[0], tmp_path / "net")
        assert whole < (tmp_path / "net").stat().st_size == file_bytes(net)


def test_views_into_another_tensor_are_written_as_tensors_of_their_own(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 4), nn.Linear(2, 2))
    base = net[0].weight.detach()
    net[1].weight = nn.Parameter(base[:2])
    net[2].weight = nn.Parameter(base.t())
    net[3].weight = nn.Parameter(base[::2, ::2])
    tensors, tied = distinct(net)
    assert not tied
    save_file(tensors, tmp_path / "net")
    again = copy.deepcopy(net)
    fill(again, load_file(tmp_path / "net"), {})
    x = torch.randn(3, 4)
    assert torch.equal(again[2](again[0](x)), net[2](net[0](x)))


def test_empty_tensors_are_not_tied_for_having_no_memory():
    net = nn.Module()
    net.a, net.b = nn.Parameter(torch.zeros(0, 3)), nn.Parameter(torch.zeros(0, 3))
    assert distinct(net)[1] == {}


RECIPES = [{}, {"c": [0, 3]}, {"e": [0, 1, 2]}, {"e": [1, 4], "c": [2]}]


def recipe_of(graph, wanted):
    """Of the groups that may be pruned, in whatever way the net's other groups are tied."""
    free = {g.name for g in graph.prunable}
    return {name: kept for name, kept in wanted.items() if name in free}


@pytest.mark.parametrize("wanted", RECIPES)
def test_a_small_net_is_saved_loaded_and_still_tied(wanted, tmp_path):
    torch.manual_seed(0)
    net = Tied().eval()
    graph = trace_groups(net, T)
    recipe = recipe_of(graph, wanted)
    small = apply_recipe(net, graph, recipe)
    size = save_compressed(small, graph, recipe, tmp_path)
    values = 4 * sum(p.numel() for p in small.parameters())
    assert values < size < values + 1000
    again = load_compressed(tmp_path, Tied(), T)
    assert torch.equal(again(T), small(T))
    assert again.o.weight is again.e.weight
    assert again.a is again.b
    with torch.no_grad():  # one tensor, not two that are alike
        again.e.weight.mul_(2)
    assert torch.equal(again.o.weight, 2 * small.e.weight)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_net_that_was_tied_or_untied_later_comes_back_as_it_was(sparse, tmp_path):
    """The constructor ties and the saved net does not, and the other way round."""
    x, path = torch.arange(4), tmp_path / "net"
    for ties in (True, False):
        saved, fresh = Tied(tie=ties).eval(), Tied(tie=not ties).eval()
        if sparse:
            with torch.no_grad():
                saved.e.weight[:9] = 0
            save_sparse(saved, path)
            load_sparse(fresh, path)
        else:
            tensors, tied = distinct(saved)
            fill(fresh, tensors, tied)
        assert torch.equal(fresh(x), saved(x))
        assert (fresh.o.weight is fresh.e.weight) == ties
        assert isinstance(fresh.o.weight, nn.Parameter)
        assert len(list(fresh.parameters())) == len(list(saved.parameters()))


def test_files_of_others_may_leave_out_either_name(tmp_path):
    net = Tied()
    path = tmp_path / "w.safetensors"
    whole = {k: v.clone() for k, v in net.state_dict().items()}
    for left_out in ((), ("o.weight",), ("e.weight",), ("o.weight", "b.weight", "a.bias")):
        save_file({k: v for k, v in whole.items() if k not in left_out}, path)
        fresh = load_weights(Tied(), path)
        assert torch.equal(fresh(T), net(T))
        assert fresh.o.weight is fresh.e.weight
    save_file({k: v for k, v in whole.items() if k not in ("o.weight", "e.weight")}, path)
    with pytest.raises(DataError, match="not this net's weights"):
        load_weights(Tied(), path)
    save_file(whole | {"o.weight": whole["o.weight"] + 1}, path)
    with pytest.raises(DataError, match=r"e\.weight and o\.weight are one tensor here and two"):
        load_weights(Tied(), path)


def test_a_damaged_note_of_ties_is_one_sentence(tmp_path):
    net = Tied().eval()
    save_sparse(net, tmp_path / "net")
    with pytest.raises(StorageError, match="belongs to another net"):
        load_sparse(nn.Linear(3, 2), tmp_path / "net")
    about = {"format": "survey-bitmask-1", "shapes": "{}", "tied": '{"o.weight": "x.weight"}'}
    save_file(distinct(net)[0], tmp_path / "net", metadata=about)
    with pytest.raises(StorageError, match="belongs to another net"):
        load_sparse(Tied(), tmp_path / "net")
