import dataclasses

import pytest
import torch
from safetensors.torch import save
from torch import nn

from survey_lib.measure import compare as module
from survey_lib.measure.compare import compare
from survey_lib.measure.latency import Latency
from survey_lib.measure.macs import count_macs
from survey_lib.measure.memory import peak_memory
from survey_lib.measure.size import count_activations, file_bytes
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.surgery import apply_recipe
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model

NETS = ("mlp", "cnn_small", "vgg_small", "resnet_small", "densenet_small", "mobilenet_small")


def some_units(size: int, generator: torch.Generator) -> list[int]:
    kept = 1 + int(torch.randint(size, (), generator=generator))
    return torch.randperm(size, generator=generator)[:kept].tolist()


@pytest.mark.parametrize("name", NETS)
def test_closed_forms_agree_with_counts_on_pruned_nets(name):
    generator = seeded(3)
    dense = build_model(name, generator=generator)
    x = torch.zeros(2, 1, 28, 28)
    graph = trace_groups(dense, x)
    recipe = {g.name: some_units(g.size, generator) for g in graph.prunable}
    kept = [len(recipe.get(g.name, range(g.size))) for g in graph.groups]
    small = apply_recipe(dense, graph, recipe)
    assert Costs(graph, "activations")(torch.tensor(kept).numpy()) == count_activations(small, x)
    assert Costs(graph, "macs")(torch.tensor(kept).numpy()) == count_macs(small, x)


def test_activations_of_other_kinds_of_convolution_count_too():
    net = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ConvTranspose1d(3, 4, 2, stride=2))
    assert count_activations(net, torch.zeros(5, 2, 6)) == 3 * 4 + 4 * 8


def test_file_bytes_are_those_of_the_file():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    assert file_bytes(net) == len(save(net.state_dict()))
    assert file_bytes(net) > 4 * (18 + 2 + 4 * 2)


def test_a_shared_tensor_is_written_once():
    net = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
    apart = file_bytes(net)
    net[1].weight = net[0].weight
    assert 0 < apart - file_bytes(net) - 4 * 64 * 64 < 100  # and its line in the header


@pytest.fixture
def timed(monkeypatch):
    """Times as if measured: 8 ms for the first net, 4 ms for the second."""
    asked = {}

    def fake(models, example, *, rounds):
        asked.update(models=dict(models), example=example, rounds=rounds)
        times = {
            n: Latency(0.008 / 2**i, 0.009 / 2**i, rounds, i == 1, 2) for i, n in enumerate(models)
        }
        return times

    monkeypatch.setattr(module, "compare_latency", fake)
    return asked


def test_a_comparison_holds_what_the_single_measures_say(timed):
    dense = build_model("cnn_small", generator=seeded(0))
    narrow = build_model("cnn_small", generator=seeded(0), width=0.5)
    with torch.no_grad():
        narrow.classifier.weight.zero_()
    x = torch.zeros(3, 1, 28, 28)
    table = compare({"dense": dense, "narrow": narrow}, x, rounds=17)
    before, after = table.rows
    assert (before.name, after.name) == ("dense", "narrow")
    assert after.macs == count_macs(narrow, x[:1])
    assert after.peak_bytes == peak_memory(narrow, x[:1])
    assert after.file_bytes == file_bytes(narrow)
    assert after.params - after.nonzeros >= narrow.classifier.weight.numel()
    assert after.mac_ratio == before.macs / after.macs
    assert after.speed_up == pytest.approx(2)
    assert after.efficiency == pytest.approx(2 * after.macs / before.macs)
    assert (before.speed_up, before.mac_ratio, before.efficiency) == (1, 1, 1)
    assert (before.min_ms, after.median_ms) == pytest.approx((8, 4.5))
    assert (before.noisy, after.noisy) == (False, True)
    assert (table.batch, table.rounds, table.tries) == (3, 17, 2)
    assert timed["example"] is x
    assert table.dicts()[1] == dataclasses.asdict(after)


def test_a_comparison_reads_as_a_table_with_its_device(timed):
    nets = {n: build_model("mlp", generator=seeded(0)) for n in ("dense", "pruned")}
    text = str(compare(nets, torch.zeros(2, 1, 28, 28)))
    lines = text.splitlines()
    assert lines[0].split() == ["dense", "pruned"]
    assert "speed-up ÷ MAC ratio" in text
    assert "batch of 2, 15 rounds in turns, the quietest of 2 sets" in lines[-1]
    assert "1 thread" in lines[-1]


def test_nothing_to_compare_is_an_error():
    with pytest.raises(ValueError, match="name at least one"):
        compare({}, torch.zeros(1, 1, 28, 28))
