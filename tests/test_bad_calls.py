"""Calls of `survey` that cannot work: one sentence, a status that says so, nothing written."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from survey_lib import cli, files
from survey_lib.cli import app
from survey_lib.experiments import runner
from survey_lib.methods import own_model
from survey_lib.publish import execute, stage

NETS = """
import torch
from torch import nn
def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, num_classes))
def fails():
    raise KeyError("weights")
def number():
    return 3
def two(a, b):
    return build(2)
def wide():
    return nn.Sequential(nn.Conv2d(9, 4, 3), nn.Flatten(), nn.Linear(400, 2))
class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3)
    def forward(self, x):
        raise ZeroDivisionError("by design")
value = 3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Images of two classes, files of nets that cannot be used, weights that are not theirs."""
    root = tmp_path_factory.mktemp("place")
    for part, n in (("train", 20), ("test", 2)):
        for label, grey in (("cat", 40), ("dog", 200)):
            folder = root / "images" / part / label
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (8, 8), (grey, i, grey)).save(folder / f"{i}.png")
    for name in ("empty/train", "empty/test", "half/train/cat", "flat/train/cat", "flat/test/cat"):
        (root / name).mkdir(parents=True)
    for part in ("train", "test"):
        (root / "damaged" / part / "cat").mkdir(parents=True)
        for i in range(3):
            (root / "damaged" / part / "cat" / f"{i}.png").write_bytes(b"\x89PNG no")
    (root / "nets.py").write_text(NETS)
    (root / "broken.py").write_text("def build(:\n")
    (root / "raises.py").write_text("raise OSError('no such device')\n")
    (root / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    (root / "lacks.py").write_text("import nothing_of_this_name\n")
    (root / "file").write_text("a file")
    (root / "binary.md").write_bytes(b"\xff\xfe\x00")
    (root / "survey.md").write_text("# No section\n")
    save_file({"a": torch.zeros(3)}, root / "other.safetensors")
    whole = (root / "other.safetensors").read_bytes()
    (root / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (root / "text.safetensors").write_text("weights")
    return root


def pruning(**changes):
    """`survey prune` on the small images, with something wrong."""
    given = {"model": "{}/nets.py:build", "data": "imagefolder:{}/images", "out": "{}/out",
             "size": "8"} | changes  # fmt: skip
    return ["prune", *(w for k, v in given.items() for w in (f"--{k.replace('_', '-')}", v))]


def comparing(**changes):
    """`survey compare`, likewise."""
    return ["compare", *pruning(**changes)[1:]]


CALLS = [
    # words that no command knows
    (["nothing"], "No such command 'nothing'"),
    (["--fast"], "No such option: --fast"),
    (["list", "more"], "unexpected extra argument"),
    (["list", "--yaml"], "No such option: --yaml"),
    (["claims", "thinet"], "unexpected extra argument"),
    (["claims", "--html"], "No such option: --html"),
    # run
    (["run", "nope"], "no experiment 'nope'; there are"),
    (["run", "../thinet"], "no experiment '../thinet'"),
    (["run", ""], "no experiment ''"),
    (["run", "thinet", "--profile", "fast"], "no profile 'fast'"),
    (["run", "thinet", "--profile"], "requires an argument"),
    (["run", "thinet", "--jobs", "0"], "'--jobs'"),
    (["run", "thinet", "--jobs", "two"], "'--jobs'"),
    (["run", "thinet", "closer_look"], "unexpected extra argument"),
    (["run", "thinet", "--dask", "tcp://x"], "--dask needs the cluster extra"),
    # verify
    (["verify", "nope"], "no experiment 'nope'"),
    (["verify", "nope", "--changed"], "no experiment 'nope'"),
    (["verify", "thinet", "--seconds", "nan"], "'--seconds'"),
    (["verify", "thinet", "--seconds", "-1"], "'--seconds'"),
    (["verify", "thinet", "--sample", "-2"], "'--sample'"),
    (["verify", "thinet", "--seed", "one"], "'--seed'"),
    (["verify", "thinet", "--jobs", "-1"], "'--jobs'"),
    # train
    (["train"], "Missing argument"),
    (["train", "nope"], "no task 'nope'"),
    (["train", "mlp", "cnn"], "unexpected extra argument"),
    # compare
    (["compare"], "Missing option '--model'"),
    (comparing(data="zip:x"), "cannot use data 'zip:x'"),
    (comparing(data="imagefolder:{}/nowhere"), "no such folder"),
    (comparing(methods="magic"), "no channels method 'magic'"),
    (comparing(methods="l1,magnitude"), "no channels method 'magnitude'"),
    (comparing(keep="macs=2"), "keep must lie in (0, 1]"),
    (comparing(keep="macs=0.0001", methods="l1"), "is out of reach"),
    (comparing(model="timm:nothing"), "timm has no net 'nothing'"),
    (comparing(model="{}/nowhere.py:build"), "no such file"),
    (comparing(weights="{}/other.safetensors"), "not this net's weights"),
    (comparing(weights="{}/nowhere.safetensors"), "no such file"),
    (comparing(seeds="0"), "'--seeds'"),
    (comparing(tries="0"), "'--tries'"),
    (comparing(lr="nan"), "'--lr'"),
    (comparing(lr="0"), "a learning rate above 0"),
    (comparing(tune_epochs="0"), "tune epochs"),
    # prune
    (["prune"], "Missing option '--model'"),
    (pruning(data=""), "cannot use data ''"),
    (pruning(data="imagefolder:"), "give imagefolder:PATH"),
    (pruning(data="cifar10"), "cannot use data 'cifar10'"),
    (pruning(data="imagefolder:{}/nowhere"), "no such folder"),
    (pruning(data="imagefolder:{}/file"), "no such folder"),
    (pruning(data="imagefolder:{}/empty"), "empty"),
    (pruning(data="imagefolder:{}/half"), "test: no such folder"),
    (pruning(data="imagefolder:{}/flat"), "cat"),
    (pruning(data="imagefolder:{}/damaged"), "0.png"),
    (pruning(method="magic"), "no channels method 'magic'"),
    (pruning(method="magnitude"), "no channels method 'magnitude'"),
    (pruning(keep="macs"), "write METRIC=FRACTION"),
    (pruning(keep="macs=nan"), "keep must lie in (0, 1], got nan"),
    (pruning(keep="macs=2"), "keep must lie in (0, 1]"),
    (pruning(keep="macs=half"), "write METRIC=FRACTION"),
    (pruning(keep="flops=0.5"), "no metric 'flops'"),
    (pruning(keep="bits=0.5"), "cannot be budgeted by 'bits'"),
    (pruning(keep="macs=0.0001"), "is out of reach"),
    (pruning(model=""), "no model ''"),
    (pruning(model="resnet_large"), "no model 'resnet_large'"),
    (pruning(model="torchvision:resnet_large"), "torchvision has no classification net"),
    (pruning(model="{}/nowhere.py:build"), "no such file"),
    (pruning(model="{}/nets.py:nothing"), "has no function 'nothing'"),
    (pruning(model="{}/nets.py:"), "has no function ''"),
    (pruning(model="{}/nets.py:value"), "has no function 'value'"),
    (pruning(model="{}/nets.py:fails"), "nets.py:fails failed: KeyError"),
    (pruning(model="{}/nets.py:number"), "returned int, not a torch module"),
    (pruning(model="{}/nets.py:two"), "nets.py:two failed: TypeError"),
    (pruning(model="{}/nets.py:wide"), ""),
    (pruning(model="{}/nets.py:Raises"), "by design"),
    (pruning(model="{}/broken.py:build"), "SyntaxError in broken.py, line 1"),
    (pruning(model="{}/raises.py:build"), "cannot be imported: OSError: no such device"),
    (pruning(model="{}/leaves.py:build"), "cannot be imported: SystemExit"),
    (pruning(model="{}/lacks.py:build"), "No module named 'nothing_of_this_name'"),
    (pruning(weights="{}/nowhere.safetensors"), "no such file"),
    (pruning(weights="{}/other.safetensors"), "not this net's weights"),
    (pruning(weights="{}/cut.safetensors"), "not a readable safetensors file"),
    (pruning(weights="{}/text.safetensors"), "not a readable safetensors file"),
    (pruning(weights="{}/images"), "no such file"),
    (pruning(out="{}/file"), "is no folder"),
    (pruning(out="{}/file/out"), "is no folder"),
    (pruning(out="/proc/nowhere/out"), "cannot write to /proc/nowhere/out"),
    (pruning(size="0"), "'--size'"),
    (pruning(size="1"), ""),
    (pruning(seed="-1"), "'--seed'"),
    (pruning(seed=str(10**30)), "'--seed'"),
    (pruning(batch="0"), "a batch ≥ 1"),
    (pruning(lr="nan"), "'--lr'"),
    (pruning(lr="0"), "a rate > 0"),
    (pruning(train_epochs="inf"), "'--train-epochs'"),
    (pruning(tune_epochs="-1"), "tune epochs ≥ 0"),
    # build, check, sync, new
    (["build", "--only", "nope"], "no chapter 'nope' in _toc.yml; there are: "),
    (["build", "--profile", "fast"], "no profile 'fast'"),
    (["build", "--explain", "--only", "nope"], "no chapter 'nope'"),
    (["build", "--explain", "--profile", "fast"], "no profile 'fast'"),
    (["build", "thinet"], "unexpected extra argument"),
    (["build", "--jobs", "0"], "'--jobs'"),
    (["check", "thinet"], "unexpected extra argument"),
    (["check", "--all"], "No such option: --all"),
    (["sync", "--repo", "javascript:alert(1)"], "is no GitHub repository"),
    (["sync", "--repo", "https://github.com/a"], "is no GitHub repository"),
    (["sync", "--repo", "https://github.com/a/b'); import os"], "is no GitHub repository"),
    (["sync", "--ref", "a b"], "is no name of a tag or branch"),
    (["sync", "--ref", ""], "is no name of a tag or branch"),
    (["new"], "Missing argument"),
    (["new", "Thinet"], "'Thinet' is no slug"),
    (["new", "../up"], "'../up' is no slug"),
    (["new", "fresh"], "there is no card survey_lib/cards/fresh.md"),
    (["new", "thinet"], "exists and is left as it is"),
    (["new", "fresh", "--from", "{}/nowhere.md"], "there is no survey file"),
    (["new", "fresh", "--from", "{}/images"], "Is a directory"),
    (["new", "fresh", "--from", "{}/binary.md"], "is no UTF-8 text"),
    (["new", "fresh", "--from", "{}/survey.md"], "has no section"),
    (["new", "nope", "--missing"], "no card 'nope'"),
]


def said(result, message):
    """Checks that a call ended with one sentence on standard error and no traceback."""
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code not in (0, None), result.output
    assert "Traceback" not in result.output
    # what a command tells on its way (images read, a training done) is no part of its end
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(("survey: ", "error: ")), result.output
    assert message in last
    assert len(last) < 900
    return last


@pytest.mark.parametrize(("words", "message"), CALLS, ids=[" ".join(w)[:70] for w, _ in CALLS])
def test_a_bad_call_ends_in_one_sentence(words, message, place, monkeypatch):
    for module, name in ((own_model, "fit"), (runner, "execute"),
                         (execute, "_execute_one"), (stage, "stage")):  # fmt: skip
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("work was begun"))
    before = sorted(p.name for p in place.iterdir())
    result = CliRunner().invoke(app, [word.replace("{}", str(place)) for word in words])
    said(result, message)
    after = sorted(p.name for p in place.iterdir() if p.name != "__pycache__")
    assert after == [name for name in before if name != "__pycache__"]


def test_the_table_goes_over_every_command():
    from typer.main import get_command

    commands = set(get_command(app).commands)  # pyright: ignore[reportAttributeAccessIssue]
    assert commands == {words[0] for words, _ in CALLS} - {"nothing", "--fast"}
    assert len(CALLS) >= 60


INNER = {
    "list": ("survey_lib.cards.card.slugs", []),
    "run": ("survey_lib.experiments.runner.run", ["thinet", "--profile", "smoke"]),
    "claims": ("survey_lib.experiments.judging.state", []),
    "verify": ("survey_lib.experiments.verify.verify", ["thinet"]),
    "train": ("survey_lib.tasks.dense.ship", ["mlp"]),
    "prune": ("survey_lib.methods.own_model.prune", pruning()[1:]),
    "compare": ("survey_lib.experiments.own_net.compare.run", comparing()[1:]),
    "build": ("survey_lib.publish.execute.execute", ["--profile", "smoke"]),
    "check": ("survey_lib.publish.check_sources.check_sources", ["--sources"]),
    "sync": ("survey_lib.publish.setup_cell.sync", []),
    "new": ("survey_lib.publish.scaffold.new_chapter", ["fresh"]),
}


@pytest.mark.parametrize("command", INNER)
def test_an_interrupted_command_says_so_in_one_line(command, monkeypatch, tmp_path):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path))
    name, words = INNER[command]
    monkeypatch.setattr(name, stop)
    result = CliRunner().invoke(app, [command, *words])
    assert result.exit_code == cli.STOPPED
    assert "Traceback" not in result.output
    assert "stopped" in result.stderr.strip().splitlines()[-1]
    assert result.stderr.strip().count("\n") == 0


def test_an_interruption_before_any_command_runs_is_told_too(monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli.OneSentence, "parse_args", stop)
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == cli.STOPPED
    assert result.stderr.strip() == "survey: stopped; what was finished is kept"


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device", "/x/y"), MemoryError(), ValueError("two\nlines"),
     OverflowError("too large"), LookupError],
)  # fmt: skip
def test_what_goes_wrong_inside_is_one_line(error, monkeypatch):
    from survey_lib.evidence.protocol import Ambiguous
    from survey_lib.experiments import runner

    def fails(*_, **__):
        raise Ambiguous("two records fit") if error is LookupError else error

    monkeypatch.setattr(runner, "run", fails)
    result = CliRunner().invoke(app, ["run", "thinet"])
    said(result, "")
    assert len(result.stderr.strip().splitlines()) == 1


def test_a_cache_that_cannot_be_written_is_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("SURVEY_BUILD", str(tmp_path / "file" / "build"))
    last = said(CliRunner().invoke(app, ["build", "--profile", "smoke"]), "Not a directory")
    assert "finished chapters are kept" in last
    assert (tmp_path / "file").read_bytes() == b""


def test_a_damaged_study_is_one_line(monkeypatch, tmp_path):
    good = (files.results_dir() / "study" / "thinet.jsonl").read_text().splitlines()
    monkeypatch.setenv("SURVEY_RESULTS", str(tmp_path))
    (tmp_path / "study").mkdir()
    path = tmp_path / "study" / "thinet.jsonl"
    row = json.loads(good[3])
    for spoiled, message in (
        ("[" * 100_000, "thinet.jsonl:4: nested too deeply"),
        (json.dumps(row | {"numbers": {"accuracy_before": 7}}), "thinet.jsonl:4: field 'numbers.a"),
        (json.dumps(row | {"seed": None}), "thinet.jsonl:4: field 'seed'"),
        (good[3][:-20], "thinet.jsonl:4: not a JSON record"),
    ):
        path.write_text("\n".join([*good[:3], spoiled, *good[4:]]))
        last = said(CliRunner().invoke(app, ["claims"]), message)
        assert last.startswith("survey: thinet.jsonl:4")


def test_no_number_of_processes_is_a_sentence(monkeypatch):
    monkeypatch.setenv("SURVEY_JOBS", "many")
    last = said(CliRunner().invoke(app, ["verify", "thinet"]), "SURVEY_JOBS must be a number")
    assert "many" in last  # what stands there now
