import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from survey_lib.methods.role_of_structured import method
from survey_lib.methods.role_of_structured.method import Config, sensitivity, shrink
from survey_lib.methods.role_of_structured.thresholds import CLOSE, Zeros, bisect
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Training
from survey_lib.tasks.train import evaluate, fit, training
from tests.conftest import in_double
from tests.oracles import role_of_structured as slow

TUNING = Training(epochs=2.0, batch=32, lr=0.05, weight_decay=0.0)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def net_of(*layers, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*layers).double().eval()


def heard(net, x, form):
    """S of every layer of a net on a batch."""
    listener = method.Listener(method.layers_of(net))
    try:
        y = net(x)
        return dict(zip(listener.p, sensitivity(y, list(listener.p.values()), form), strict=True))
    finally:
        listener.close()


# ---- one step


def test_one_step_of_lobster_is_the_one_done_by_hand():
    """w = (2, −1), η = 0.1, g = (1, 0.5), λ = 0.1: factors (0, 0.5)."""
    w = double(1.9, -1.05)
    shrink(w, double(1.0, 0.5), 0.1)
    assert w.tolist() == pytest.approx([1.9, -0.9975])
    assert slow.lobster_step([2, -1], [1, 0.5], 0.1, 0.1) == pytest.approx([1.9, -0.9975])


def test_a_sensitivity_above_one_spares_and_none_at_all_is_plain_decay():
    w = double(3.0, -2.0, 1.0)
    shrink(w, double(1.5, 1.0, 7.0), 0.1)
    assert w.tolist() == [3.0, -2.0, 1.0]
    shrink(w, double(0.0, 0.0, 0.0), 0.1)
    assert w.tolist() == pytest.approx([2.7, -1.8, 0.9])
    shrink(w, 0.0, 0.5)
    assert w.tolist() == pytest.approx([1.35, -0.9, 0.45])


def test_a_neurons_sensitivity_counts_for_its_whole_row():
    w = torch.ones(2, 3, 2, 2, dtype=torch.float64)
    shrink(w, double(0.0, 0.5), 0.2)
    assert (w[0] == 0.8).all()
    assert (w[1] == 0.9).all()


# ---- SeReNe's sensitivity


def test_sensitivity_of_a_linear_net_is_the_one_done_by_hand():
    """y = V p with V = (1 −2; −1 1): full (1, 1.5), lower bound (0, 0.5), whatever the input."""
    net = net_of(nn.Linear(3, 2), nn.Linear(2, 2, bias=False))
    net[1].weight.data = torch.tensor([[1.0, -2.0], [-1.0, 1.0]], dtype=torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    assert heard(net, x, "full")["0"].tolist() == pytest.approx([1.0, 1.5])
    assert heard(net, x, "lower")["0"].tolist() == pytest.approx([0.0, 0.5])
    # the outputs are their own pre-activations: 1 / C each
    assert heard(net, x, "lower")["1"].tolist() == pytest.approx([0.5, 0.5])


def conv_net():
    return net_of(
        nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Conv2d(3, 2, 3, 1, 1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(2 * 9, 4),
    )  # fmt: skip


@pytest.mark.parametrize("form", ["full", "lower"])
def test_sensitivity_is_the_slope_of_the_outputs_image_by_image(form):
    """By central differences; a gradient of the batch's mean, or of one channel, is another."""
    net, x = conv_net(), torch.randn(4, 1, 6, 6, dtype=torch.float64, generator=seeded(1))
    found = heard(net, x, form)
    for name in ("0", "2", "5"):
        wanted = slow.sensitivity(net, net.get_submodule(name), x, form)
        assert found[name].tolist() == pytest.approx(wanted, rel=1e-5)


def test_the_lower_bound_is_one_and_is_reached_where_signs_agree():
    net, x = conv_net(), torch.randn(8, 1, 6, 6, dtype=torch.float64, generator=seeded(2))
    low, full = heard(net, x, "lower"), heard(net, x, "full")
    assert all((low[n] <= full[n] + 1e-12).all() for n in low)
    assert any((low[n] < 0.9 * full[n]).any() for n in low)
    net[5].weight.data.abs_()
    low, full = heard(net, x, "lower"), heard(net, x, "full")
    torch.testing.assert_close(low["2"], full["2"])


def test_sensitivity_does_not_depend_on_the_batch_it_is_averaged_over():
    """A batch twice over has the same S: it is a mean over images."""
    net, x = conv_net(), torch.randn(3, 1, 6, 6, dtype=torch.float64, generator=seeded(3))
    for form in method.FORMS:
        once, twice = heard(net, x, form), heard(net, torch.cat([x, x]), form)
        for name in once:
            torch.testing.assert_close(once[name], twice[name])


def test_a_neuron_that_never_fires_has_no_sensitivity():
    net, x = conv_net(), torch.randn(4, 1, 6, 6, dtype=torch.float64, generator=seeded(4))
    net[0].bias.data[1] = -100.0
    for form in method.FORMS:
        assert heard(net, x, form)["0"][1] == 0


def test_the_local_form_says_who_is_positive_on_average():
    net = net_of(nn.Linear(1, 2))
    net[0].weight.data = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)
    net[0].bias.data.zero_()
    assert heard(net, double([3.0], [-1.0]), "local")["0"].tolist() == [1.0, 0.0]


def test_listening_changes_no_gradient():
    net, x = conv_net(), torch.randn(4, 1, 6, 6, dtype=torch.float64, generator=seeded(5))
    net(x).square().mean().backward()
    plain = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    listener = method.Listener(method.layers_of(net))
    y = net(x)
    sensitivity(y, list(listener.p.values()))
    y.square().mean().backward()
    listener.close()
    for p, g in zip(net.parameters(), plain, strict=True):
        torch.testing.assert_close(p.grad, g)


# ---- the threshold


def test_bisection_finds_the_threshold_from_below():
    """L(T) = 1 + T and TWT = 0.2: T is at most 0.2, and near it."""
    t, loss, start, tries = bisect(lambda t: 1 + t, 0.0, 0.05, 3.0, 0.2)
    assert loss == 1 + t
    assert start == 1
    assert loss <= 1.2
    wanted = slow.largest_threshold(lambda t: 1 + t, [i / 1000 for i in range(3000)], 1.2)
    assert wanted - CLOSE * 1.2 <= t <= wanted
    assert tries < 12


@pytest.mark.parametrize("mean", [0.01, 0.3, 2.9])
def test_the_bound_is_kept_wherever_the_search_begins(mean):
    """Also where the loss jumps, and the middle of the bracket would break the bound."""
    seen = []

    def jump(t):
        seen.append(t)
        return 1.0 if t < 0.25 else 9.0

    t, loss, _, _ = bisect(jump, 0.0, mean, 3.0, 0.2)
    assert loss == 1.0
    assert t < 0.25
    assert t == pytest.approx(0.25, abs=1e-9)
    assert seen[:2] == [0.0, mean]


def test_no_rise_allowed_means_none():
    t, loss, start, _ = bisect(lambda t: 1 + t, 0.0, 0.5, 1.0, 0.0)
    assert loss <= start
    assert t == 0.0


def test_a_threshold_keeps_the_bound_and_cuts_all_that_is_smaller(tiny_task):
    net = tiny_task.build(seeded(0)).eval()
    fit(net, tiny_task, generator=seeded(0))
    before = copy.deepcopy(net)
    zeros = Zeros(method.layers_of(net), by_neuron=False)
    found = zeros.threshold(net, tiny_task, 0.3)
    loss = evaluate(net, tiny_task.val, tiny_task)["loss"]
    assert loss == pytest.approx(found["after"])
    assert loss <= 1.3 * evaluate(before, tiny_task.val, tiny_task)["loss"] + 1e-9
    for (name, w), old in zip(net.named_parameters(), before.parameters(), strict=True):
        if name in zeros.weights:  # biases too, by the same T
            assert torch.equal(w, torch.where(old.abs() >= found["threshold"], old, 0.0))
        else:
            assert torch.equal(w, old)


def test_what_stays_zero_is_every_weight_or_whole_rows_only():
    layer = nn.Linear(3, 3)
    layer.weight.data = torch.tensor([[0.1, 0.1, 0.1], [0.1, 5.0, 0.1], [3.0, 3.0, 3.0]])
    layer.bias.data = torch.tensor([0.1, 2.0, 2.0])
    for by_neuron in (False, True):
        net = nn.ModuleDict({"a": copy.deepcopy(layer)})
        zeros = Zeros({"a": net["a"]}, by_neuron)
        zeros.cut(1.0)
        net["a"].weight.data += 0.5  # a step
        net["a"].bias.data += 0.5
        zeros.apply()
        assert net["a"].weight[0].tolist() == [0.0, 0.0, 0.0]
        assert net["a"].weight[1].tolist() == ([0.5, 5.5, 0.5] if by_neuron else [0.0, 5.5, 0.0])
        assert net["a"].bias.tolist() == ([0.5, 2.5, 2.5] if by_neuron else [0.0, 2.5, 2.5])


# ---- the whole method


def run(task, tuning=TUNING, seed=0, **config):
    net = task.build(seeded(0)).eval()
    config = Config(**{"twt": 0.1} | config)
    return method.compress(net, task, None, config, tuning=tuning, generator=seeded(seed))


def plain_task(tiny_task):
    """Without batch norm, in float64."""
    return in_double(replace(tiny_task, options=tiny_task.options | {"bn": False}))


@pytest.mark.parametrize("criterion", method.CRITERIA)
def test_without_lambda_and_thresholds_it_is_ordinary_training(criterion, tiny_task):
    """To the bit: λ = 0 shrinks nothing, and nothing is cut before the last step of a training."""
    found = run(tiny_task, criterion=criterion, lam=0.0, twt=0.0, settle=0.0, check=99.0)
    net = tiny_task.build(seeded(0)).eval()
    fit(net, tiny_task, TUNING, generator=seeded(0))
    for p, q in zip(found.model.parameters(), net.parameters(), strict=True):
        assert torch.equal(p[p != 0], q[p != 0])
    assert found.trace["loss"]


@pytest.mark.parametrize("criterion", method.CRITERIA)
def test_a_training_is_the_slow_one_step_by_step(criterion, tiny_task):
    """The rule after the move, with the gradient before it, λ not multiplied by the rate."""
    task, lam = plain_task(tiny_task), 0.02
    tuning = replace(TUNING, epochs=0.5)
    net = task.build(seeded(0)).double().eval()
    config = Config(criterion=criterion, lam=lam, twt=0.0, settle=0.0, check=99.0)
    found = method.compress(net, task, None, config, tuning=tuning, generator=seeded(7))
    twin = copy.deepcopy(net)
    layers = method.layers_of(twin)
    for step in training(twin, task, tuning, generator=seeded(7)):
        grads = {n: p.grad.clone() for n, p in twin.named_parameters()}
        s = {}
        if criterion == "serene":
            twin.zero_grad()
            x = task.train.x[step.rows]
            probe = copy.deepcopy(twin)
            for name, layer in method.layers_of(probe).items():
                s[f"{name}.weight"] = slow_lower(probe, layer, x)
            for n, p in twin.named_parameters():
                p.grad = grads[n]
        step.move()
        with torch.no_grad():
            for n, p in twin.named_parameters():
                if n.rpartition(".")[0] not in layers:
                    continue
                for i, row in enumerate(p):
                    if criterion == "serene":
                        if n in s:
                            row.mul_(1 - lam * max(0.0, 1 - s[n][i]))
                    elif criterion == "lobster":
                        row.mul_(1 - lam * (1 - grads[n][i].abs()).clamp(min=0))
                    else:
                        row.mul_(1 - lam)
    for (n, p), q in zip(found.model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p[p != 0], q[p != 0], rtol=1e-9, atol=1e-12), n


def slow_lower(net, layer, x):
    """The lower bound from the gradient of each image alone."""
    total = 0.0
    for image in x:
        seen = []
        handle = layer.register_forward_hook(lambda m, i, o, s=seen: s.append(o))
        y = net(image[None])
        handle.remove()
        (g,) = torch.autograd.grad(y.sum(), seen[0])
        total = total + g[0].abs().flatten(1).mean(1) if g.ndim == 4 else total + g[0].abs()
    return (total / (len(x) * y.shape[-1])).tolist()


def test_zeros_stay_zero_to_the_end_and_are_counted(tiny_task):
    found = run(tiny_task, TUNING, criterion="lobster", lam=1e-2, twt=0.5)
    state = dict(found.model.named_parameters())
    assert all((state[n][~m] == 0).all() for n, m in found.masks.items())
    rounds = found.trace
    assert rounds["step"][-1] == 12  # of 16, the last quarter settles
    assert all(b <= 1.5 * a + 1e-9 for a, b in zip(rounds["before"], rounds["after"], strict=True))
    zeros = sum(int((~m).sum()) for m in found.masks.values())
    assert zeros >= rounds["zeros"][-1] > 0


def test_serene_leaves_whole_rows_and_lobster_single_zeros(tiny_task):
    task = replace(tiny_task, options=tiny_task.options | {"bn": False})
    tuning = replace(TUNING, epochs=6.0)
    rows = run(task, tuning, criterion="serene", lam=1e-2, twt=1.0)
    single = run(task, tuning, criterion="lobster", lam=1e-2, twt=1.0)

    def outside(result):
        """Zeros that are in no row that is all zero."""
        found = 0
        for mask in result.masks.values():
            if mask.ndim > 1:
                living = mask.flatten(1).any(1)
                found += int((~mask.flatten(1)[living]).sum())
        return found

    # a weight that reads a dead unit gets no gradient and cannot grow again
    dead = sum(int((~m.flatten(1).any(1)).sum()) for m in rows.masks.values() if m.ndim > 1)
    assert dead > 0
    assert outside(rows) < 0.2 * outside(single)


def test_biases_shrink_with_lobster_and_not_with_serene():
    assert Config(criterion="lobster").biases
    assert not Config(criterion="serene").biases
    assert Config(criterion="decay").biases
    assert not Config(criterion="decay", zeros="neurons").biases
    assert Config().by_neuron
    assert not Config(criterion="lobster").by_neuron


def test_norms_are_never_touched(tiny_task):
    """With batch norm: scales and shifts move as in plain training, and no zero is put there."""
    found = run(tiny_task, criterion="decay", lam=0.5, twt=0.5)
    norms = {n for n, m in found.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms
    assert not any(n.rpartition(".")[0] in norms for n in found.masks)


def test_the_mean_of_s_is_logged_and_tells_lobster_from_decay(tiny_task):
    for criterion, positive in (("serene", True), ("lobster", True), ("decay", False)):
        trace = run(tiny_task, criterion=criterion, lam=1e-3).trace
        assert len(trace["mean_s"]) == len(trace["checked"]) == len(trace["val_loss"]) == 3
        assert all((s > 0) == positive for s in trace["mean_s"])


def test_a_sensitivity_beyond_one_everywhere_shrinks_nothing(tiny_task, monkeypatch):
    def high(y, p, form):
        return [torch.full((q.shape[1],), 2.0) for q in p]

    monkeypatch.setattr(method, "sensitivity", high)
    found = run(tiny_task, criterion="serene", lam=0.5, twt=0.0, settle=0.0, check=99.0)
    net = tiny_task.build(seeded(0)).eval()
    fit(net, tiny_task, TUNING, generator=seeded(0))
    for p, q in zip(found.model.parameters(), net.parameters(), strict=True):
        assert torch.equal(p[p != 0], q[p != 0])


# ---- bad input


def test_a_budget_is_refused(tiny_task):
    net = tiny_task.build(seeded(0))
    with pytest.raises(ValueError, match=r"takes no budget, got 0\.5; steer by lam and twt"):
        method.compress(net, tiny_task, 0.5, tuning=None, generator=seeded(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "magic"}, "no criterion 'magic'"),
        ({"form": "upper"}, "of form 'upper'"),
        ({"zeros": "rows"}, "by weights or neurons, not by 'rows'"),
        ({"lam": 1.0}, "need 0 ≤ λ < 1"),
        ({"twt": -0.1}, "TWT ≥ 0"),
        ({"pwe": 0}, "PWE ≥ 1"),
        ({"settle": 1.0}, "settle < 1"),
        ({"check": 0.0}, "check > 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(**changes)
