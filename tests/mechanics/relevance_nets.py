"""The nets that relevance is tried on: float64, with batch norms that have seen something."""

import torch
from torch import nn

from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import build_model

NETS = {
    "mlp": {}, "toy_mlp": {}, "cnn_small": {}, "vgg_small": {}, "resnet_small": {},
    "densenet_small": {}, "mobilenet_small": {},
}  # fmt: skip
VARIANTS = [
    *NETS.items(), ("vgg_small", {"head": "fc"}), ("resnet_small", {"groups": 4}),
    ("densenet_small", {"bottleneck": 2}), ("cnn_small", {"bn": False}),
]  # fmt: skip
ids = lambda v: v if isinstance(v, str) else " ".join(map(str, v.values())) or "-"  # noqa: E731


def lively(net, seed=0):
    """The net in float64, with batch norms that have seen something, signs of γ included."""
    net = net.double().eval()
    g = torch.Generator().manual_seed(seed)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            n = m.num_features
            m.running_mean = 0.3 * torch.randn(n, generator=g).double()
            m.running_var = 0.5 + torch.rand(n, generator=g).double()
            m.weight.data = torch.randn(n, generator=g).double()
            m.bias.data = 0.3 * torch.randn(n, generator=g).double()
    return net


def project_net(name, options):
    net = lively(build_model(name, generator=seeded(0), **options))
    shape = (2, 2, 1, 1) if name == "toy_mlp" else (2, 1, 28, 28)
    x = torch.randn(shape, generator=seeded(1), dtype=torch.float64)
    return net, x.flatten(1) if name == "toy_mlp" else x


def no_bias(net):
    for m in net.modules():
        if getattr(m, "bias", None) is not None:
            m.bias.data.zero_()
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean.zero_()
    return net
