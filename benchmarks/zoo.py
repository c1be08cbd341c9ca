"""Nets that the rows share, and torch-pruning's view of them."""

import copy
from collections.abc import Mapping

import timm
import torch
import torch_pruning
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.surgery import Recipe

FAMILIES = (
    "resnet18", "mobilenet_v2", "densenet121", "timm:resnet26d", "timm:efficientnet_b0",
    "timm:regnety_002", "timm:convnext_atto", "timm:vovnet39a",
)  # fmt: skip

CUT = (
    "resnet18", "mobilenet_v2", "densenet121", "timm:resnet26d", "timm:efficientnet_b0",
    "timm:vovnet39a", "timm:darknet17", "timm:ese_vovnet19b_dw",
)  # fmt: skip
"""Nets that both sides cut alike; of regnety_002 and convnext_atto torch-pruning makes others."""


def net(name: str) -> nn.Module:
    """A net of torchvision, or of timm where the name says so, with fixed weights, in eval mode."""
    library, _, which = name.rpartition(":")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if library == "timm":
            return timm.create_model(which, pretrained=False).eval()
        return getattr(models, which)(weights=None).eval()


def images(batch: int, size: int) -> Tensor:
    """A batch of noise."""
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def halves(graph: ChannelGraph) -> Recipe:
    """The recipe that keeps the first half of every group."""
    return {g.name: list(range((g.size + 1) // 2)) for g in graph.prunable}


class HalfResNet18(ResNet):
    """ResNet-18 with every layer built at half its width."""

    def __init__(self) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2])
        self.inplanes = 32
        self.conv1 = nn.Conv2d(3, 32, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.layer1 = self._make_layer(BasicBlock, 32, 2)
        self.layer2 = self._make_layer(BasicBlock, 64, 2, stride=2)
        self.layer3 = self._make_layer(BasicBlock, 128, 2, stride=2)
        self.layer4 = self._make_layer(BasicBlock, 256, 2, stride=2)
        self.fc = nn.Linear(256, 1000)


# torch-pruning's side


def peer_graph(model: nn.Module, x: Tensor) -> torch_pruning.DependencyGraph:
    """Its dependency graph of a net."""
    return torch_pruning.DependencyGraph().build_dependency(model, example_inputs=x)


def peer_groups(model: nn.Module, x: Tensor) -> list:
    """All its groups, the net's output apart."""
    output = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    types = [nn.Conv2d, nn.Linear]
    found = peer_graph(model, x).get_all_groups(ignored_layers=output, root_module_types=types)
    return list(found)


def peer_fresh(model: nn.Module, x: Tensor) -> tuple[nn.Module, list]:
    """A copy of a net and its groups, ready to be pruned in place."""
    fresh = copy.deepcopy(model)
    return fresh, peer_groups(fresh, x)


def peer_prune(given: tuple[nn.Module, list], kept: Mapping[str, int]) -> nn.Module:
    """Keep the first ``kept`` channels of the layer each group begins with."""
    model, groups = given
    names = {id(module): name for name, module in model.named_modules()}
    for group in groups:
        layer = group[0].dep.target.module
        n = kept[names[id(layer)]]
        size = layer.out_channels if isinstance(layer, nn.Conv2d) else layer.out_features
        group.prune(list(range(n, size)))
    return model


def peer_step(model: nn.Module, x: Tensor) -> nn.Module:
    """From a net to its smaller self, half of every group removed, in place."""
    output = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    chance = torch_pruning.importance.RandomImportance()  # scores that cost next to nothing
    pruner = torch_pruning.pruner.BasePruner(
        model, x, importance=chance, pruning_ratio=0.5, ignored_layers=output
    )
    pruner.step()
    return model
