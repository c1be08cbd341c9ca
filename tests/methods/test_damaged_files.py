"""The files of `survey prune`, damaged: a net that computes, or one documented sentence."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.sparse import StorageError
from survey_lib.mechanics.surgery import apply_recipe, full_recipe, save_compressed
from survey_lib.methods.own_model import load_pruned, read_report
from tests.damage import as_json, cut, damaged, one_sentence

NET = """
from torch import nn
def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
"""
REPORT = {"model": "net.py:build", "classes": ["cat", "dog"], "channels": 3, "size": 8, "rows": []}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What `survey prune` leaves: one of four channels is gone."""
    out = tmp_path_factory.mktemp("pruned")
    (out / "net.py").write_text(NET)
    scope: dict = {}
    exec(NET, scope)
    dense = scope["build"](2).eval()
    graph = trace_groups(dense, torch.zeros(1, 3, 8, 8))
    recipe = full_recipe(graph)
    recipe[next(iter(recipe))] = [0, 1, 3]
    small = apply_recipe(dense, graph, recipe)
    save_compressed(small, graph, recipe, out, constructor=f"{out / 'net.py'}:build")
    (out / "report.json").write_text(json.dumps(REPORT))
    assert load_pruned(out)(torch.zeros(1, 3, 8, 8)).shape == (1, 2)
    return out


def texts(path):
    """The file's text damaged, by value or by letter."""
    text = path.read_text()
    return st.one_of(damaged(json.loads(text)).map(as_json), cut(text))


@pytest.mark.parametrize("name", ["recipe.json", "report.json"])
def test_whatever_is_in_a_file_it_is_a_net_or_a_sentence(name, folder):
    path = folder / name
    good = path.read_text()
    before = sorted(p.name for p in folder.iterdir() if p.name != "__pycache__")

    @settings(max_examples=60, deadline=None, database=None)
    @given(texts(path))
    def reads(text):
        path.write_text(text, errors="surrogatepass")
        try:
            net = load_pruned(folder)
        except (StorageError, ValueError) as error:
            one_sentence(error)
        else:
            assert isinstance(net, nn.Module)

    try:
        reads()
    finally:
        path.write_text(good)
    assert sorted(p.name for p in folder.iterdir() if p.name != "__pycache__") == before


@pytest.mark.parametrize(
    ("name", "field", "value", "words"),
    [
        ("report.json", "size", 10**9, "field 'size' must be a whole number, 1 to 4096"),
        ("report.json", "size", "8", "field 'size' must be a whole number"),
        ("report.json", "channels", True, "field 'channels' must be a whole number"),
        ("report.json", "classes", {"a": 1}, "field 'classes' must be a list of names"),
        ("report.json", "classes", [], "field 'classes' must be a list of names"),
        ("recipe.json", "recipe", {"x": [[0]]}, "field 'recipe' is not what survey prune"),
        ("recipe.json", "sizes", {"x": None}, "field 'sizes' is not what survey prune"),
        ("recipe.json", "constructor", 3, "field 'constructor' must be text"),
        ("recipe.json", "tied", [], "field 'tied' is not what survey prune"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(name, field, value, words, folder):
    path = folder / name
    good = path.read_text()
    try:
        path.write_text(json.dumps(json.loads(good) | {field: value}))
        with pytest.raises(StorageError, match=words) as error:
            load_pruned(folder)
    finally:
        path.write_text(good)
    assert name in str(error.value)


@pytest.mark.parametrize("text", ["[]", "", "[" * 50_000, "\x00", '{"size": 1}'])
def test_a_report_that_is_none_is_a_sentence(text, tmp_path):
    with pytest.raises(StorageError, match=r"report\.json: no such file"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(StorageError, match=r"report\.json") as error:
        read_report(tmp_path)
    one_sentence(error.value)


@pytest.mark.parametrize("spoil", ["cut", "other", "absent"])
def test_weights_that_are_not_those_are_a_sentence(spoil, folder):
    path = folder / "weights.safetensors"
    good = path.read_bytes()
    try:
        if spoil == "cut":
            path.write_bytes(good[: len(good) // 2])
        elif spoil == "other":
            save_file({"a": torch.zeros(2)}, path)
        else:
            path.unlink()
        with pytest.raises(StorageError, match=r"weights\.safetensors: (damaged|no such)"):
            load_pruned(folder)
    finally:
        path.write_bytes(good)


def test_the_largest_numbers_that_a_report_may_hold_are_read(tmp_path):
    largest = REPORT | {"channels": 4, "size": 4096}
    (tmp_path / "report.json").write_text(json.dumps(largest))
    assert read_report(tmp_path) == largest
    for field in ("channels", "size"):
        (tmp_path / "report.json").write_text(json.dumps(largest | {field: largest[field] + 1}))
        with pytest.raises(StorageError, match=field):
            read_report(tmp_path)
