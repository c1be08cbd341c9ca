"""Nets that people really have: removal is exact or refused; torch-pruning finds the same groups.

What each net comes to stands in ``results/zoo.json`` (``python -m tests.mechanics.zoo``). Here the
record is held: a net that it calls exact is judged anew and must be exact.
"""

import json

import pytest
import torch
import torchvision
from torch import nn

from survey_lib import files
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import GraphError
from survey_lib.mechanics.surgery import apply_recipe
from tests.mechanics.judge import EXACT, judge
from tests.mechanics.zoo import DRAWN, LISTS, NAMED, OUT, SEEDS, build

FAST = (
    "torchvision:resnet18", "torchvision:squeezenet1_1", "timm:resnet18", "timm:lcnet_050",
    "timm:mobilenetv3_small_050", "timm:starnet_s050", "project:densenet_small",
    "project:char_gpt",
)  # fmt: skip
ALL = [name for names in LISTS.values() for name in names]


def recorded() -> dict[str, dict]:
    rows = json.loads((files.results_dir() / OUT).read_text(encoding="utf-8"))["rows"]
    return {row["net"]: row["ours"] for row in rows}


@pytest.mark.parametrize("name", FAST)
def test_a_fast_slice_is_exact(name):
    model, x = build(name)
    found = judge(model, x, seeds=0, again=False)
    assert found.word == EXACT, str(found)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_every_net_is_what_the_record_says(name):
    model, x = build(name)
    found, said = judge(model, x, seeds=SEEDS), recorded()[name]
    assert (found.word, found.groups, found.units) == (said["word"], said["groups"], said["units"])
    if found.word != EXACT:
        assert found.reason == said["reason"]


def test_the_record_holds_every_net_and_none_is_wrong():
    found = recorded()
    assert list(found) == ALL
    words = [ours["word"] for ours in found.values()]
    assert set(words) <= {"exact", "nothing prunable", "refused"}
    named = [found[f"timm:{name}"]["word"] for name in NAMED]
    assert named.count(EXACT) >= 45


def test_the_lists_are_as_long_as_they_say_and_share_no_net():
    assert (len(NAMED), len(DRAWN)) == (50, 30)
    assert len(set(ALL)) == len(ALL)


@pytest.mark.slow
def test_the_drawn_nets_are_those_of_the_rule():
    timm = pytest.importorskip("timm", minversion="1.0.31")
    if timm.__version__ != "1.0.31":
        pytest.skip("the rule was applied to timm 1.0.31")
    module = {name: m for m in timm.list_modules() for name in timm.list_models(module=m)}
    used = {module[name] for name in NAMED}
    rest = sorted(set(module.values()) - used)
    chosen = []
    for i in range(30):
        sizes = []
        for name in sorted(timm.list_models(module=rest[len(rest) * i // 30])):
            with torch.device("meta"):
                net = timm.create_model(name, pretrained=False)
            sizes.append((sum(p.numel() for p in net.parameters()), name))
        chosen.append(min(sizes)[1])
    assert tuple(chosen) == DRAWN


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
        model = getattr(torchvision.models, request.param)(weights=None, num_classes=10)
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
