"""Methods as a command names them."""

import pytest
import torch

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.graph import trace_groups
from survey_lib.methods.asked import EVEN, asked
from survey_lib.methods.contract import METHODS
from survey_lib.tasks.dense import load_task, seeded


def test_a_name_alone_is_the_entry_as_the_registry_has_it():
    for name, entry in METHODS.items():
        if (entry.kind, entry.steers) == ("channels", "budget"):
            one = asked(name)
            assert (one.entry, one.config, one.label) == (entry, entry.config(), entry.label)


def test_settings_are_read_in_the_type_of_their_defaults():
    one = asked("group_fisher:coupled=no:d=10:alpha=0.5:score=fisher")
    assert one.config == one.entry.config(coupled=False, d=10, alpha=0.5, score="fisher")
    assert one.label == "Group Fisher (coupled no, d 10, alpha 0.5, score fisher)"
    assert asked("group_fisher:coupled=True").config.coupled is True


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("l3", "no channels method 'l3'"),
        ("magnitude", "no channels method 'magnitude'"),
        ("soft_movement", "no channels method 'soft_movement'"),
        ("l1:scop=local", "no setting 'scop=local'; write l1:FIELD=VALUE with one of: criterion"),
        ("l1:scope", "no setting 'scope'"),
        ("l1:", "no setting ''"),
        ("adaptive_budget:rounds=2", "one of: none"),
        ("l1:round_to=few", "round_to must be a whole number, got 'few'"),
        ("l1:round_to=2:round_to=4", "round_to is set twice"),
        ("l1:examples=0", "examples must be at least 1, got 0"),
        ("closer_look:beta=nan", "beta must be a number, got 'nan'"),
        ("group_fisher:coupled=2", "coupled must be true or false, got '2'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(text, says):
    with pytest.raises(ValueError, match=says) as caught:
        asked(text)
    assert "\n" not in str(caught.value)


def test_a_setting_that_is_refused_late_is_refused_before_training():
    task = load_task("vgg_small")
    net = task.build(seeded(0))
    graph = trace_groups(net, task.example(1))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(ValueError, match="no scope 'locally'; use one of global, local"):
        asked("l1:scope=locally").refuse(net, graph, task, Budget("macs", 0.5))
    with pytest.raises(BudgetNotMet):
        asked(EVEN).refuse(net, graph, task, Budget("macs", 1e-6))
    asked(EVEN).refuse(net, graph, task, Budget("macs", 0.5))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_equal_shares_are_what_the_name_says():
    task = load_task("vgg_small")
    net = task.build(seeded(0))
    groups = trace_groups(net, task.example(1)).prunable
    one = asked(EVEN)
    small = one.entry.compress(
        net, task, Budget("macs", 0.5), one.config, tuning=None, generator=seeded(0)
    )
    shares = [len(small.recipe[g.name]) / g.size for g in groups]
    assert max(shares) - min(shares) <= 1 / min(g.size for g in groups) + 0.02
