"""`survey prune`: from a folder of images to a smaller net on disk."""

import json

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from survey_lib.cli import app
from survey_lib.mechanics.budget import Budget
from survey_lib.methods import own_model
from survey_lib.methods.contract import METHODS
from survey_lib.tasks.dense import seeded
from tests.image_folder import red_and_blue

NET = """
from torch import nn
def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(),
                         nn.Conv2d(12, 16, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(16, num_classes))
"""


INVERSE = """
import torch
from torch import nn
class Net(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, n)
        self.register_buffer("mix", torch.eye(n))
    def forward(self, x):
        torch.linalg.inv(self.mix)
        return self.c(self.b(self.a(x).relu()).mean((2, 3)))
def build(num_classes):
    return Net(num_classes)
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes: red and blue noise."""
    root = tmp_path_factory.mktemp("images")
    red_and_blue(root, 12, 30, 12, noise=120, tint=100)
    (root / "net.py").write_text(NET)
    return root


def options(images):
    return {"size": 12, "train_epochs": 3.0, "tune_epochs": 1.0, "lr": 0.05, "batch": 8,
            "say": lambda _: None}  # fmt: skip


@pytest.mark.parametrize("method", ["fisher", "bn_scale", "random"])
def test_the_saved_net_is_the_pruned_one(method, images, tmp_path):
    spec = f"{images / 'net.py'}:build"
    if method == "bn_scale":  # the second convolution has no batch norm
        with pytest.raises(ValueError, match="no batch norm carries it"):
            own_model.prune(spec, f"imagefolder:{images}", method, Budget("macs", 0.5), tmp_path,
                            **options(images))  # fmt: skip
        return
    done = own_model.prune(spec, f"imagefolder:{images}", method, Budget("macs", 0.5), tmp_path,
                           **options(images))  # fmt: skip
    again = own_model.load_pruned(tmp_path)
    x = torch.randn(4, 3, 12, 12, generator=seeded(0))
    assert torch.equal(again(x), done.compressed.model.eval()(x))
    dense, pruned = done.comparison.rows
    assert pruned.macs <= 0.5 * dense.macs
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["accuracy"] == done.accuracy
    assert report["rows"][1]["macs"] == pruned.macs
    assert done.accuracy["dense"] > 0.9  # red and blue can be told apart


CHANNELS = [n for n, e in METHODS.items() if e.kind == "channels" and e.steers == "budget"]
NO_SUCH_BN = ("bn_scale",)  # the second convolution has no batch norm


def asked(images, out, **changes):
    words = {
        "--model": f"{images / 'net.py'}:build", "--method": "l1", "--keep": "macs=0.5",
        "--data": f"imagefolder:{images}", "--out": str(out), "--size": "12", "--batch": "8",
        "--train-epochs": "0.2", "--tune-epochs": "0.2",
    }  # fmt: skip
    words |= {f"--{k.replace('_', '-')}": v for k, v in changes.items()}
    return CliRunner().invoke(app, ["prune", *(w for pair in words.items() for w in pair)])


@pytest.mark.parametrize("method", [m for m in CHANNELS if m not in NO_SUCH_BN])
def test_whatever_the_method_the_tuning_asked_for_is_what_is_spent(
    method, images, tmp_path, monkeypatch
):
    """One epoch in batches of 8; a method that trains in parts sees a few images more in it."""
    rates = []
    plain = METHODS[method].compress

    def watched(*args, tuning, **more):
        rates.append((tuning.lr, tuning.epochs, tuning.batch))
        return plain(*args, tuning=tuning, **more)

    monkeypatch.setattr(METHODS[method].load(), "compress", watched)
    result = asked(images, tmp_path / "out", method=method, tune_epochs="1", lr="0.01")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    steps = -(-report["training_images"] // 8)
    assert rates == [(0.01, 1.0, 8)]
    assert report["spent"]["steps"] == steps > 3
    assert 0 <= report["spent"]["examples"] - report["training_images"] < 8
    assert report["tuning"]["epochs"] == report["spent"]["examples"] / report["training_images"]
    assert report["tuning"]["lr"] == 0.01


def test_no_epochs_of_tuning_tune_nothing(images, tmp_path):
    result = asked(images, tmp_path / "out", method="thinet", tune_epochs="0")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["tuning"] is None
    assert report["spent"]["steps"] == report["spent"]["examples"] == 0


@pytest.fixture
def untrained(monkeypatch):
    """Whatever would train fails."""
    monkeypatch.setattr(own_model, "fit", lambda *_, **__: pytest.fail("something was trained"))


@pytest.mark.parametrize("method", CHANNELS)
@pytest.mark.usefixtures("untrained")
def test_a_budget_out_of_reach_or_a_folder_that_is_a_file_is_told_before_training(
    method, images, tmp_path
):
    result = asked(images, tmp_path / "out", method=method, keep="macs=0.001")
    assert "0.001 is" in result.output
    (tmp_path / "file").write_text("")
    result = asked(images, tmp_path / "file" / "out", method=method)
    assert result.output.strip().endswith("file is no folder")


def _link(out):
    out.symlink_to(out.parent / "nowhere" / "else")


def _folder_in_the_way(out):
    (out / "report.json").mkdir(parents=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_link, "File exists"),
        (_folder_in_the_way, "report.json in it is a folder"),
        (lambda out: out.write_text(""), "is no folder"),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_a_folder_that_cannot_be_written_is_told_before_training(make, message, images, tmp_path):
    make(tmp_path / "out")
    result = asked(images, tmp_path / "out")
    assert result.exit_code == 1
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("survey: cannot write to")
    assert message in last


@pytest.mark.usefixtures("untrained")
def test_a_disk_that_takes_no_files_is_told_before_training(images, tmp_path, monkeypatch):
    def full(**_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(own_model.tempfile, "TemporaryFile", full)
    result = asked(images, tmp_path / "a" / "b")
    assert "No space left on device" in result.output
    assert not (tmp_path / "a").exists()


def test_looking_at_the_folder_leaves_nothing_and_touches_nothing(tmp_path):
    own_model.check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine").write_text("x")
    own_model.check_folder(tmp_path / "c")
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("changes", "body", "message"),
    [
        ({"method": "bn_scale"}, "", "no batch norm carries it"),
        ({"method": "thinet"}, "few", "half of them to check: lower Config.images"),
        ({"method": "apoz"}, "few", "half of them to check: lower Config.images"),
        ({}, "inverse", "operators went uncounted: linalg_inv_ex"),
    ],
)
@pytest.mark.usefixtures("untrained")
def test_what_a_method_lacks_is_told_before_training(changes, body, message, images, tmp_path):
    root = images
    if body == "few":
        root = tmp_path / "few"
        for part in ("train", "test"):
            for label in ("red", "blue"):
                (root / part / label).mkdir(parents=True)
                for i in range(12):
                    name = f"{part}/{label}/{i % 12}.png"
                    (root / name).write_bytes((images / name).read_bytes())
        (root / "net.py").write_text(NET)
    if body == "inverse":
        changes = {"model": f"{tmp_path / 'net.py'}:build"}
        (tmp_path / "net.py").write_text(INVERSE)
    result = asked(root, tmp_path / "out", **changes)
    assert result.exit_code == 1, result.output
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("survey: ")
    assert message in last
    assert not (tmp_path / "out").exists()


def test_a_training_that_diverges_is_one_sentence(images, tmp_path):
    result = asked(images, tmp_path / "out", lr="1e12", train_epochs="3")
    assert result.exit_code == 1
    assert "lower the learning rate" in result.output.strip().splitlines()[-1]
    assert result.output.strip().splitlines()[-1].startswith("survey: ")


def test_given_weights_are_used_and_nothing_is_trained(images, tmp_path):
    spec = f"{images / 'net.py'}:build"
    make = own_model.constructor(spec, channels=3, size=12, classes=2)
    model = make()
    with torch.no_grad():
        model[7].weight.zero_()
        model[7].bias.copy_(torch.tensor([1.0, 0.0]))  # always the first class
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    said = []
    done = own_model.prune(
        spec, f"imagefolder:{images}", "l1", Budget("params", 0.6), tmp_path / "out",
        **options(images) | {"weights": tmp_path / "w.safetensors", "say": said.append},
    )  # fmt: skip
    assert done.accuracy["dense"] == 0.5
    assert not any("trained the dense net" in line for line in said)


def test_the_command_prints_before_and_after_and_a_latency_line(images, tmp_path):
    words = [
        "prune", "--model", f"{images / 'net.py'}:build", "--method", "fisher",
        "--keep", "macs=0.5", "--data", f"imagefolder:{images}",
        "--out", str(tmp_path / "out"), "--size", "12",
        "--train-epochs", "1", "--tune-epochs", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for word in ("test accuracy", "dense", "pruned", "MACs per image", "speed-up ÷ MAC ratio",
                 "1 thread", "recipe.json"):  # fmt: skip
        assert word in result.output
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "recipe.json", "weights.safetensors", "report.json",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "magic"}, "no channels method 'magic'; use one of thinet"),
        ({"keep": "macs=0"}, "keep must lie in (0, 1]"),
        ({"keep": "macs=1.5"}, "keep must lie in (0, 1]"),
        ({"keep": "bits=0.5"}, "cannot be budgeted by 'bits'"),
        ({"keep": "macs=0.0001"}, "is out of reach"),
        ({"data": "cifar10"}, "cannot use data 'cifar10'; give imagefolder:PATH"),
        ({"data": "imagefolder:/nowhere"}, "no such folder"),
        ({"model": "resnet_large"}, "no model 'resnet_large'"),
        ({"method": "magnitude"}, "no channels method 'magnitude'"),
        ({"tune_epochs": "-1"}, "tune epochs ≥ 0"),
        ({"weights": "/nowhere.safetensors"}, "no such file"),
    ],
)
def test_a_bad_request_is_one_clear_sentence(changes, message, images, tmp_path):
    result = asked(images, tmp_path / "out", **changes)
    assert result.exit_code == 1
    last = result.output.strip().splitlines()[-1]
    assert last.startswith("survey: ")
    assert message in last
    assert not (tmp_path / "out").exists()
