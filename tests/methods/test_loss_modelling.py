import copy
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.curvature import ggn_diagonal
from survey_lib.mechanics.masks import final_sparsity, prunable_weights
from survey_lib.methods import baselines
from survey_lib.methods import loss_modelling as method
from survey_lib.tasks.data import Split
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import load_task
from survey_lib.tasks.train import evaluate, fit
from tests.oracles import loss_models as oracle

MODELS = ("LM", "QM", "OBD")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


@pytest.fixture
def tiny():
    """A float64 net with 40 prunable weights, and twelve examples of three classes."""
    net = nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(0.8 * drawn(*p.shape, seed=i))
    return net, Split(drawn(12, 5, seed=9), torch.arange(12) % 3)


def masks_of(net, images, task, kappa, **config):
    return method.prune(copy.deepcopy(net), task, images, kappa, method.Config(**config))[0]


# ---- scores


def quadratic(d, a, theta):
    return 0.5 * (d * (theta - a) ** 2).sum()


def test_the_dossiers_two_weights_by_hand():
    """D = diag(2, 1), a = (1, 3), θ = (1.5, 2): OBD removes the second, LM and QM the first."""
    d, a, theta = (torch.tensor(v, dtype=torch.float64) for v in ([2, 1], [1, 3], [1.5, 2]))
    g = d * (theta - a)
    assert g.tolist() == [1, -1]
    scores = {
        c: method.saliency(c, method.modelled_change(c, theta, g, d), theta, 0.0).tolist()
        for c in method.CRITERIA
    }
    assert scores["LM"] == [1.5, 2]
    assert scores["OBD"] == [2.25, 2]
    assert scores["QM"] == [0.75, 4]
    assert scores["MP"] == [1.125, 2]
    with_penalty = method.saliency("QM", method.modelled_change("QM", theta, g, d), theta, 2.0)
    assert with_penalty.tolist() == [0.75 + 2.25, 4 + 4]


def test_the_quadratic_model_is_exact_on_a_quadratic_and_obd_at_its_minimum():
    d, a, theta = drawn(8, seed=1).abs(), drawn(8, seed=2), drawn(8, seed=3)
    for here in (theta, a):
        g = d * (here - a)
        change = method.modelled_change("QM", here, g, d)
        for k in range(8):
            without = here.clone()
            without[k] = 0
            assert change[k] == pytest.approx(quadratic(d, a, without) - quadratic(d, a, here))
    assert torch.equal(change, method.modelled_change("OBD", a, g, d))


def test_scores_equal_the_literal_ones_weight_by_weight():
    theta, g, curvature = drawn(20, seed=1), drawn(20, seed=2), drawn(20, seed=3).abs()
    for criterion in method.CRITERIA:
        for lam in (0.0, 0.7):
            change = method.modelled_change(criterion, theta, g, curvature)
            found = method.saliency(criterion, change, theta, lam)
            rows = zip(theta.tolist(), g.tolist(), curvature.tolist(), strict=True)
            expected = [oracle.score(criterion, *row, lam) for row in rows]
            assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_without_a_gradient_the_linear_model_ranks_by_size():
    theta, zero = drawn(50), torch.zeros(50, dtype=torch.float64)
    score = method.saliency("LM", method.modelled_change("LM", theta, zero, 0.0), theta, 0.3)
    assert torch.equal(score.argsort(), theta.abs().argsort())


# ---- schedules


def test_survivors_decay_geometrically_and_meet_the_ends():
    kappa = 0.956
    assert method.sparsity_at(14, 14, kappa) == method.sparsity_at(1, 1, kappa) == kappa
    assert method.sparsity_at(0, 14, kappa) == 0
    left = [1 - method.sparsity_at(i, 14, kappa) for i in range(15)]
    ratios = [b / a for a, b in itertools.pairwise(left)]
    assert ratios == pytest.approx([0.8] * 14, abs=1e-4)  # κ = 1 − 0.8¹⁴: a fifth goes each step
    assert method.sparsity_at(7, 14, kappa, "linear") == pytest.approx(0.478)
    assert method.sparsity_at(14, 14, kappa, "linear") == kappa


def test_the_printed_schedule_removes_nearly_all_in_its_first_step():
    assert method.printed_sparsity(1, 140, 0.956) == pytest.approx(0.9997, abs=5e-5)
    assert method.printed_sparsity(2, 140, 0.956) > 1
    assert method.sparsity_at(1, 140, 0.956) == pytest.approx(0.0221, abs=5e-5)


@pytest.mark.parametrize("schedule", method.SCHEDULES)
@pytest.mark.parametrize("pi", [1, 3, 17])
def test_masks_are_nested_counts_are_exact_and_each_model_is_made_at_the_masked_point(
    tiny, tiny_task, monkeypatch, pi, schedule
):
    net, images = tiny
    zeros = []

    def watched(model, *rest):
        zeros.append(torch.cat([p.flatten() == 0 for n, p in model.named_parameters()
                                if "weight" in n]))  # fmt: skip
        return original(model, *rest)

    original = method.loss_and_gradient
    monkeypatch.setattr(method, "loss_and_gradient", watched)
    masks = masks_of(net, images, tiny_task, 0.83, criterion="QM", pi=pi, schedule=schedule)
    assert len(zeros) == pi + 1
    for i, (before, after) in enumerate(itertools.pairwise(zeros), 1):
        assert not (before & ~after).any()
        assert int(after.sum()) == round(method.sparsity_at(i, pi, 0.83, schedule) * 40)
    assert sum(int(m.sum()) for m in masks.values()) == 40 - round(0.83 * 40)


# ---- algorithm 1


@pytest.mark.parametrize("criterion", method.CRITERIA)
@pytest.mark.parametrize("lam", [0.0, 0.05])
@pytest.mark.parametrize("pi", [1, 4])
def test_masks_equal_the_slow_twins(tiny, tiny_task, criterion, lam, pi):
    net, images = tiny
    found = masks_of(net, images, tiny_task, 0.7, criterion=criterion, pi=pi, lam=lam)
    names = list(prunable_weights(net))
    slow = oracle.algorithm_1(net, images.x, images.y, names, 0.7, pi, criterion, lam)
    assert {k: m.flatten().tolist() for k, m in found.items()} == slow


@pytest.mark.parametrize("criterion", MODELS)
def test_renewing_the_model_matters_here(tiny, tiny_task, criterion):
    """Else the twins above would agree even if gradient and curvature were never recomputed."""
    net, images = tiny
    one, four = (
        masks_of(net, images, tiny_task, 0.7, criterion=criterion, pi=pi, lam=0.0) for pi in (1, 4)
    )
    assert any(not torch.equal(one[k], four[k]) for k in one)


def test_squares_of_the_batch_gradient_would_choose_other_weights(tiny, tiny_task, monkeypatch):
    """So the twins above fail for an implementation that takes them for the curvature."""
    net, images = tiny
    right = masks_of(net, images, tiny_task, 0.7, criterion="OBD", pi=1, lam=0.0)

    def wrong(model, x, weights, **_):
        _, g = method.loss_and_gradient(model, tiny_task, images, weights)
        return {k: v**2 for k, v in g.items()}

    monkeypatch.setattr(method, "ggn_diagonal", wrong)
    assert any(
        not torch.equal(right[k], m)
        for k, m in masks_of(net, images, tiny_task, 0.7, criterion="OBD", pi=1, lam=0.0).items()
    )


@pytest.mark.parametrize("criterion", MODELS)
@pytest.mark.parametrize("pi", [1, 3])
def test_an_endless_penalty_gives_magnitude_pruning(tiny, tiny_task, criterion, pi):
    net, images = tiny
    magnitude = masks_of(net, images, tiny_task, 0.6, criterion="MP", pi=1)
    found = masks_of(net, images, tiny_task, 0.6, criterion=criterion, pi=pi, lam=1e12)
    free = masks_of(net, images, tiny_task, 0.6, criterion=criterion, pi=pi, lam=0.0)
    assert all(torch.equal(found[k], magnitude[k]) for k in found)
    assert any(not torch.equal(free[k], magnitude[k]) for k in found)


@pytest.mark.parametrize("pi", [2, 14, 31])
def test_magnitude_masks_do_not_depend_on_the_number_of_steps(tiny, tiny_task, pi):
    net, images = tiny
    one, many = (
        masks_of(net, images, tiny_task, 0.83, criterion="MP", pi=p, lam=5.0) for p in (1, pi)
    )
    assert all(torch.equal(one[k], many[k]) for k in one)


def test_magnitude_equals_torchs_own_pruning_and_the_baseline(tiny_mlp_task):
    model = tiny_mlp_task.build(seeded(0))
    budget = Budget("nonzeros", 0.2)
    mine = method.compress(
        model, tiny_mlp_task, budget, method.Config("MP", 3), tuning=None, generator=seeded(1)
    )
    config = baselines.Config("magnitude", scope="global")
    base = baselines.compress(
        model, tiny_mlp_task, budget, config, tuning=None, generator=seeded(1)
    )
    from torch.nn.utils import prune

    layers = [(m, "weight") for m in model.modules() if isinstance(m, nn.Linear)]
    gone = sum(int((~m).sum()) for m in mine.masks.values())
    prune.global_unstructured(layers, prune.L1Unstructured, amount=gone)
    for (layer, _), (name, mask) in zip(layers, mine.masks.items(), strict=True):
        assert torch.equal(mask, base.masks[name])
        assert torch.equal(mask, layer.weight_mask.bool())


def test_the_gradient_is_right_by_central_differences(tiny, tiny_task):
    net, images = tiny
    weights = prunable_weights(net)
    _, g = method.loss_and_gradient(net, tiny_task, images, weights)

    def loss():
        return float(tiny_task.loss(net(images.x), images.y).detach())

    for name, w in weights.items():
        for k in range(w.numel()):
            with torch.no_grad():
                w.view(-1)[k] += 1e-6
                up = loss()
                w.view(-1)[k] -= 2e-6
                slope = (up - loss()) / 2e-6
                w.view(-1)[k] += 1e-6
            assert g[name].flatten()[k].item() == pytest.approx(slope, rel=1e-6, abs=1e-9)


def test_the_batches_average_to_the_mean_over_all_images(tiny, tiny_task, monkeypatch):
    net, images = tiny
    weights = prunable_weights(net)
    whole = method.loss_and_gradient(net, tiny_task, images, weights)
    monkeypatch.setattr(method, "BATCH", 5)  # 5, 5 and 2
    loss, g = method.loss_and_gradient(net, tiny_task, images, weights)
    assert loss == pytest.approx(whole[0], rel=1e-12)
    assert all(torch.allclose(g[k], whole[1][k], rtol=1e-10) for k in g)


def test_errors_shrink_as_taylor_says(tiny, tiny_task):
    """Shrink a set of weights by ε: the linear model errs by ε², the full quadratic one by ε³.

    A diagonal leaves out how weights act together, so QM errs by ε² like LM.
    """
    net, images = tiny
    name = "0.weight"
    weights = {name: net[0].weight}
    base, g = method.loss_and_gradient(net, tiny_task, images, weights)
    chosen = torch.arange(25).view(5, 5) % 3 == 0
    theta = net[0].weight.detach().clone()
    step = -theta * chosen
    curvature = ggn_diagonal(net, images.x, weights)[name]
    full = oracle.hessian_of(net, oracle.parameters_of(net), images.x, images.y, name)

    def errors(eps):
        with torch.no_grad():
            net[0].weight.copy_(theta + eps * step)
        change = float(tiny_task.loss(net(images.x), images.y).detach()) - base
        linear = eps * float((g[name] * step).sum())
        diagonal = linear + 0.5 * eps**2 * float((curvature * step**2).sum())
        exact = linear + 0.5 * eps**2 * float(step.flatten() @ full @ step.flatten())
        return [abs(change - model) for model in (linear, diagonal, exact)]

    large, small = errors(0.02), errors(0.01)
    ratios = [a / b for a, b in zip(large, small, strict=True)]
    assert ratios == pytest.approx([4, 4, 8], rel=0.05)


def test_the_path_holds_true_and_predicted_loss(tiny, tiny_task):
    net, images = tiny
    _, path = method.prune(net, tiny_task, images, 0.5, method.Config("LM", 3, 0.0))
    assert [len(v) for v in path.values()] == [4, 4, 4]
    assert path["predicted"][0] == path["loss"][0]
    end = float(tiny_task.loss(net(images.x), images.y).detach())
    assert path["loss"][-1] == pytest.approx(end, rel=1e-12)
    # one step of the signed linear model: −Σ g θ over what went
    net, images = tiny[0], images
    base, g = method.loss_and_gradient(net, tiny_task, images, prunable_weights(net))
    before = {k: w.detach().clone() for k, w in prunable_weights(net).items()}
    masks, path = method.prune(net, tiny_task, images, 0.8, method.Config("LM", 1, 0.0))
    removed = sum(float((g[k] * before[k])[~masks[k]].sum()) for k in g)
    assert path["predicted"] == pytest.approx([base, base - removed])


# ---- compress


def test_cut_weights_are_zero_to_the_last_bit_after_tuning(tiny_task):
    result = method.compress(
        tiny_task.build(seeded(0)), tiny_task, Budget("nonzeros", 0.3), method.Config("QM", 3),
        tuning=tiny_task.training, generator=seeded(0),
    )  # fmt: skip
    state = dict(result.model.named_parameters())
    assert tiny_task.training.weight_decay > 0
    for name, mask in result.masks.items():
        assert (state[name][~mask] == 0).all()
        assert (state[name][mask] != 0).all()


def test_biases_and_normalisation_are_spared_and_the_first_convolution_is_not(tiny_task):
    result = method.compress(
        tiny_task.build(seeded(0)), tiny_task, Budget("nonzeros", 0.3),
        method.Config("LM", 2), tuning=None, generator=seeded(0),
    )  # fmt: skip
    weights = {n for n, m in result.model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))}
    assert set(result.masks) == {f"{n}.weight" for n in weights}


def test_statistics_of_batch_norm_stay_while_pruning(tiny_task):
    model = tiny_task.build(seeded(0))
    fit(model, tiny_task.with_training(epochs=0.5), generator=seeded(1))
    before = {k: v.clone() for k, v in model.state_dict().items() if "running" in k}
    result = method.compress(
        model, tiny_task, Budget("nonzeros", 0.3), method.Config("QM", 2),
        tuning=None, generator=seeded(0),
    )  # fmt: skip
    after = result.model.state_dict()
    assert before
    assert all(torch.equal(v, after[k]) for k, v in before.items())


@pytest.mark.parametrize("criterion", MODELS)
def test_a_net_in_train_mode_is_scored_in_eval_mode(tiny_task, criterion):
    """Scores made with the statistics of a batch would cut other weights, and move the running."""
    model = tiny_task.build(seeded(0))
    fit(model, tiny_task.with_training(epochs=0.5), generator=seeded(1))
    budget, config = Budget("nonzeros", 0.3), method.Config(criterion, 2, examples=60)
    in_eval = method.compress(
        model.eval(), tiny_task, budget, config, tuning=None, generator=seeded(0)
    )
    in_train = method.compress(
        model.train(), tiny_task, budget, config, tuning=None, generator=seeded(0)
    )
    assert model.training
    assert in_train.trace["loss"] == in_eval.trace["loss"]
    assert all(torch.equal(in_train.masks[k], in_eval.masks[k]) for k in in_eval.masks)
    for (name, a), b in zip(
        in_train.model.state_dict().items(), in_eval.model.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("criterion", method.CRITERIA)
@pytest.mark.parametrize("some", [["0.weight"], ["0.weight", "0.bias", "2.weight", "2.bias"]])
def test_frozen_weights_are_scored_like_others_and_stay_frozen(tiny, tiny_task, criterion, some):
    net, images = tiny
    free = masks_of(net, images, tiny_task, 0.7, criterion=criterion, pi=3)
    frozen = copy.deepcopy(net)
    for name in some:
        frozen.get_parameter(name).requires_grad_(False)
    masks, _ = method.prune(
        frozen, tiny_task, images, 0.7, method.Config(criterion=criterion, pi=3)
    )
    assert all(torch.equal(masks[k], free[k]) for k in free)
    assert [n for n, p in frozen.named_parameters() if not p.requires_grad] == some


def test_a_net_that_is_frozen_throughout_is_pruned_but_not_tuned(tiny_mlp_task):
    model = tiny_mlp_task.build(seeded(0)).requires_grad_(False)
    given = (model, tiny_mlp_task, Budget("nonzeros", 0.3), method.Config("QM", 2))
    result = method.compress(*given, tuning=None, generator=seeded(0))
    assert not any(p.requires_grad for p in result.model.parameters())
    with pytest.raises(ValueError, match="no parameter may move; unfreeze some"):
        method.compress(*given, tuning=tiny_mlp_task.training, generator=seeded(0))


def test_what_is_cut_takes_no_part_in_clipping_or_momentum(tiny_mlp_task):
    """Three steps beside a loop by hand, in which only survivors have a gradient.

    Were the gradients of cut weights left in, they would count in the norm that is clipped.
    """
    recipe = replace(
        tiny_mlp_task.training, epochs=3 / 4, batch=64, lr=0.1, clip=0.05, schedule="constant"
    )
    model = tiny_mlp_task.build(seeded(0)).eval()
    images, _ = method.saliency_images(tiny_mlp_task, 60, seeded(1))
    masks, _ = method.prune(model, tiny_mlp_task, images, 0.8, method.Config("LM", 2))
    twin = copy.deepcopy(model)
    history = method.tune(model, masks, tiny_mlp_task, recipe, generator=seeded(2))
    order = torch.randperm(len(tiny_mlp_task.train), generator=seeded(2)).split(recipe.batch)
    momentum = {name: torch.zeros_like(p) for name, p in twin.named_parameters()}
    for rows in order[: history.steps]:
        x, y = tiny_mlp_task.train.x[rows], tiny_mlp_task.train.y[rows]
        names = list(momentum)
        loss = tiny_mlp_task.loss(twin(x), y)
        found = torch.autograd.grad(loss, list(twin.parameters()))
        slopes = {k: g * masks[k] if k in masks else g for k, g in zip(names, found, strict=True)}
        norm = torch.sqrt(sum((g**2).sum() for g in slopes.values()))
        assert norm > recipe.clip
        with torch.no_grad():
            for name, p in twin.named_parameters():
                g = slopes[name] * recipe.clip / (norm + 1e-6) + recipe.weight_decay * p
                momentum[name] = 0.9 * momentum[name] + g
                p -= recipe.lr * (g + 0.9 * momentum[name])
    assert history.steps == 3
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-6), name
        if name in masks:
            assert (a[~masks[name]] == 0).all()


def test_many_steps_keep_the_loss_lower_than_one_on_a_trained_net(tiny_mlp_task):
    """The paper's point, on a net of a few thousand weights."""
    model = tiny_mlp_task.build(seeded(0))
    fit(model, tiny_mlp_task, generator=seeded(0))
    loss = {}
    for pi in (1, 30):
        config = method.Config("LM", pi, 0.0)
        result = method.compress(
            model,
            tiny_mlp_task,
            Budget("nonzeros", 0.1),
            config,
            tuning=None,
            generator=seeded(0),
        )
        loss[pi] = evaluate(result.model, tiny_mlp_task.train, tiny_mlp_task)["loss"]
    assert loss[30] < 0.8 * loss[1]


def test_the_images_are_drawn_first_and_never_twice(tiny_task):
    seen, others = method.saliency_images(tiny_task, 100, seeded(3))
    rows = torch.randperm(256, generator=seeded(3))
    assert torch.equal(seen.x, tiny_task.train.x[rows[:100]])
    assert torch.equal(others.y, tiny_task.train.y[rows[100:]])


def test_passes_are_counted(tiny_mlp_task):
    result = method.compress(
        tiny_mlp_task.build(seeded(0)), tiny_mlp_task, Budget("nonzeros", 0.5),
        method.Config("OBD", 3, examples=200), tuning=None, generator=seeded(0),
    )  # fmt: skip
    assert result.forward_passes == 4 + 3
    assert result.backward_passes == 4 + 3 * 4  # four classes


@pytest.mark.parametrize(
    "bad", [{"criterion": "SNIP"}, {"schedule": "printed"}, {"pi": 0}, {"lam": -1}, {"examples": 0}]
)
def test_bad_configurations_are_refused(bad):
    with pytest.raises(ValueError, match=r"no criterion|no schedule|need pi"):
        method.Config(**bad)


def test_budgets_out_of_reach_or_of_another_metric_are_refused():
    net = nn.Sequential(nn.Linear(3, 3))
    weights = prunable_weights(net, spare_first_conv=False)
    with pytest.raises(BudgetNotMet, match=r"more than 0\.25"):
        final_sparsity(net, weights, Budget("nonzeros", 0.2))
    with pytest.raises(ValueError, match="nonzeros"):
        final_sparsity(net, weights, Budget("macs", 0.5))
    assert final_sparsity(net, weights, Budget("nonzeros", 0.5)) == pytest.approx(6 / 9)


def test_an_embedding_has_no_curvature_and_is_refused_before_anything_is_pruned():
    task = load_task("char_gpt", width=0.25)
    net = task.build(seeded(0))
    for config, refused in ((method.Config("OBD"), True), (method.Config("MP"), False)):
        if refused:
            with pytest.raises(ValueError, match=r"tokens\.weight .* a score without curvature"):
                method.check(net, None, task, config)
        else:
            method.check(net, None, task, config)
    with pytest.raises(ValueError, match="without curvature"):
        method.compress(net, task, Budget("nonzeros", 0.5), tuning=None, generator=seeded(0))
