"""Any net that torch.fx can trace, made ready for zennit: sums as modules, batch norms named."""

import copy
import operator

import torch
import torch.nn.functional as F
from torch import fx, nn
from zennit.attribution import Gradient
from zennit.canonizers import NamedMergeBatchNorm
from zennit.composites import LayerMapComposite
from zennit.layer import Sum
from zennit.rules import AlphaBeta, Norm, Pass, ZBox
from zennit.types import Activation, AvgPool, BatchNorm, Convolution, Linear

TINY = 1e-12


class Add(nn.Module):
    """A sum that zennit's rules can hook."""

    def __init__(self):
        super().__init__()
        self.total = Sum()

    def forward(self, a, b):
        """A + b."""
        return self.total(torch.stack([a, b], -1))


class Apart(nn.Module):
    """timm's batch norm with its activation, as two modules."""

    def __init__(self, both):
        super().__init__()
        self.norm = nn.BatchNorm2d(both.num_features, both.eps).to(both.weight.dtype)
        self.norm.load_state_dict(both.state_dict())
        self.act = both.act

    def forward(self, x):
        """Norm, then activation."""
        return self.act(self.norm(x))


def prepared(model: nn.Module) -> tuple[fx.GraphModule, list]:
    """A copy with modules for functions, and (layers, batch norm) pairs to be merged."""
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "BatchNormAct2d":
                setattr(parent, name, Apart(child))
    for m in model.modules():
        if hasattr(m, "inplace"):
            m.inplace = False
        if isinstance(m, nn.BatchNorm2d):  # zennit's folded one would divide by √(1 + ε)
            m.running_var = m.running_var + m.eps
            m.eps = 0.0
    traced = fx.symbolic_trace(model)
    for i, node in enumerate(list(traced.graph.nodes)):
        new = None
        if node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add):
            if all(isinstance(a, fx.Node) for a in node.args):
                new, args = Add(), node.args
        elif node.op == "call_function" and node.target in (F.relu, torch.relu):
            new, args = nn.ReLU(), node.args[:1]
        if new is not None:
            traced.add_submodule(f"made{i}", new)
            with traced.graph.inserting_after(node):
                other = traced.graph.call_module(f"made{i}", args)
            node.replace_all_uses_with(other)
            traced.graph.erase_node(node)
    traced.recompile()
    modules = dict(traced.named_modules())
    pairs = []
    for node in traced.graph.nodes:
        if node.op == "call_module" and isinstance(modules[node.target], nn.BatchNorm2d):
            before = node.args[0]
            if (
                before.op == "call_module"
                and isinstance(modules[before.target], nn.Conv2d)
                and len(before.users) == 1
            ):
                pairs.append(((before.target,), node.target))
    return traced.eval(), pairs


def relevance(model: nn.Module, x, start, *, box=None) -> dict[str, torch.Tensor]:
    """zennit's α1β0 everywhere, biases ignored: R at the input (``""``) and by layer's output."""
    traced, pairs = prepared(model)
    rule = {"stabilizer": TINY, "zero_params": "bias"}
    layers = [
        (Activation, Pass()), (AvgPool, Norm(stabilizer=TINY)), (Sum, Norm(stabilizer=TINY)),
        (BatchNorm, Pass()), (Convolution, AlphaBeta(1.0, 0.0, **rule)),
        (Linear, AlphaBeta(1.0, 0.0, **rule)),
    ]  # fmt: skip
    first = [] if box is None else [(Convolution, ZBox(*box, **rule))]
    composite = (
        LayerMapComposite(layers, canonizers=[NamedMergeBatchNorm(pairs)])
        if box is None
        else _special(layers, first, pairs)
    )
    seen = {}

    def keep(path):
        def hook(_module, _inputs, output):
            output.register_hook(lambda grad: seen.__setitem__(path, grad))

        return hook

    with Gradient(model=traced, composite=composite) as attributor:
        handles = [
            m.register_forward_hook(keep(path))
            for path, m in traced.named_modules()
            if isinstance(m, (nn.Conv2d, nn.Linear))
        ]
        _, heat = attributor(x.clone(), start)
        for handle in handles:
            handle.remove()
    return {"": heat} | seen


def _special(layers, first, pairs):
    from zennit.composites import SpecialFirstLayerMapComposite

    return SpecialFirstLayerMapComposite(layers, first, canonizers=[NamedMergeBatchNorm(pairs)])
