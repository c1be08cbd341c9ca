"""A user's own net: what can be named, and what is said when it can't."""

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
