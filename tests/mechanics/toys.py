"""The smallest nets that show one kind of coupling each."""

import torch
import torch.nn.functional as F
from torch import nn


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 5, 3)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        return self.head(self.b(x).mean((2, 3)))


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.b = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x)))
        x = x + self.b(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Concatenated(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(9)
        self.c = nn.Conv2d(9, 5, 1)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        a = self.a(x)
        y = F.relu(self.norm(torch.cat([a, self.b(a), x], dim=1)))  # the input is read too
        return self.head(self.c(y).mean([2, 3]))


class Depthwise(nn.Module):
    def __init__(self, multiplier=1):
        super().__init__()
        self.a = nn.Conv2d(2, 6, 1)
        self.deep = nn.Conv2d(6, 6 * multiplier, 3, padding=1, groups=6)
        self.norm = nn.BatchNorm2d(6 * multiplier)
        self.b = nn.Conv2d(6 * multiplier, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.relu6(self.norm(self.deep(self.a(x))))
        return self.head(self.b(x).mean((-2, -1)))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 8, 1)
        self.norm = nn.BatchNorm2d(8)
        self.g = nn.Conv2d(8, 12, 3, padding=1, groups=4)
        self.b = nn.Conv2d(12, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.g(torch.relu(self.norm(self.a(x))))
        return self.head(torch.tanh(self.b(x)).mean((2, 3)))


class Flattened(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 5, 3, stride=2, padding=1)
        self.hidden = nn.Linear(5 * 16, 7)
        self.norm = nn.BatchNorm1d(7)
        self.head = nn.Linear(7, 3)

    def forward(self, x):
        x = torch.tanh(self.a(x))
        x = x.view(x.size(0), -1)
        return self.head(torch.tanh(self.norm(self.hidden(x))))


class Scaled(nn.Module):
    """Squeeze and excitation: channels multiplied by numbers made from themselves."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 2, 1)
        self.up = nn.Conv2d(2, 6, 1)
        self.scale = nn.Parameter(torch.rand(6, 1, 1))
        self.b = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.silu(self.a(x))
        s = torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        x = self.scale * (s * x)
        return self.head(self.b(x).mean((2, 3)))


class Twice(nn.Module):
    """One convolution called twice: its outputs are its inputs."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 5, 3, padding=1)
        self.again = nn.Conv2d(5, 5, 3, padding=1)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = torch.relu(self.again(torch.relu(self.a(x))))
        return self.head(torch.relu(self.again(x)).mean((2, 3)))


class Transposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.slope = nn.PReLU(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.slope(self.up(torch.relu(self.a(x)))).mean((2, 3)))


class Tokens(nn.Module):
    """Embedding, and two layers that share one matrix."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.a = nn.Linear(6, 8)
        self.b = nn.Linear(8, 6, bias=False)
        self.c = nn.Linear(6, 8)
        self.c.weight = self.a.weight
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.b(torch.relu(self.a(self.embed(x))))
        return self.head(torch.relu(self.c(x)))


TOYS = {
    "plain": Plain, "residual": Residual, "concatenated": Concatenated, "depthwise": Depthwise,
    "depthwise multiplier": lambda: Depthwise(2), "grouped": Grouped, "flattened": Flattened,
    "scaled": Scaled, "called twice": Twice, "transposed": Transposed, "shared matrix": Tokens,
}  # fmt: skip


def example(model, n=3):
    g = torch.Generator().manual_seed(5)
    if isinstance(model, Tokens):
        return torch.randint(11, (n, 4), generator=g)
    return torch.randn(n, 2, 8, 8, generator=g, dtype=torch.float64)
