import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from survey_lib import files
from survey_lib.tasks import converge, data, dense
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.models import MODELS, build_model
from survey_lib.tasks.task import RECIPES, TAKES, Training, load_task
from survey_lib.tasks.train import batches, evaluate, fit, learning_rate, total_steps


def test_fashion_split_is_stratified_disjoint_and_complete():
    splits = data.fashion_mnist()
    assert [len(s) for s in (splits.train, splits.val, splits.test)] == [10_000, 2_000, 10_000]
    assert splits.train.y.bincount().tolist() == [1000] * 10
    assert splits.val.y.bincount().tolist() == [200] * 10
    train = {x.numpy().tobytes() for x in splits.train.x}
    shared = sum(x.numpy().tobytes() in train for x in splits.val.x)
    assert shared <= 2  # the source itself repeats an image now and then
    assert abs(float(splits.train.x.mean())) < 0.01
    assert abs(float(splits.train.x.std()) - 1) < 0.01


def test_text_windows_predict_the_next_character():
    splits = data.shakespeare()
    assert len(splits.classes) == 65
    assert torch.equal(splits.train.x[0, 1:], splits.train.y[0, :-1])
    assert splits.train.y[0, -1] == splits.train.x[1, 0]
    text = "".join(splits.classes[i] for i in splits.train.x[0].tolist())
    assert text.startswith("First Citizen:")


def test_a_truncated_data_file_is_one_clear_sentence(tmp_path, monkeypatch):
    whole = (data.FOLDER / "shakespeare.txt.gz").read_bytes()
    (tmp_path / "shakespeare.txt.gz").write_bytes(whole[:1000])
    monkeypatch.setattr(data, "FOLDER", tmp_path)
    with pytest.raises(data.DataError, match="truncated or changed, reinstall"):
        data.embedded("shakespeare.txt.gz")
    with pytest.raises(data.DataError, match="missing; reinstall"):
        data.embedded("fashion_mnist.npz")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 20), ("test", 5)):
        for label, base in (("dark", 40), ("light", 200)):
            place = tmp_path / part / label
            place.mkdir(parents=True)
            for i in range(n):
                pixels = np.clip(rng.normal(base, 10, (20, 24, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{i}.png")
    return tmp_path


def test_a_users_own_images_train(folder):
    task = load_task("cnn_small", data=f"imagefolder:{folder}", width=0.25)
    assert task.data.classes == ("dark", "light")
    assert [len(s) for s in (task.train, task.val, task.test)] == [36, 4, 10]
    assert task.train.x.shape[1:] == (3, 32, 32)
    assert task.val.y.bincount().tolist() == [2, 2]
    task = task.with_training(epochs=8, batch=12, lr=0.05)
    model = task.build(seeded(0))
    fit(model, task, generator=seeded(0))
    assert evaluate(model, task.test, task)["accuracy"] == 1.0


def test_a_bad_image_folder_says_what_is_missing(tmp_path, folder):
    with pytest.raises(data.DataError, match="needs train/<class>/"):
        data.image_folder(tmp_path / "nothing")
    (folder / "test" / "light").rename(folder / "test" / "bright")
    with pytest.raises(data.DataError, match="differ in the classes"):
        data.image_folder(folder)
    with pytest.raises(ValueError, match="which is images; give shakespeare"):
        load_task("char_gpt", data=f"imagefolder:{folder}")


def image_of(mode, values, rng):
    """A 20 × 24 image whose grey values lie around ``values`` of the mode's range, in [0, 1]."""
    grey = np.clip(rng.normal(values, 0.04, (20, 24)), 0, 1)
    if mode.startswith("I;16"):
        big = ">u2" if mode.endswith("B") else "<u2"
        return Image.frombytes(mode, (24, 20), (grey * 65535).astype(big).tobytes())
    if mode == "I":
        return Image.fromarray((grey * 65535).astype(np.int32))
    if mode == "F":
        return Image.fromarray(grey.astype(np.float32))
    return Image.fromarray((grey * 255).astype(np.uint8)).convert(mode)


def folder_of(root, suffixes, seed=0):
    """Two classes, dark and light; the images of each in turn of the modes with these suffixes."""
    rng = np.random.default_rng(seed)
    for part in ("train", "test"):
        for label, base in (("dark", 0.2), ("light", 0.8)):
            (root / part / label).mkdir(parents=True)
            for i in range(12):
                mode, suffix = suffixes[i % len(suffixes)]
                image_of(mode, base, rng).save(root / part / label / f"{i:02}.{suffix}")
    return root


SCALED = [
    [("I;16", "png")], [("I;16", "tiff")], [("I;16B", "tiff")], [("L", "png")],
    [("RGB", "png")], [("RGBA", "png")], [("P", "png")], [("CMYK", "tiff")], [("LA", "png")],
    [("I;16", "png"), ("L", "png")], [("L", "png"), ("RGB", "jpg"), ("I;16", "tiff")],
]  # fmt: skip


@pytest.mark.parametrize("suffixes", SCALED, ids=str)
def test_every_mode_is_scaled_by_its_range(suffixes, tmp_path):
    """The same picture gives the same numbers, whatever it is written as."""
    found = data.image_folder(folder_of(tmp_path / "a", suffixes), size=8)
    wanted = data.image_folder(folder_of(tmp_path / "b", [("L", "png")]), size=8)
    assert found.train.x.dtype == torch.float32
    assert found.train.x.shape == wanted.train.x.shape == (22, 3, 8, 8)
    assert found.train.x.std() == pytest.approx(1, abs=0.05)
    for part in ("train", "val", "test"):
        a, b = getattr(found, part), getattr(wanted, part)
        assert torch.equal(a.y, b.y)
        assert (a.x - b.x).abs().max() < 0.1


def test_a_png_with_sixteen_bits_is_one_in_older_versions_of_pillow_too():
    assert data._sixteen_bits(SimpleNamespace(mode="I", format="PNG"))
    assert not data._sixteen_bits(SimpleNamespace(mode="I", format="TIFF"))
    assert not data._sixteen_bits(SimpleNamespace(mode="L", format="PNG"))


def test_sixteen_bits_keep_what_eight_would_lose(tmp_path):
    """Twelve-bit pictures in sixteen bits: all of them in the darkest sixteenth of the range."""
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label, base in (("dark", 100), ("light", 110)):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(12):
                pixels = (base + rng.integers(0, 4, (9, 9))).astype(np.uint16)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{i}.png")
    found = data.image_folder(tmp_path, size=9)
    assert found.train.x.std() == pytest.approx(1, abs=0.05)
    dark, light = (found.test.x[found.test.y == i].mean() for i in (0, 1))
    assert light - dark > 1.5


@pytest.mark.parametrize(("mode", "word"), [("F", "floating-point"), ("I", "32-bit whole")])
def test_images_without_a_range_are_refused_by_name_and_mode(mode, word, folder):
    bad = folder / "train" / "light" / "x.tiff"
    image_of(mode, 0.5, np.random.default_rng(0)).save(bad)
    with pytest.raises(data.DataError, match=rf"light/x\.tiff: its mode {mode} \({word} numbers\)"):
        data.image_folder(folder)


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_images_without_spread_are_refused(mode, value, tmp_path):
    for part in ("train", "test"):
        for label in "ab":
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(12):
                if mode == "I;16":
                    image = Image.fromarray(np.full((9, 9), int(value * 65535), np.uint16))
                else:
                    image = Image.fromarray(np.full((9, 9), int(value * 255), np.uint8))
                    image = image.convert(mode)
                image.save(tmp_path / part / label / f"{i}.png")
    with pytest.raises(data.DataError, match=r"train: all images are the same flat colour"):
        data.image_folder(tmp_path, size=8)


def test_folders_and_files_with_a_dot_are_skipped_anywhere(folder):
    wanted = data.image_folder(folder, size=8)
    source = folder / "train" / "dark" / "0.png"
    for place in ("train/.ipynb_checkpoints", "test/.cache", "train/dark/.ipynb_checkpoints",
                  "train/dark/.a/b", "test/light/.thumbs"):  # fmt: skip
        (folder / place).mkdir(parents=True)
        (folder / place / "0.png").write_bytes(source.read_bytes())
    (folder / "train" / ".empty").mkdir()
    for name in ("train/dark/._0.png", "train/.DS_Store", "test/light/.hidden.jpg"):
        (folder / name).write_bytes(b"no image")
    (folder / "train" / "light" / "notes.txt").write_text("no image either")
    found = data.image_folder(folder, size=8)
    assert found.classes == ("dark", "light")
    assert found.hash == wanted.hash
    assert torch.equal(found.train.x, wanted.train.x)
    hidden = folder.parent / ".hidden"
    folder.rename(hidden)  # only what lies inside is meant
    try:
        assert data.image_folder(hidden, size=8).hash == wanted.hash
    finally:
        hidden.rename(folder)


def test_images_further_down_belong_to_their_class(folder):
    (folder / "train" / "dark" / "more").mkdir()
    (folder / "train" / "dark" / "0.png").rename(folder / "train" / "dark" / "more" / "0.png")
    found = data.image_folder(folder, size=8)
    assert len(found.train) + len(found.val) == 40
    assert (torch.cat([found.train.y, found.val.y]) == 0).sum() == 20


def test_an_empty_class_and_no_class_are_named(folder):
    (folder / "train" / "empty").mkdir()
    with pytest.raises(data.DataError, match=r"train/empty: no image in it; add images there"):
        data.image_folder(folder)
    (folder / "train" / "empty").rmdir()
    for label in ("dark", "light"):
        (folder / "test" / label).rename(folder / "test" / f".{label}")
    with pytest.raises(data.DataError, match=r"test: no folder of a class in it"):
        data.image_folder(folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "header"])
@pytest.mark.parametrize("suffix", ["png", "jpg", "tiff", "bmp"])
def test_a_damaged_image_is_named(suffix, damage, folder):
    bad = folder / "test" / "light" / f"bad.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (80, 80, 3), np.uint8)).save(bad)
    whole = bad.read_bytes()
    bad.write_bytes({"cut": whole[: len(whole) // 3], "empty": b"", "text": b"hello" * 50,
                     "header": b"\xff" * 8 + whole[8:]}[damage])  # fmt: skip
    with pytest.raises(data.DataError, match=rf"light/bad\.{suffix}: not a readable image"):
        data.image_folder(folder, size=8)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no task 'lenet'"):
        load_task("lenet")
    with pytest.raises(ValueError, match="no model 'lenet'"):
        build_model("lenet", generator=seeded(0))
    with pytest.raises(ValueError, match="unexpected keyword"):
        build_model("mlp", generator=seeded(0), depth=3)
    with pytest.raises(ValueError, match="'gap' or 'fc'"):
        build_model("vgg_small", generator=seeded(0), head="max")


PARAMETERS = {
    "mlp": 784 * 300 + 300 + 300 * 100 + 100 + 100 * 10 + 10,
    "cnn_small": 9 * (32 + 32 * 64 + 64 * 128) + 2 * (32 + 64 + 128) + 128 * 16 * 10 + 10,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_equal_hand_counts(name):
    model = build_model(name, generator=seeded(0))
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", MODELS)
def test_models_take_their_tasks_data_and_any_width(name):
    task = load_task(name)
    assert task.model == name
    assert set(RECIPES) == set(TAKES) == set(MODELS)
    narrow = load_task(name, width=0.25)
    small, large = narrow.build(seeded(0)), task.build(seeded(0))
    shape = {"char_gpt": (2, 64, 65), "toy_mlp": (2, 2)}.get(name, (2, 10))
    with torch.no_grad():
        assert small(task.example(2)).shape == large(task.example(2)).shape == shape
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters())
    assert sum(p.numel() for p in large.parameters()) <= (2.1e6 if name == "toy_mlp" else 1.2e6)


def test_char_gpt_never_looks_ahead():
    model = build_model("char_gpt", generator=seeded(0), width=0.25).eval()
    x = torch.randint(65, (1, 20), generator=seeded(1))
    y = x.clone()
    y[0, 12:] = (y[0, 12:] + 1) % 65
    with torch.no_grad():
        a, b = model(x), model(y)
    assert torch.allclose(a[0, :12], b[0, :12], atol=1e-5)
    assert not torch.allclose(a[0, 12:], b[0, 12:], atol=1e-3)


def test_vgg_with_a_flat_head_and_without_norm():
    model = build_model("vgg_small", generator=seeded(0), head="fc", bn=False)
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())


def test_building_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    a = build_model("mlp", generator=seeded(3))
    assert torch.equal(before, torch.random.get_rng_state())
    b = build_model("mlp", generator=seeded(3))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_learning_rate_warms_up_and_ends_at_zero():
    recipe = Training(lr=0.4, warmup=0.1)
    rates = [learning_rate(s, 100, recipe) for s in range(100)]
    assert rates[0] == pytest.approx(0.04)
    assert rates[9] == rates[10] == pytest.approx(0.4)
    assert rates[55] == pytest.approx(0.2, abs=1e-9)
    assert rates[99] < 1e-3
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_batches_visit_every_example_once_a_pass():
    order = batches(10, 4, seeded(0))
    first = [next(order) for _ in range(3)]
    assert [len(b) for b in first] == [4, 4, 2]
    assert sorted(torch.cat(first).tolist()) == list(range(10))


def test_training_learns_and_is_deterministic(tiny_task):
    runs = []
    for _ in range(2):
        model = tiny_task.build(seeded(0))
        history = fit(model, tiny_task, generator=seeded(0))
        runs.append(model.state_dict())
    assert len(history.loss) == total_steps(tiny_task) == 48
    assert evaluate(model, tiny_task.test, tiny_task)["accuracy"] > 0.9
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])


def test_a_diverging_training_says_so(tiny_task):
    task = tiny_task.with_training(lr=1e9)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        fit(task.build(seeded(0)), task, generator=seeded(0))
    with pytest.raises(ValueError, match="use sgd or adamw"):
        fit(task.build(seeded(0)), task.with_training(optimizer="lion"), generator=seeded(0))


def test_a_last_step_that_diverges_says_so(tiny_task):
    """No later loss would show it."""
    task = tiny_task.with_training(epochs=0.1, batch=256)
    assert total_steps(task) == 1

    def steep(logits, _, __):  # its value is 0, and its slope no number
        return (logits - logits.detach()).abs().sqrt().sum()

    with pytest.raises(FloatingPointError, match=r"after the last step; lower the learning rate"):
        fit(task.build(seeded(0)), task, generator=seeded(0), loss=steep)


class Constant(nn.Module):
    """Logits that give class 0 probability 3/4, of two classes."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([math.log(3.0), 0.0]))

    def forward(self, x):
        return self.logits.expand(len(x), 2)


def test_evaluation_by_hand(tiny_task):
    y = torch.tensor([0, 0, 0, 1])
    split = data.Split(torch.zeros(4, 1), y)
    splits = replace(tiny_task.data, test=split)
    task = replace(tiny_task, data=splits)
    loss = -(3 * math.log(0.75) + math.log(0.25)) / 4
    for batch in (1, 3, 4):  # batches of unequal size must not tilt the mean
        result = evaluate(Constant(), task.test, task, batch=batch)
        assert result["accuracy"] == 0.75
        assert result["loss"] == pytest.approx(loss, abs=1e-6)
    result = evaluate(Constant(), task.test, replace(task, metric="perplexity"))
    assert result["perplexity"] == pytest.approx(math.exp(loss), abs=1e-5)


def test_dense_nets_are_trained_once(tiny_task, tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    trained = []
    real = dense.train_dense
    monkeypatch.setattr(dense, "train_dense", lambda *a: trained.append(a) or real(*a))
    a, b = dense.dense_net(tiny_task, 1), dense.dense_net(tiny_task, 1)
    c = dense.dense_net(tiny_task, 2)
    assert len(trained) == 2
    x = tiny_task.example(4)
    assert torch.equal(a(x), b(x))
    assert not torch.equal(a(x), c(x))
    other = tiny_task.with_training(lr=0.01)
    assert dense.dense_key(other, 1) != dense.dense_key(tiny_task, 1)


FLOOR = {
    "mlp": 0.84,
    "cnn_small": 0.87,
    "vgg_small": 0.88,
    "resnet_small": 0.86,
    "densenet_small": 0.86,
    "mobilenet_small": 0.86,
}


@pytest.mark.parametrize("name", FLOOR)
def test_shipped_nets_are_trained(name):
    task = load_task(name)
    first = replace(task.data, test=data.Split(task.test.x[:2000], task.test.y[:2000]))
    assert evaluate(dense.shipped_net(name), first.test, task)["accuracy"] > FLOOR[name]


def test_the_shipped_language_model_is_trained():
    task = load_task("char_gpt")
    assert evaluate(dense.shipped_net("char_gpt"), task.test, task)["perplexity"] < 7.5


def test_a_damaged_checkpoint_is_one_clear_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(dense, "CHECKPOINTS", tmp_path)
    (tmp_path / "mlp.safetensors").write_bytes(b"garbage")
    with pytest.raises(data.DataError, match="survey train mlp"):
        dense.shipped_net("mlp")


def test_checkpoints_are_small_and_listed():
    total = sum(p.stat().st_size for p in dense.CHECKPOINTS.rglob("*.safetensors"))
    assert total < 10e6
    for name, digest in dense.SHIPPED_SHA256.items():
        assert files.sha256(dense.CHECKPOINTS / f"{name}.safetensors") == digest
    assert set(dense.SHIPPED_SHA256) == set(dense.OWN) == set(MODELS) - {"toy_mlp"}


def test_net_0_of_the_standard_recipe_is_the_shipped_one_and_no_other_is():
    task = load_task("mlp")
    shipped = dense.shipped_net("mlp").state_dict()
    assert all(torch.equal(shipped[k], v) for k, v in dense.dense_net(task, 0).state_dict().items())
    assert all(v.dtype == torch.float32 for v in shipped.values())
    assert dense.is_standard(task)
    for other in (
        task.with_training(epochs=1.0), load_task("mlp", width=0.5), load_task("mlp", examples=100),
        load_task("mlp", classes=(0, 1)), load_task("mlp", "moon"),
    ):  # fmt: skip
        assert not dense.is_standard(other)


def test_a_dense_nets_key_tells_everything_it_rests_on(monkeypatch):
    tasks = [
        load_task("mlp"), load_task("mlp", width=0.5), load_task("mlp", examples=100),
        load_task("mlp", examples=200), load_task("mlp", classes=(0, 1)),
        load_task("mlp", classes=(1, 0)), load_task("mlp", "moon"), load_task("mlp", "circle"),
        load_task("mlp").with_training(lr=0.3),
    ]  # fmt: skip
    keys = {dense.dense_key(task, 1) for task in tasks} | {dense.dense_key(tasks[0], 2)}
    assert len(keys) == len(tasks) + 1
    monkeypatch.setattr(dense, "_code", lambda: "other code")
    assert dense.dense_key(tasks[0], 1) not in keys


def test_every_recipe_that_ships_a_net_was_found_to_converge():
    """As many further epochs as a tuning takes gain less than half a point, or 0.02 nats."""
    table = json.loads(converge.TABLE.read_text())
    assert set(table) == set(dense.OWN)
    for name, row in table.items():
        assert (row["epochs"], row["lr"]) == (RECIPES[name].epochs, RECIPES[name].lr), name
        assert row["gain"] < (0.005 if row["metric"] == "accuracy" else 0.02), name
