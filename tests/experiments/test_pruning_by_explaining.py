"""What is particular to this experiment; the contract of all is in test_contract.py."""

from dataclasses import asdict, replace

import pytest
import torch
from torch import nn

from survey_lib.evidence.protocol import MissingArm, Rows
from survey_lib.evidence.reading import study as recorded
from survey_lib.evidence.records import Record
from survey_lib.experiments.context import Context, measure
from survey_lib.experiments.pruning_by_explaining import cells, study
from survey_lib.experiments.pruning_by_explaining.cells import Cell
from survey_lib.methods.pruning_by_explaining import method
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import load_task

SLUG = "pruning_by_explaining"


def rows(*pairs):
    """Records of these cells and, of a net's, of all its draws alike."""
    pairs = [
        (replace(c, draw=draw), n) for c, n in pairs for draw in range(study.DRAWS.get(c.family, 1))
    ]
    records = [Record(SLUG, "study", asdict(c), c.seed, "k", "done", n) for c, n in pairs]
    return Rows(records, Cell, ())


def untuned(arm, as_it_is, few, family="resnet", **knobs):
    """A run whose accuracy falls by so much at each mark."""
    at = {k: [0.9 - fall * i for i in range(7)] for k, fall in (("test_at", as_it_is),
                                                               ("few_at", few))}  # fmt: skip
    return Cell(arm, 0, family, **knobs), at


def test_leads_are_means_over_their_marks_and_their_kind_of_statistics():
    found = rows(
        untuned("lrp", 0.01, 0.02), untuned("taylor", 0.05, 0.03), untuned("weight", 0.03, 0.01),
        untuned("gradient", 0.06, 0.05), untuned("taylor_each", 0.0, 0.04),
        untuned("fisher", 0.0, 0.0), untuned("lrp", 0.5, 0.5, rules="equation"),
        untuned("lrp", 0.0, 0.0, lr=0.05),
    )  # fmt: skip
    assert study.over_taylor(found) == pytest.approx(3 * 0.04)  # marks 1 … 5
    assert study.over_gradient(found) == pytest.approx(3 * 0.05)
    assert study.over_weight(found) == pytest.approx(3.5 * 0.02)  # marks 2 … 5
    assert study.over_taylor_few(found) == pytest.approx(3 * 0.01)
    assert study.over_gradient_few(found) == pytest.approx(3 * 0.03)
    assert study.over_weight_few(found) == pytest.approx(3.5 * -0.01)
    assert study.over_taylor_each_few(found) == pytest.approx(3 * 0.02)
    assert study.over_fisher_few(found) == pytest.approx(3 * -0.02)
    assert study.repaired(found) == pytest.approx(3 * 0.02)


def test_other_nets_have_statistics_of_their_own():
    found = rows(
        untuned("lrp", 0.01, 0.5, "cnn"), untuned("taylor", 0.03, 0.5, "cnn"),
        untuned("weight", 0.02, 0.5, "cnn"), untuned("lrp", 0.5, 0.02, "new"),
        untuned("weight", 0.5, 0.04, "new"),
    )  # fmt: skip
    assert study.over_taylor_cnn(found) == pytest.approx(3 * 0.02)
    assert study.over_weight_cnn(found) == pytest.approx(3.5 * 0.01)
    assert study.over_weight_new(found) == pytest.approx(3.5 * 0.02)


def toy(arm, name, at_five, at_hundred, noisy=0.8):
    third = {str(n): [at_five if n <= 5 else at_hundred, noisy] for n in cells.SAMPLES}
    return Cell(arm, 0, name), {"whole": [1.0, 0.9], "third": third}


def test_toy_statistics_take_their_number_of_samples_and_their_points():
    found = rows(
        toy("lrp", "moon", 0.98, 1.0, 0.85), toy("lrp", "circle", 0.96, 1.0),
        toy("taylor", "moon", 0.5, 0.9), toy("taylor", "circle", 0.5, 0.8),
        toy("taylor_each", "moon", 1.0, 0.0), toy("taylor_each", "circle", 0.9, 0.0),
        toy("weight", "moon", 0.9, 0.9, 0.88), toy("lrp", "mult", 0.0, 0.0),
    )  # fmt: skip
    assert study.lrp_loss_at_five(found) == pytest.approx(-0.03)
    assert study.taylor_loss_at_hundred(found) == pytest.approx(-0.15)
    assert study.taylor_each_loss_at_five(found) == pytest.approx(-0.05)
    assert study.weight_over_lrp_noisy(found) == pytest.approx(0.03)


def test_the_spread_is_over_the_papers_criteria_tuned():
    tuned = dict(zip(study.PAPERS, (0.9, 0.88, 0.93, 0.91), strict=True)) | {"fisher": 0.5}
    found = rows(*((study.tuned(arm, 0), {"test": test}) for arm, test in tuned.items()))
    assert study.spread_after_tuning(found) == pytest.approx(0.05)


def test_a_statistic_misses_an_arm_by_name():
    for statistic in study.STATISTICS.values():
        with pytest.raises(MissingArm):
            statistic([])


def test_each_replicate_draws_three_classes_and_all_criteria_see_the_same_images():
    drawn = {tuple(cells.classes_of(s)) for s in range(20)}
    assert all(len(set(three)) == 3 and max(three) < 10 for three in drawn)
    assert len(drawn) > 10
    task = cells.task_of(cells.Cell("lrp", 0))
    a, b = (cells.few_images(task, Cell(arm, 0)) for arm in ("lrp", "weight"))
    assert torch.equal(a.x, b.x)
    assert a.y.bincount().tolist() == [10, 10, 10]


def test_each_draw_has_its_own_classes_and_a_replicate_is_the_mean_over_them():
    drawn = {tuple(cells.classes_of(s, d)) for s in range(5) for d in range(4)}
    assert len(drawn) > 10
    made = [
        Record(SLUG, "study", asdict(Cell(arm, 0, draw=d)), 0, f"{arm} {d}", "done",
               {"test_at": [0, *[lead * (d + 1)] * 6], "few_at": [0, *[0.0] * 6]})
        for d in range(study.DRAWS["resnet"])
        for arm, lead in (("lrp", 0.2), ("taylor", 0.1))
    ]  # fmt: skip
    assert study.STATISTICS["over_taylor"](made) == pytest.approx(0.25)
    assert study.STATISTICS["repaired"](made) == pytest.approx(-0.25)
    with pytest.raises(MissingArm):
        study.STATISTICS["over_taylor"](made[:-1])


def test_a_net_of_three_classes_gives_the_logits_that_it_gave():
    net = load_task("resnet_small").build(seeded(0)).eval()
    x = torch.randn(4, 1, 28, 28, generator=seeded(1))
    three = cells.with_rows(net, [7, 2, 5])
    torch.testing.assert_close(three(x), net(x)[:, [7, 2, 5]])
    assert net(x).shape == (4, 10)


def test_a_new_head_fits_the_few_images_and_changes_nothing_else(tiny_task):
    net = tiny_task.build(seeded(0)).eval()
    few = method.reference(tiny_task, 5, seeded(0))
    fresh = cells.with_new_head(net, few)
    assert float((fresh(few.x).argmax(1) == few.y).float().mean()) == 1
    before, after = net.state_dict(), fresh.state_dict()
    changed = {k for k in before if not torch.equal(before[k], after[k])}
    assert changed == {"classifier.weight", "classifier.bias"}


@pytest.fixture
def small(monkeypatch, tmp_path, tiny_task):
    """The experiment on four classes of blobs."""
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    few = method.reference(tiny_task, 3, seeded(0))

    def start(cell):
        return tiny_task.build(seeded(cell.seed)).eval(), tiny_task, few

    monkeypatch.setattr(cells, "start_net", start)
    return lambda arm, seed=1, **knobs: cells.measured(Context(SLUG, Cell(arm, seed, **knobs), "d"))


@pytest.mark.parametrize("arm", [a for a in cells.ARMS if a != "dense"])
def test_a_run_is_measured_at_every_mark_with_both_kinds_of_statistics(small, arm):
    found = small(arm)
    assert len(found["test_at"]) == len(found["few_at"]) == len(study.MARKS) == 7
    units = [sum(kept.values()) for kept in found["kept"]]
    each = round(cells.STEP * units[0])
    assert units == [units[0] - 2 * i * each for i in range(7)]
    assert found["test_at"][-1] == found["test"]
    assert found["test_at"] != found["few_at"]
    assert "pictures" not in found


def test_with_a_rate_each_round_is_tuned_down_to_half(small):
    tuned, plain, dense = small("lrp", lr=0.05), small("lrp"), small("dense", lr=0.05)
    assert tuned["params"] < dense["params"]
    assert tuned["params"] > plain["params"]  # half of the filters against two fifths
    assert tuned["test_at"] == []
    assert tuned["val"] != plain["val"]


def test_replicate_0_keeps_a_picture_at_every_mark(small, monkeypatch):
    found = small("lrp", seed=0)["pictures"]
    assert len(found) == 7
    assert all(len(p) == 64 and set(p) <= set(cells.LEVELS) for p in found)  # 8 × 8 pixels
    assert len(set(found)) > 1


def test_a_toy_run_has_every_number_of_samples(monkeypatch, tmp_path):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    monkeypatch.setattr(cells, "SAMPLES", (1, 5))
    task = load_task("toy_mlp", "moon", width=0.02).with_training(epochs=2.0)
    monkeypatch.setattr(cells, "toy_task", lambda name, width: task)
    found = measure(SLUG, Cell("lrp", 0, "moon"), "d")
    assert set(found["third"]) == {"1", "5"}
    assert found["whole"] == measure(SLUG, Cell("dense", 0, "moon"), "d")["whole"]
    assert len(found["field"]["third"]) == cells.FIELD
    assert {*"".join(found["field"]["third"])} <= {"0", "1"}
    assert {len(line) for line in found["field"]["whole"]} == {cells.FIELD}


def test_a_plane_is_read_from_the_top_down():
    class Split(nn.Module):
        def forward(self, x):
            return torch.stack([-x[:, 1], x[:, 1]], 1)  # class 1 where y > 0

    drawn = cells.field(Split())
    assert set(drawn[0]) == {"1"}
    assert set(drawn[-1]) == {"0"}


def test_records_of_the_study_are_consistent_with_their_configuration():
    for r in recorded(SLUG):
        cell = Cell(**r.config)
        if "kept" in r.numbers and not cell.lr:
            units = [sum(kept.values()) for kept in r.numbers["kept"]]
            assert units[-1] == units[0] - cells.ROUNDS * round(cells.STEP * units[0])
        if cell.family == "cnn" and not cell.lr:
            assert r.numbers["test_at"] == r.numbers["few_at"]  # no statistics to estimate


def test_runs_of_a_draw_share_their_dense_net():
    found = {}
    for r in recorded(SLUG):
        cell = Cell(**r.config)
        if cell.family in cells.NETS and not cell.lr and cell.family != "new":
            found.setdefault((cell.seed, cell.draw, cell.family), set()).add(
                r.numbers["test_at"][0]
            )
    assert all(len(accuracies) == 1 for accuracies in found.values())


def test_a_toy_net_is_the_same_whatever_was_drawn_before_and_all_criteria_prune_it(
    monkeypatch, tmp_path
):
    """Its dropout draws from torch's own generator, which is given back as it was."""
    found = []
    for number in (1, 2):
        monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / str(number)))
        torch.manual_seed(number)
        before = torch.get_rng_state()
        cell = Cell("dense", 3, "moon", width=0.02)
        found.append(measure(SLUG, cell, "digest"))
        assert torch.equal(torch.get_rng_state(), before)
    assert found[0] == found[1]
    other = measure(SLUG, replace(cell, arm="weight"), "digest")
    assert other["whole"] == found[0]["whole"]
    assert cells.needs(replace(cell, arm="weight")) == (cell,)


def test_all_criteria_of_a_replicate_prune_the_same_toy_net():
    found = {}
    for r in recorded(SLUG):
        cell = Cell(**r.config)
        if cell.family not in cells.NETS:
            whole = tuple(r.numbers["whole"])
            found.setdefault((cell.seed, cell.family, cell.width), set()).add(whole)
    assert all(len(accuracies) == 1 for accuracies in found.values())
