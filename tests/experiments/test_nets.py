"""Dense nets that travel with the records."""

import pytest
import torch
from typer.testing import CliRunner

from survey_lib import files
from survey_lib.cli import app
from survey_lib.evidence import reading
from survey_lib.experiments import nets, runner
from survey_lib.tasks.dense import dense_net
from survey_lib.tasks.task import load_task


@pytest.fixture
def folders(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path / "results"))
    return tmp_path


def test_a_kept_net_is_lent_to_another_machine_to_the_bit(folders, tiny_task, monkeypatch):
    net = dense_net(tiny_task, 3)
    (path,) = nets.keep(tiny_task, [3])
    assert path.parent == folders / "results" / "dense"
    monkeypatch.setenv("SURVEY_CACHE", str(folders / "elsewhere"))
    monkeypatch.setattr("survey_lib.tasks.dense.train_dense", None)  # nothing may be trained there
    assert nets.lend() == [folders / "elsewhere" / "dense" / path.name]
    assert nets.lend() == []
    again = dense_net(tiny_task, 3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in net.state_dict().items())


def test_what_the_cache_has_is_left_alone(folders, tiny_task):
    (path,) = nets.keep(tiny_task, [3])
    own = folders / "cache" / "dense" / path.name
    own.write_bytes(b"its own")
    assert nets.lend() == []
    assert own.read_bytes() == b"its own"


def test_a_kept_net_of_yesterdays_recipe_makes_room(folders, tiny_task, monkeypatch):
    (old,) = nets.keep(tiny_task, [3])
    (other,) = nets.keep(tiny_task, [4])
    monkeypatch.setattr("survey_lib.tasks.dense._code", lambda: "changed")
    (new,) = nets.keep(tiny_task, [3])
    assert new != old
    assert sorted(nets.kept_dir().iterdir()) == sorted([new, other])


def test_a_cache_that_cannot_be_written_stops_nothing(folders, tiny_task, monkeypatch):
    nets.keep(tiny_task, [3])
    (folders / "file").write_text("no folder")
    monkeypatch.setenv("SURVEY_CACHE", str(folders / "file"))
    assert nets.lend() == []


def test_net_0_is_shipped_and_not_kept(folders, tiny_task):
    with pytest.raises(ValueError, match="net 0 is shipped"):
        nets.keep(tiny_task, [0])
    said = CliRunner().invoke(app, ["train", "resnet_small", "--keep", "0"])
    assert said.exit_code == 1
    assert "net 0 is shipped" in said.output
    assert not nets.kept_dir().exists()


def test_nets_are_lent_before_any_cell_is_run(folders, tiny_task, monkeypatch):
    (path,) = nets.keep(tiny_task, [3])
    monkeypatch.setenv("SURVEY_CACHE", str(folders / "elsewhere"))
    runner.execute("common_testbed", [], lambda *_: None)
    assert (folders / "elsewhere" / "dense" / path.name).exists()


def test_the_nets_that_are_kept_are_those_of_todays_code():
    kept = {p.name for p in nets.kept_dir().glob("*.safetensors")}
    assert kept, "the common testbed keeps the nets of its replicates"
    if torch.__version__ != reading.study("common_testbed", "study")[0].provenance["torch"]:
        pytest.skip("another torch trains its own nets")
    for name in kept:
        model, seed, _ = name.split("-")
        assert name == nets.name_of(load_task(model), int(seed)), (
            f"{files.results_dir() / 'dense' / name} is of another code, data or torch and no run "
            f"uses it; keep it anew with: survey train {model} --keep {seed}"
        )
