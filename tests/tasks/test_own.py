"""A user's own net: what can be named, and what is said when it can't."""

import copy
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from survey_lib.tasks.data import DataError, Split, Splits
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.own import constructor, load_weights, own_task
from survey_lib.tasks.task import Training

SHAPE = {"channels": 3, "size": 32, "classes": 7}


def test_a_net_of_torchvision_by_name():
    model = constructor("torchvision:resnet18", **SHAPE)()
    assert model.fc.out_features == 7
    assert constructor("torchvision:googlenet", **SHAPE)().aux1 is None


def test_a_net_of_the_survey_by_name():
    model = constructor("mobilenet_small", **SHAPE)()
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 7)


def test_a_net_from_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from torch import nn\n"
        "def build(num_classes=3):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3072, num_classes))\n"
        "def fixed(): return nn.Linear(2, 2)\n"
        "def wrong(): return 5\n"
        "number = 4\n"
    )
    assert constructor(f"{path}:build", **SHAPE)()[1].out_features == 7
    assert constructor(f"{path}:fixed", **SHAPE)().out_features == 2
    with pytest.raises(ValueError, match="wrong returned int, not a torch module"):
        constructor(f"{path}:wrong", **SHAPE)()
    for name in ("number", "absent"):
        with pytest.raises(ValueError, match=f"has no function '{name}'"):
            constructor(f"{path}:{name}", **SHAPE)


DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass, field
from typing import ClassVar
from torch import nn
@dataclass
class C:
    n: int = 3
    more: list[int] = field(default_factory=list)
    kind: ClassVar[str] = "x"
class Net(nn.Linear):
    pass
def build(num_classes):
    return Net(C().n, num_classes)
"""


def written(folder, **bodies):
    for name, body in bodies.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    return folder


@pytest.fixture(autouse=True)
def path_and_modules_as_before():
    path = list(sys.path)
    yield
    assert sys.path == path


def test_a_file_with_dataclasses_and_a_name_that_is_taken(tmp_path):
    """Its module is registered, and json stays the library's."""
    import json

    written(tmp_path, json=DATACLASS)
    net = constructor(f"{tmp_path / 'json.py'}:build", **SHAPE)()
    assert (net.in_features, net.out_features) == (3, 7)
    assert sys.modules["json"] is json
    assert sys.modules[type(net).__module__].Net is type(net)
    assert type(copy.deepcopy(net)) is type(net)
    (tmp_path / "my-net.v2.py").write_text(DATACLASS)
    assert constructor(f"{tmp_path / 'my-net.v2.py'}:build", **SHAPE)().out_features == 7


LAYERS = "from torch import nn\ndef block(n): return nn.Linear({}, n)\n"
BESIDE = {
    "import": "from layers import block\ndef build(num_classes): return block(num_classes)",
    "relative": "from .layers import block\ndef build(num_classes): return block(num_classes)",
    "module": "from . import layers\ndef build(num_classes): return layers.block(num_classes)",
    "late": "def build(num_classes):\n    import layers\n    return layers.block(num_classes)",
    "late and relative": "def build(num_classes):\n    from .layers import block\n"
                         "    return block(num_classes)",
    "deep": "from parts.more import block\ndef build(num_classes): return block(num_classes)",
}  # fmt: skip


@pytest.mark.parametrize("how", BESIDE)
def test_a_file_imports_what_lies_beside_it(how, tmp_path):
    """Each net its own: a second folder has files of the same names."""
    makes = []
    for width in (3, 4):
        more = "from layers import block\n"
        folder = written(tmp_path / str(width), net=BESIDE[how], layers=LAYERS.format(width),
                         parts__more=more)  # fmt: skip
        makes.append(constructor(f"{folder / 'net.py'}:build", **SHAPE))
    for _ in range(2):  # also in turns
        assert [make().in_features for make in makes] == [3, 4]
        assert [make().out_features for make in reversed(makes)] == [7, 7]


def test_a_file_inside_a_package_imports_from_the_package(tmp_path):
    written(tmp_path, own_nets____init__="raise RuntimeError('nobody asked for all of it')")
    body = "from .layers import block\ndef build(num_classes): return block(num_classes)"
    written(tmp_path, own_nets__net=body, own_nets__layers=LAYERS.format(5))
    assert constructor(f"{tmp_path}/own_nets/net.py:build", **SHAPE)().in_features == 5
    (tmp_path / "own_nets" / "__init__.py").write_text("")
    written(tmp_path, own_nets__net=body.replace(".layers", "own_nets.layers"))
    assert constructor(f"{tmp_path}/own_nets/net.py:build", **SHAPE)().in_features == 5


def test_a_file_that_has_changed_is_read_again(tmp_path):
    for width in (3, 12):
        folder = written(tmp_path, net=BESIDE["import"], layers=LAYERS.format(width))
        assert constructor(f"{folder / 'net.py'}:build", **SHAPE)().in_features == width


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def build(: pass\n", r"net\.py: cannot be imported: SyntaxError in net\.py, line 1: inv"),
        ("\n  x = 1\n", r"IndentationError in net\.py, line 2: unexpected indent"),
        ("import bad\n", r"net\.py: cannot be imported: SyntaxError in bad\.py, line 2: "),
        (
            "import no_such_module_x\n",
            r"ModuleNotFoundError: No module named.* \(net\.py, line 1\)",
        ),
        ("x = 1\ny = z\n", r"NameError: name 'z' is not defined \(net\.py, line 2\)"),
        ("import sys\nsys.exit(3)\n", r"SystemExit: 3 \(net\.py, line 2\)"),
        (
            "def build(num_classes):\n    return 1 / 0",
            r"py:build failed: ZeroDivisionError: .*line 2",
        ),
        ("def build(width): pass", r"py:build failed: TypeError: .*'width'"),
        ("x = '\x00'", r"cannot be imported: (SyntaxError|ValueError)"),
    ],
)
def test_a_file_that_fails_is_one_sentence(body, message, tmp_path):
    (tmp_path / "bad.py").write_text("x = 1\ny = = 2\n")
    (tmp_path / "net.py").write_text(body)
    with pytest.raises(ValueError, match=message) as found:
        constructor(f"{tmp_path / 'net.py'}:build", **SHAPE)()
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("torchvision:resnet17", "no classification net 'resnet17'; near it: .*resnet18"),
        ("resnet_large", "no model 'resnet_large'; write torchvision:NAME"),
        ("nowhere/mine.py:build", r"nowhere/mine\.py: no such file"),
    ],
)
def test_what_cannot_be_named_is_one_clear_sentence(spec, message):
    with pytest.raises(ValueError, match=message):
        constructor(spec, **SHAPE)


def splits():
    g = torch.Generator().manual_seed(0)
    part = Split(torch.randn(4, 3, 32, 32, generator=g), torch.tensor([0, 1, 0, 1]))
    return Splits(part, part, part, ("a", "b"), "x")


@pytest.mark.parametrize("spec", ["resnet_small", "torchvision:mobilenet_v2"])
def test_the_weights_depend_on_the_generator_alone(spec):
    task = own_task(spec, splits(), Training())
    torch.manual_seed(1)
    a = task.build(seeded(0)).state_dict()
    torch.manual_seed(2)
    b, c = task.build(seeded(0)).state_dict(), task.build(seeded(1)).state_dict()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)
    assert task.with_training(epochs=1).constructor is task.constructor


def test_weights_from_a_file(tmp_path):
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    assert torch.equal(load_weights(other, tmp_path / "w.safetensors").weight, model.weight)
    with pytest.raises(DataError, match="not this net's weights"):
        load_weights(nn.Linear(4, 2), tmp_path / "w.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"garbage")
    with pytest.raises(DataError, match="not a readable safetensors file"):
        load_weights(other, tmp_path / "bad.safetensors")
    with pytest.raises(DataError, match="no such file"):
        load_weights(other, tmp_path / "absent.safetensors")
