"""The short list of names for readers."""

import re
from pathlib import Path

import torch

from survey_lib import api, files

ROOT = Path(files.PACKAGE).parent


def test_at_most_thirty_names_all_there_and_documented():
    assert len(api.__all__) == len(set(api.__all__)) <= 30
    for name in api.__all__:
        what = getattr(api, name)
        if callable(what):
            assert (what.__doc__ or "").strip(), name
            assert what.__module__.startswith("survey_lib."), name
    assert api.METHODS.keys() >= {"thinet", "magnitude"}


def test_nothing_else_is_offered():
    public = {n for n in vars(api) if not n.startswith("_")}
    assert public == set(api.__all__)


def test_no_module_of_the_library_and_no_chapter_takes_names_from_it():
    places = [*ROOT.glob("survey_lib/**/*.py"), *ROOT.glob("notebooks/*.ipynb")]
    assert len(places) > 50
    for path in places:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"(from|import) survey_lib\.api|survey_lib import api", text), path


def test_from_a_task_to_a_smaller_net_with_these_names_alone(tiny_task):
    net = tiny_task.build(api.seeded(0))
    recipe = api.Training(epochs=0.5, batch=32, lr=0.05)
    done = api.compress(
        "l1", net, tiny_task, api.Budget("macs", 0.5), tuning=recipe, generator=api.seeded(0)
    )
    assert done.steps == api.total_steps(tiny_task, recipe)
    x = tiny_task.example(1)
    assert api.count_macs(done.model, x) <= 0.5 * api.count_macs(net, x)
    assert 0 <= api.evaluate(done.model, tiny_task.val, tiny_task)["accuracy"] <= 1
    fresh = api.from_scratch(tiny_task, done.recipe, generator=api.seeded(1))
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in done.model.parameters()]
    assert not torch.equal(next(fresh.parameters()), next(done.model.parameters()))
