"""The models that get compressed: small, plain, and wide enough to have something to lose.

Every constructor takes the input's ``channels`` and ``size`` and the number of ``classes``, so
the same net serves Fashion-MNIST and a user's own images. Widths are rounded, never below 1.
"""

import itertools
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _wide(base: int, width: float) -> int:
    return max(1, round(base * width))


def _conv(inputs: int, outputs: int, stride: int, bn: bool) -> list[nn.Module]:
    """3 × 3 convolution, batch norm (or a bias), ReLU."""
    conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=not bn)
    return [conv, *([nn.BatchNorm2d(outputs)] if bn else []), nn.ReLU()]


def mlp(channels: int = 1, size: int = 28, classes: int = 10, width: float = 1.0) -> nn.Module:
    """LeNet-300-100 (LeCun et al. 1998) with tanh: 784-300-100-10 on 28 × 28 images."""
    sizes = [channels * size * size, _wide(300, width), _wide(100, width)]
    layers: list[nn.Module] = [nn.Flatten()]
    for a, b in itertools.pairwise(sizes):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


def toy_mlp(
    channels: int = 2, size: int = 1, classes: int = 2, width: float = 1.0, dropout: float = 0.5
) -> nn.Module:
    """The net of Yeom et al. (2021) for points: 2-1000-1000-1000-K, ReLU, dropout after layer 1."""
    sizes = [channels * size * size, *[_wide(1000, width)] * 3]
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(a, b), nn.ReLU(), *([nn.Dropout(dropout)] if i == 0 else [])]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], classes))


class CnnSmall(nn.Module):
    """Three stride-2 convolutions (32-64-128 × width) and one linear layer."""

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        width: float = 1.0,
        bn: bool = True,
    ):
        super().__init__()
        c = [channels, _wide(32, width), _wide(64, width), _wide(128, width)]
        blocks = [m for a, b in itertools.pairwise(c) for m in _conv(a, b, 2, bn)]
        self.features = nn.Sequential(*blocks)
        for _ in range(3):
            size = (size + 1) // 2
        self.classifier = nn.Linear(c[-1] * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, size, size)."""
        return self.classifier(torch.flatten(self.features(x), 1))


class VggSmall(nn.Module):
    """Six convolutions in VGG style (16-32-32-64-64-64 × width), two of them with stride 2.

    ``head="gap"`` averages over space before the linear layer, ``"fc"`` flattens into a hidden
    linear layer, as VGG-16 does.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        width: float = 1.0,
        bn: bool = True,
        head: str = "gap",
    ):
        super().__init__()
        if head not in ("gap", "fc"):
            raise ValueError(f"vgg_small: head must be 'gap' or 'fc', got {head!r}")
        plan = [(16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (64, 1)]
        layers: list[nn.Module] = []
        last = channels
        for base, stride in plan:
            layers += _conv(last, _wide(base, width), stride, bn)
            last = _wide(base, width)
        self.features = nn.Sequential(*layers)
        small = ((size + 1) // 2 + 1) // 2
        if head == "gap":
            self.classifier: nn.Module = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(last, classes)
            )
        else:
            hidden = _wide(128, width)
            self.classifier = nn.Sequential(
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(last * (small // 2) ** 2, hidden),
                nn.ReLU(),
                nn.Linear(hidden, classes),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, size, size)."""
        return self.classifier(self.features(x))


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions beside a shortcut (He et al. 2015), projection where shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class NextBlock(nn.Module):
    """ResNeXt block (Xie et al. 2017): 1 × 1, grouped 3 × 3, 1 × 1, beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv3 = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H / stride, W / stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class ResNetSmall(nn.Module):
    """A stride-2 stem and three stages of one block (16-32-64 × width).

    Basic blocks, or ResNeXt blocks whose 3 × 3 convolution has ``groups`` groups.
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        width: float = 1.0,
        groups: int = 1,
        blocks: int = 1,
    ):
        super().__init__()
        del size  # global average pooling takes any size
        c = [_wide(b, width) // groups * groups or groups for b in (16, 32, 64)]
        self.stem = nn.Sequential(*_conv(channels, c[0], 2, bn=True))
        stages: list[nn.Module] = []
        last = c[0]
        for i, outputs in enumerate(c):
            for j in range(blocks):
                stride = 2 if i and not j else 1
                block = (
                    BasicBlock(last, outputs, stride)
                    if groups == 1
                    else NextBlock(last, outputs, stride, groups)
                )
                stages.append(block)
                last = outputs
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        return self.classifier(torch.flatten(self.pool(self.stages(self.stem(x))), 1))


class DenseLayer(nn.Module):
    """BN-ReLU-conv 3 × 3, its output concatenated to its input (Huang et al. 2017).

    With ``bottleneck`` b > 0 a 1 × 1 convolution to b × growth channels comes first (DenseNet-BC).
    """

    def __init__(self, inputs: int, growth: int, bottleneck: int):
        super().__init__()
        middle = bottleneck * growth
        self.reduce: nn.Module = nn.Identity()
        if bottleneck:
            self.reduce = nn.Sequential(
                nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, middle, 1, bias=False)
            )
        self.norm = nn.BatchNorm2d(middle or inputs)
        self.conv = nn.Conv2d(middle or inputs, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, inputs + growth, H, W)."""
        return torch.cat([x, self.conv(F.relu(self.norm(self.reduce(x))))], 1)


class DenseNetSmall(nn.Module):
    """A stride-2 stem and two dense blocks of five layers (growth 12 × width) around a transition.

    The transition halves channels (1 × 1 convolution) and resolution (average pooling).
    """

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        width: float = 1.0,
        layers: int = 5,
        bottleneck: int = 0,
    ):
        super().__init__()
        del size  # global average pooling takes any size
        growth = _wide(12, width)
        last = 2 * growth
        self.stem = nn.Conv2d(channels, last, 3, 2, 1, bias=False)
        blocks: list[nn.Module] = []
        for i in range(2):
            if i:
                blocks += [
                    nn.BatchNorm2d(last), nn.ReLU(), nn.Conv2d(last, last // 2, 1, bias=False),
                    nn.AvgPool2d(2),
                ]  # fmt: skip
                last //= 2
            for _ in range(layers):
                blocks.append(DenseLayer(last, growth, bottleneck))
                last += growth
        self.blocks = nn.Sequential(*blocks, nn.BatchNorm2d(last), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        return self.classifier(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


class InvertedResidual(nn.Module):
    """MobileNetV2's block (Sandler et al. 2018): widen 1 × 1, depthwise 3 × 3, narrow 1 × 1."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        middle = expansion * inputs
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) → (N, outputs, H / stride, W / stride)."""
        y = self.layers(x)
        return x + y if self.residual else y


class MobileNetSmall(nn.Module):
    """A stride-2 stem and five inverted residuals (16-24-24-40-40 × width), depthwise inside."""

    def __init__(
        self,
        channels: int = 1,
        size: int = 28,
        classes: int = 10,
        width: float = 1.0,
        expansion: int = 3,
    ):
        super().__init__()
        del size  # global average pooling takes any size
        last = _wide(16, width)
        self.stem = nn.Sequential(*_conv(channels, last, 2, bn=True))
        blocks = []
        for base, stride in ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1)):
            blocks.append(InvertedResidual(last, _wide(base, width), stride, expansion))
            last = _wide(base, width)
        self.blocks = nn.Sequential(*blocks)
        head = _wide(96, width)
        self.head = nn.Sequential(
            nn.Conv2d(last, head, 1, bias=False), nn.BatchNorm2d(head), nn.ReLU6()
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(head, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        h = self.head(self.blocks(self.stem(x)))
        return self.classifier(torch.flatten(self.pool(h), 1))


class Attention(nn.Module):
    """Causal multi-head self-attention with separate query, key and value projections."""

    def __init__(self, d: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(d, d, bias=False) for _ in range(3))
        self.out = nn.Linear(d, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) → (B, T, d)."""
        b, t, _ = x.shape
        q, k, v = (
            p(x).view(b, t, self.heads, -1).transpose(1, 2)  # (B, heads, T, d/heads)
            for p in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a two-layer GELU network of width 4 d."""

    def __init__(self, d: int, heads: int, hidden: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(d)
        self.attention = Attention(d, heads)
        self.norm2 = nn.LayerNorm(d)
        self.up = nn.Linear(d, hidden, bias=False)
        self.down = nn.Linear(hidden, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, d) → (B, T, d)."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class CharGpt(nn.Module):
    """A decoder-only transformer over characters (after GPT-2; pre-norm, untied output)."""

    def __init__(
        self,
        channels: int = 1,
        size: int = 64,
        classes: int = 65,
        width: float = 1.0,
        layers: int = 4,
        heads: int = 4,
    ):
        super().__init__()
        del channels
        d = max(1, round(128 * width / heads)) * heads
        self.tokens = nn.Embedding(classes, d)
        self.positions = nn.Embedding(size, d)
        self.blocks = nn.ModuleList(Block(d, heads, 4 * d) for _ in range(layers))
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, classes, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, T, classes) of tokens (B, T)."""
        h = self.tokens(x) + self.positions.weight[: x.shape[1]]
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h))


MODELS: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "toy_mlp": toy_mlp,
    "cnn_small": CnnSmall,
    "vgg_small": VggSmall,
    "resnet_small": ResNetSmall,
    "densenet_small": DenseNetSmall,
    "mobilenet_small": MobileNetSmall,
    "char_gpt": CharGpt,
}


def build_model(name: str, *, generator: torch.Generator, **options: object) -> nn.Module:
    """A freshly initialised model; the weights depend on ``generator`` alone.

    torch's layers draw from the global generator; it is forked and seeded here, so that nothing
    outside sees a change.

    Raises:
        ValueError: no model of that name, or an option it doesn't have.
    """
    if name not in MODELS:
        raise ValueError(f"no model {name!r}; there are: {', '.join(MODELS)}")
    seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return partial(MODELS[name], **options)()
        except TypeError as error:
            raise ValueError(f"model {name!r}: {error}") from None
