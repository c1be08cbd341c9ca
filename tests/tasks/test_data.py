"""Data by name: classes, few examples, toy sets, CIFAR-10."""

import hashlib
import math
import pickle
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from survey_lib.tasks import cifar, toys
from survey_lib.tasks.data import DataError, fashion_mnist, few, of_classes, shakespeare, stratified
from survey_lib.tasks.task import DATASETS, load_task


def test_a_subset_of_classes_is_numbered_anew_in_the_order_given():
    whole, some = fashion_mnist(), of_classes(fashion_mnist(), ("bag", 0))
    assert some.classes == ("bag", "T-shirt")
    for part in ("train", "val", "test"):
        old, new = getattr(whole, part), getattr(some, part)
        assert len(new) == int(((old.y == 8) | (old.y == 0)).sum())
        assert torch.equal(new.x[new.y == 0], old.x[old.y == 8])
        assert torch.equal(new.x[new.y == 1], old.x[old.y == 0])
    assert load_task("mlp", classes=("bag", 0)).options["classes"] == 2


@pytest.mark.parametrize("classes", [("hat", 0), (10, 0), (1, 1), (3,)])
def test_classes_that_are_none_are_refused(classes):
    with pytest.raises(ValueError, match=r"no class|two different"):
        load_task("mlp", classes=classes)


def test_few_examples_are_stratified_nested_and_leave_the_rest_alone():
    whole = fashion_mnist()
    ten, fifty = few(whole, 10), few(whole, 50)
    assert ten.train.y.bincount().tolist() == [1] * 10
    assert fifty.train.y.bincount().tolist() == [5] * 10
    assert few(whole, 23).train.y.bincount().max() - few(whole, 23).train.y.bincount().min() == 1
    large = {x.numpy().tobytes() for x in fifty.train.x}
    assert all(x.numpy().tobytes() in large for x in ten.train.x)
    assert fifty.test is whole.test
    assert fifty.val is whole.val
    assert torch.equal(few(whole, 50).train.x, fifty.train.x)


@pytest.mark.parametrize("examples", [0, 9, 10_001])
def test_more_or_fewer_examples_than_there_can_be_are_refused(examples):
    with pytest.raises(ValueError, match=r"between 10 .* and 10000"):
        load_task("mlp", examples=examples)


def test_few_windows_of_text_are_drawn_from_all_over():
    some = few(shakespeare(), 100)
    assert some.train.x.shape == (100, 64)
    with pytest.raises(ValueError, match="text has no classes"):
        load_task("char_gpt", classes=(0, 1))


def test_a_stratified_order_begins_with_one_of_each():
    y = torch.tensor([0] * 50 + [1] * 3 + [2] * 7)
    order = stratified(y, seed=1)
    assert sorted(order.tolist()) == list(range(60))
    assert sorted(y[order[:3]].tolist()) == [0, 1, 2]
    assert sorted(y[order[:9]].tolist()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_a_tasks_name_tells_its_data():
    assert load_task("mlp").name == "fashion_mnist/mlp"
    task = load_task("mlp", "fashion_mnist", classes=(0, 8), examples=20)
    assert task.name == "fashion_mnist[T-shirt,bag][20]/mlp"


def test_models_refuse_data_they_cannot_take():
    with pytest.raises(ValueError, match="cannot use data 'moon', which is points; give"):
        load_task("cnn_small", "moon")
    with pytest.raises(ValueError, match=r"cannot use data 'fashion_mnist'.*give shakespeare$"):
        load_task("char_gpt", "fashion_mnist")
    with pytest.raises(ValueError, match="no data 'mnist'; use fashion_mnist, cifar10"):
        load_task("mlp", "mnist")


# ---- toys


@pytest.mark.parametrize("name", toys.NAMES)
def test_toy_sets_are_balanced_points_in_the_plane(name):
    task = load_task("toy_mlp", name, width=0.05)
    classes = toys.CLASSES[name]
    assert task.train.x.shape == (500 * classes, 2)
    assert task.train.y.bincount().tolist() == [500] * classes
    assert task.build(torch.Generator().manual_seed(0))(task.example(3)).shape == (3, classes)
    assert DATASETS[name].kind == "points"


def test_without_noise_points_lie_on_their_curves():
    generator = torch.Generator().manual_seed(0)
    x, y = toys.points("circle", 200, generator, noise=0.0)
    radius = x.norm(dim=1)
    assert torch.allclose(radius[y == 0], torch.ones(200))
    assert torch.allclose(radius[y == 1], torch.full((200,), toys.INNER))
    x, y = toys.points("moon", 200, generator, noise=0.0)
    assert torch.allclose(x[y == 0].norm(dim=1), torch.ones(200))
    assert torch.allclose((x[y == 1] - torch.tensor([1.0, 0.5])).norm(dim=1), torch.ones(200))
    x, y = toys.points("mult", 200, generator, noise=0.0)
    turned = x[y == 1] @ torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # a quarter back
    for arm in (x[y == 0], turned):
        angle = torch.atan2(arm[:, 1], arm[:, 0]) % (2 * math.pi)
        assert torch.allclose(arm.norm(dim=1), 2 * angle / toys.TURN, atol=1e-4)


def test_test_points_are_noisier_than_training_points():
    for name in ("circle",):
        splits = toys.toy(name)
        spread = {}
        for part in ("train", "test"):
            split = getattr(splits, part)
            spread[part] = float(split.x[split.y == 0].norm(dim=1).std())
        assert spread["test"] > 2 * spread["train"]
    with pytest.raises(ValueError, match="no toy set 'star'"):
        toys.points("star", 1, torch.Generator())


# ---- CIFAR-10


class QuietHandler(SimpleHTTPRequestHandler):
    """A server of files that keeps its log to itself."""

    def log_message(self, *args):
        pass


@pytest.fixture
def archive(tmp_path, monkeypatch):
    """A small archive in CIFAR-10's format, and torchvision told to expect it."""
    rng = np.random.default_rng(0)
    inner = tmp_path / "source" / CIFAR10.base_folder
    inner.mkdir(parents=True)

    def md5(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    def batch(name, n):
        labels = [i % 2 for i in range(n)]
        pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        path = inner / name
        path.write_bytes(pickle.dumps({"data": pixels, "labels": labels}))
        return [name, md5(path)]

    train = [batch(f"data_batch_{i}", 240) for i in range(1, 6)]
    test = [batch("test_batch", 40)]
    meta = inner / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    packed = tmp_path / CIFAR10.filename
    with tarfile.open(packed, "w:gz") as tar:
        tar.add(inner, CIFAR10.base_folder)
    monkeypatch.setattr(CIFAR10, "train_list", train)
    monkeypatch.setattr(CIFAR10, "test_list", test)
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(packed))
    monkeypatch.setattr(
        CIFAR10, "meta",
        {"filename": "batches.meta", "key": "label_names", "md5": md5(meta)},
    )  # fmt: skip
    handler = partial(QuietHandler, directory=str(tmp_path))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/{packed.name}"
    monkeypatch.setattr(CIFAR10, "url", address)
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / "cache"))
    cifar.cifar10.cache_clear()
    yield packed
    cifar.cifar10.cache_clear()
    server.shutdown()
    server.server_close()


def test_cifar_is_fetched_once_checked_and_kept_without_pickles(archive):
    splits = load_task("cnn_small", "cifar10").data
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [200, 1000, 40]
    assert splits.val.y.bincount().tolist() == [500, 500]
    assert splits.train.x.shape[1:] == (3, 32, 32)
    assert torch.allclose(splits.train.x.mean((0, 2, 3)), torch.zeros(3), atol=1e-3)
    archive.unlink()  # a second call needs no network
    cifar.cifar10.cache_clear()
    again = cifar.cifar10()
    assert torch.equal(again.train.x, splits.train.x)
    assert [p.name for p in cifar.path().parent.iterdir()] == [cifar.FILE]


def test_a_placed_archive_is_taken_and_a_changed_one_refused(archive, monkeypatch, tmp_path):
    room = tmp_path / "cache"
    room.mkdir()
    (room / CIFAR10.filename).write_bytes(archive.read_bytes())
    monkeypatch.setattr(CIFAR10, "url", "file:///nowhere")
    assert len(cifar.cifar10().test) == 40
    cifar.path().unlink()
    cifar.cifar10.cache_clear()
    (room / CIFAR10.filename).write_bytes(b"changed")
    with pytest.raises(DataError, match="cannot be had"):
        cifar.cifar10()


def test_without_a_network_one_sentence_says_how_to_place_it_by_hand(archive, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "file:///nowhere/cifar-10-python.tar.gz")
    with pytest.raises(DataError, match=r"CIFAR-10 cannot be had .*put cifar-10-python.tar.gz"):
        cifar.cifar10()
    assert not list(cifar.path().parent.glob(".cifar-*"))


def test_a_damaged_kept_file_is_one_clear_sentence(archive):
    cifar.path().parent.mkdir(parents=True)
    cifar.path().write_bytes(b"PK damaged")
    with pytest.raises(DataError, match="delete it"):
        cifar.cifar10()
