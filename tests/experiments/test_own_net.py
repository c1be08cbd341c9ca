"""`survey compare`: methods on a net of one's own."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from typer.testing import CliRunner

from survey_lib.cli import app
from survey_lib.evidence.intervals import Interval, t_interval
from survey_lib.evidence.reading import read_records
from survey_lib.experiments import runner
from survey_lib.experiments.own_net import cells as own_cells
from survey_lib.experiments.own_net import compare as own
from survey_lib.mechanics.budget import Budget
from survey_lib.methods import own_model
from survey_lib.methods.asked import EVEN
from survey_lib.methods.contract import METHODS
from survey_lib.show import own_page
from tests.image_folder import red_and_blue

NET = """
from torch import nn
def build(num_classes):
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(),
                         nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, num_classes))
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes that can just be told apart: red and blue noise."""
    root = tmp_path_factory.mktemp("images")
    red_and_blue(root, 8, 20, 10, noise=200, tint=30)
    (root / "net.py").write_text(NET)
    return root


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / "cache"))


def request(images, *methods, **changes):
    asked = {"seeds": 2, "tune_epochs": 0.5, "tries": 2, "size": 8, "train_epochs": 1.0,
             "batch": 8} | changes  # fmt: skip
    spec = f"{images / 'net.py'}:build"
    return own.Request(spec, f"imagefolder:{images}", Budget("macs", 0.6), methods, **asked)


def ran(asked, out, **more):
    return own.run(asked, out, jobs=1, make_pool=ThreadPoolExecutor, progress=False, **more)


def test_all_start_alike_try_alike_and_are_compared_seed_by_seed(images, tmp_path, monkeypatch):
    asked = request(images, "l1", "random")
    done = ran(asked, tmp_path)
    cells = own_cells.Cell
    by_name: dict = {}
    for record in done.records:
        by_name.setdefault(record.config["method"] or record.config["arm"], []).append(record)
    assert {name: len(rows) for name, rows in by_name.items()} == {
        "dense": 2, "l1": 4, "random": 4, "longer": 4,
    }  # fmt: skip
    for name in ("l1", "random", "longer"):
        assert {(r.seed, r.config["lr"]) for r in by_name[name]} == {
            (s, lr) for s in (0, 1) for lr in asked.rates
        }
        assert {r.numbers["steps"] for r in by_name[name]} == {2}  # half of four whole batches
    assert all(r.numbers["macs"] <= 0.6 * by_name["dense"][0].numbers["macs"]
               for name in ("l1", "random") for r in by_name[name])  # fmt: skip
    lines = {line.name: line for line in done.lines}
    assert set(lines) == {"l1", "random", ""}
    assert [x.test.mean for x in done.lines] == sorted(x.test.mean for x in done.lines)[::-1]
    for name, line in lines.items():
        rows = [r for r in by_name[name or "longer"] if r.config["lr"] == line.lr]
        other = [r for r in by_name[name or "longer"] if r.config["lr"] != line.lr]
        val = [sum(r.numbers["val"] for r in some) for some in (rows, other)]
        assert val[0] >= val[1]
        assert line.test == t_interval([r.numbers["test"] for r in sorted(rows, key=seed)])
    at = [{r.seed: r.numbers["test"] for r in by_name[n] if r.config["lr"] == lines[n].lr}
          for n in ("random", "l1")]  # fmt: skip
    assert lines["random"].lead == t_interval([at[0][s] - at[1][s] for s in (0, 1)])
    assert lines["l1"].lead is None
    assert done.comparison is not None
    assert {row.name for row in done.comparison.rows} == {"dense", "ℓ1", "random"}
    assert {r.key for r in read_records(tmp_path / "records.jsonl")} == {
        r.key for r in done.records
    }
    assert cells("dense", 0) == own_cells.dense_of(cells("method", 0, method="l1", keep=0.1))

    # a second time, and with one seed more
    todo: list = []
    execute = runner.execute

    def watched(slug, cells, keep, **more):
        todo.extend(cells)
        return execute(slug, cells, keep, **more)

    monkeypatch.setattr(runner, "execute", watched)
    again = ran(asked, tmp_path)
    assert todo == []
    assert again.lines == done.lines
    ran(replace(asked, seeds=3), tmp_path)
    assert {c.seed for c in todo} == {2}


def seed(record):
    return record.seed


def test_a_setting_makes_another_method_of_the_same(images, tmp_path):
    done = ran(request(images, "l1", EVEN, seeds=1, tries=1), tmp_path)
    assert not done.failed
    labels = {line.name: line.label for line in done.lines}
    assert labels == {"l1": "ℓ1", EVEN: "ℓ1 (scope local)", "": "dense, trained on"}
    widths = {
        r.config["method"]: [layer["kept"] for layer in r.numbers["layers"]]
        for r in done.records if r.config["arm"] == "method"
    }  # fmt: skip
    assert abs(widths[EVEN][0] - widths[EVEN][1]) <= 1  # of eight in both layers
    assert done.comparison is not None
    assert {row.name for row in done.comparison.rows} == {"dense", "ℓ1", "ℓ1 (scope local)"}


def test_other_versions_of_the_methods_are_other_results():
    parts = set(runner.code_parts("own_net"))
    able = [e for e in METHODS.values() if (e.kind, e.steers) == ("channels", "budget")]
    named = {f"survey_lib.methods.{e.module}" for e in able}
    assert len(named) > 4
    assert named <= parts


def test_other_images_are_other_results(images, tmp_path):
    given = [own_cells.Cell("dense", 0, given=f) for f in fingerprints(images)]
    assert len({runner.cell_key("own_net", c) for c in given}) == 3


def fingerprints(images):
    from survey_lib.tasks.own import fingerprint

    spec, data = f"{images / 'net.py'}:build", f"imagefolder:{images}"
    yield fingerprint(spec, data)
    path = next((images / "test" / "red").iterdir())
    before = path.read_bytes()
    path.write_bytes(before + b"\0")
    yield fingerprint(spec, data)
    path.write_bytes(before)
    (images / "net.py").write_text(f"{NET}\n# another\n")
    yield fingerprint(spec, data)
    (images / "net.py").write_text(NET)


@pytest.mark.parametrize(
    ("methods", "changes", "message"),
    [
        (("l1",), {"budget": Budget("macs", 1e-4)}, "out of reach"),
        (("nope",), {}, "no channels method 'nope'"),
        (("magnitude",), {}, "no channels method 'magnitude'"),
        (("l1:scope=none",), {}, "no scope 'none'; use one of global, local"),
        (("l1:scop=local",), {}, "no setting 'scop=local'"),
        (("bn_scale",), {}, "no batch norm carries it"),
        (("l1",), {"data": "zip:x"}, "cannot use data 'zip:x'"),
        (("l1",), {"spec": "timm:nope"}, "timm has no net 'nope'"),
        (("l1",), {"spec": "nope"}, "no model 'nope'"),
    ],
)
def test_what_cannot_work_is_told_before_training(methods, changes, message, images, tmp_path,
                                                  monkeypatch):  # fmt: skip
    monkeypatch.setattr(runner, "execute", lambda *_, **__: pytest.fail("something was run"))
    with pytest.raises(ValueError, match=message):
        ran(replace(request(images, *methods), **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("changes", [{"seeds": 0}, {"tries": 0}, {"tune_epochs": 0.0}, {"lr": -1}])
def test_a_request_that_asks_for_nothing_is_refused(changes, images):
    with pytest.raises(ValueError, match="need"):
        request(images, **changes)


def test_of_all_methods_those_that_cannot_work_are_left_out_with_the_reason(images, tmp_path):
    asked, said = request(images), []
    names, left_out = own._able(asked, own_cells.task_of(own._dense(asked, 0)))
    assert not set(names) & set(left_out)
    assert all(left_out.values())
    assert "no batch norm" in left_out["bn_scale"]
    assert {"l1", EVEN, "random", "taylor", "group_fisher", "rethinking"} <= set(names)
    assert not said


def test_rates_are_a_factor_of_three_apart_around_the_middle(images):
    assert request(images, tries=3, lr=0.02).rates == (0.00667, 0.02, 0.06)
    assert request(images, tries=1, lr=0.02).rates == (0.02,)


def test_a_method_that_fails_is_named_and_the_others_stand(images, tmp_path, monkeypatch):
    def failing(context):
        if context.cell.method == "random":
            raise RuntimeError("no luck")
        return own_cells.method(context)

    monkeypatch.setitem(own_cells.ARMS, "method", failing)
    done = ran(request(images, "l1", "random", seeds=1, tries=1), tmp_path)
    assert done.failed == {"random": "RuntimeError: no luck"}
    assert {line.name for line in done.lines} == {"l1", ""}
    assert "Failed: random: RuntimeError: no luck." in own_page.text(own_page.data(done))


def made(images, *leads):
    """A comparison with these leads over ℓ1."""
    asked = request(images, seeds=5, tries=3)
    names = ("random", "taylor", "fisher", "thinet")
    lines = [own.Line("l1", "ℓ1", 0.02, False, Interval(0.8, 0.79, 0.81, 5), None, 50, 9, 1.0)]
    lines += [
        own.Line(name, name, 0.06, name == "random", Interval(0.8 + m, 0.79 + m, 0.81 + m, 5),
                 Interval(m, m - h, m + h, 5), 50, 9, 1.0)
        for name, (m, h) in zip(names, leads, strict=False)
    ]  # fmt: skip
    return own.Compared(asked, Interval(0.9, 0.89, 0.91, 5), tuple(lines), {"bn_scale": "<none>"},
                        {}, None, (), {"torch": "2"})  # fmt: skip


def test_the_headline_says_no_more_than_the_intervals(images):
    done = made(images, (0.02, 0.01), (-0.03, 0.01), (0.01, 0.02), (0.0, 0.01))
    assert own_page.headline(own_page.data(done)) == (
        "better than ℓ1: random; worse: taylor; 2 cannot be told from ℓ1 with 5 seeds"
    )
    said = own_page.text(own_page.data(done))
    assert "0.06 (edge)" in said
    assert "a better one may lie beyond" in said
    assert "+2.0 [+1.0, +3.0]" in said
    assert own_page.data(done)["methods"][1]["lead_over_l1"] == {
        "mean": 0.02, "low": pytest.approx(0.01), "high": 0.03, "n": 5,
    }  # fmt: skip


def test_a_comparison_kept_as_json_is_shown_as_it_was(images):
    found = own_page.data(made(images, (0.02, 0.01), (-0.03, 0.01)))
    kept = json.loads(json.dumps(found))
    assert own_page.text(kept) == own_page.text(found)
    assert own_page.page(kept) == own_page.page(found)


def test_the_page_stands_alone_and_no_text_of_a_user_is_markup(images):
    done = made(images, (0.02, 0.01))
    done = replace(done, request=replace(done.request, spec="<script>alert(1)</script>.py:f"))
    page = own_page.page(own_page.data(done))
    assert "<script>alert" not in page
    assert "Left out: bn_scale: &lt;none&gt;." in page
    assert "src=" not in page
    assert "better than ℓ1: random" in page.replace("Better", "better")
    cell = re.search(r'<td class="num"[^>]*>2\.00(.*?)</td>', page)  # an interval breaks as one
    assert cell[1] == '<span class="interval">[1.00, 3.00]</span>'


def test_the_command_prints_a_table_and_writes_a_page(images, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "local_pool", ThreadPoolExecutor)
    monkeypatch.setattr(own.run, "__kwdefaults__", own.run.__kwdefaults__ | {
        "make_pool": ThreadPoolExecutor})  # fmt: skip
    words = ["compare", "--model", f"{images / 'net.py'}:build", "--data", f"imagefolder:{images}",
             "--out", str(tmp_path / "out"), "--methods", "l1,l2", "--seeds", "1", "--tries", "1",
             "--size", "8", "--train-epochs", "0.5", "--tune-epochs", "0.5", "--batch", "8",
             "--keep", "macs=0.6", "--jobs", "1"]  # fmt: skip
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "lead over ℓ1" in result.output
    assert "written: " in result.output
    assert (tmp_path / "out" / "index.html").exists()
    again = CliRunner().invoke(app, [*words, "--json"])
    assert json.loads(again.stdout) == json.loads((tmp_path / "out" / "compared.json").read_text())
    refused = CliRunner().invoke(app, [*words[:-3], "macs=2", "--jobs", "1"])
    assert refused.exit_code == 1
    assert own_model.WRITTEN  # the nets that are kept are `survey prune`'s
