"""torchvision's families: removal is exact; torch-pruning finds the same groups."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from survey_lib.measure.macs import count_macs
from survey_lib.mechanics.costs import Costs
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import GraphError
from survey_lib.mechanics.surgery import apply_recipe
from tests.oracles.channels import random_recipe, randomised, removal_error

FAST = ("resnet18", "densenet121", "mobilenet_v2")
SLOW = (
    "resnet50", "resnext50_32x4d", "wide_resnet50_2", "vgg11", "vgg16_bn", "mobilenet_v3_small",
    "mobilenet_v3_large", "efficientnet_b0", "efficientnet_v2_s", "regnet_x_400mf",
    "regnet_y_400mf", "convnext_tiny", "googlenet", "squeezenet1_1", "mnasnet0_5",
    "shufflenet_v2_x0_5", "alexnet", "swin_t",
)  # fmt: skip
OPTIONS = {"googlenet": {"aux_logits": False, "init_weights": False}}


def net(name):
    make = getattr(torchvision.models, name)
    return make(weights=None, num_classes=10, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_removal_is_exact(name):
    model = randomised(net(name))
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 64, 64, generator=g, dtype=torch.float64)
    graph = trace_groups(model, x)
    recipe = random_recipe(graph, 0)
    off, moved, small = removal_error(model, graph, recipe, x)
    scale = max(1.0, moved)  # outputs of random deep nets can be large
    assert off < 1e-10 * scale
    assert moved > 1e-6
    kept = np.array([len(recipe.get(g.name, range(g.size))) for g in graph.groups])
    assert Costs(graph, "params")(kept) == sum(p.numel() for p in small.parameters())
    assert Costs(graph, "macs")(kept) == count_macs(small, x)
    small.train()
    small(x.repeat(2, 1, 1, 1)).square().mean().backward()
    assert all(p.grad is not None for p in small.parameters())


def test_auxiliary_heads_are_named():
    model = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    with pytest.raises(GraphError, match=r"never reaches aux1\.conv\.conv.*aux_logits=False"):
        trace_groups(model, torch.randn(1, 3, 64, 64))


# The peer. torch-pruning also lists the classifier's output, which nobody may remove.

PEERS = ["resnet18", "mobilenet_v2", "vgg16_bn", "densenet121"]


@pytest.fixture(scope="module", params=PEERS)
def both(request):
    tp = pytest.importorskip("torch_pruning")
    if request.param == "vgg16_bn":  # the same layers with narrow linear ones
        model = torchvision.models.vgg16_bn(weights=None, num_classes=10)
        model.classifier[0] = nn.Linear(512 * 49, 64)
        model.classifier[3] = nn.Linear(64, 64)
        model.classifier[6] = nn.Linear(64, 10)
    else:
        model = net(request.param)
    x = torch.randn(1, 3, 64, 64)
    model.eval()
    peer = tp.DependencyGraph().build_dependency(model, example_inputs=x)
    return model, x, trace_groups(model, x), peer, tp


def peer_members(tp, model, group):
    """{(module, role)} of a torch-pruning group; activations and reshapes left out."""
    names = {m: n for n, m in model.named_modules()}
    found = set()
    for dep, _ in group:
        module, handler = dep.target.module, dep.handler
        if module not in names:
            continue
        if isinstance(module, nn.BatchNorm2d) or (
            isinstance(module, nn.Conv2d) and module.groups > 1
        ):
            found.add((names[module], "through"))
        else:
            role = "out" if "out_channels" in handler.__name__ else "in"
            found.add((names[module], role))
    return found


def our_members(group):
    return {(s.module, s.role) for s in group.slices if s.tensor == "weight"}


def test_groups_agree_with_torch_pruning(both):
    model, _, graph, peer, tp = both
    theirs = set()
    for group in peer.get_all_groups(root_module_types=[nn.Conv2d, nn.Linear]):
        members = peer_members(tp, model, group)
        if any(role == "out" for _, role in members) and any(r == "in" for _, r in members):
            theirs.add(frozenset(members))
    ours = {frozenset(our_members(g)) for g in graph.prunable}
    assert ours == theirs


def test_parameter_counts_agree_with_torch_pruning(both):
    import copy

    model, x, graph, _, tp = both
    recipe = {g.name: list(range(g.size // 2, g.size)) for g in graph.prunable}
    small = apply_recipe(model, graph, recipe)
    theirs = copy.deepcopy(model)
    peer = tp.DependencyGraph().build_dependency(theirs, example_inputs=x)
    for group in graph.prunable:
        first = group.producers[0]
        root = theirs.get_submodule(first.module)
        prune = (
            tp.prune_linear_out_channels
            if isinstance(root, nn.Linear)
            else tp.prune_conv_out_channels
        )
        gone = first.positions[: group.size // 2].ravel().tolist()
        peer.get_pruning_group(root, prune, idxs=gone).prune()
    shapes = {n: tuple(p.shape) for n, p in small.named_parameters()}
    assert shapes == {n: tuple(p.shape) for n, p in theirs.named_parameters()}
    # the same weights too, and therefore the same output
    state = theirs.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in small.state_dict().items())
    with torch.no_grad():
        assert torch.equal(small(x), theirs(x))
