import pytest
import torch
from torch import nn

from survey_lib.measure import latency, macs, size
from survey_lib.mechanics import counting


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Linear(7, 5), (3, 7), 35),
        (nn.Conv2d(3, 8, 3, padding=1), (2, 3, 6, 5), 8 * 3 * 9 * 30),
        (nn.Conv2d(4, 8, 3, stride=2, groups=2), (2, 4, 9, 9), 8 * 2 * 9 * 16),
        (nn.Conv2d(6, 6, 3, groups=6, padding=1), (1, 6, 4, 4), 6 * 9 * 16),
        (nn.Conv1d(2, 3, 5), (1, 2, 10), 3 * 2 * 5 * 6),
        (nn.ConvTranspose2d(2, 3, 2, stride=2), (1, 2, 4, 4), 2 * 3 * 4 * 16),
        (nn.Sequential(nn.Flatten(), nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 1)), (4, 2, 4), 18),
    ],
)
def test_macs_equal_the_closed_form(layer, shape, expected):
    assert macs.count_macs(layer, torch.randn(shape)) == expected


def test_macs_of_the_projects_models_equal_hand_counts():
    from survey_lib.tasks.dense import seeded
    from survey_lib.tasks.models import build_model

    mlp = build_model("mlp", generator=seeded(0))
    assert macs.count_macs(mlp, torch.zeros(1, 1, 28, 28)) == 784 * 300 + 300 * 100 + 100 * 10
    cnn = build_model("cnn_small", generator=seeded(0))
    by_hand = 14**2 * 9 * 32 + 7**2 * 9 * 32 * 64 + 4**2 * 9 * 64 * 128 + 128 * 16 * 10
    assert macs.count_macs(cnn, torch.zeros(2, 1, 28, 28)) == by_hand


def test_macs_of_attention_are_counted_though_torch_fuses_it():
    d, heads, hidden, t = 16, 2, 32, 10
    layer = nn.TransformerEncoderLayer(d, heads, hidden, batch_first=True).eval()
    projections = 4 * t * d * d + 2 * t * d * hidden
    attention = 2 * t * t * d
    assert macs.count_macs(layer, torch.randn(1, t, d)) == projections + attention


def test_an_uncounted_product_is_an_error(monkeypatch):
    registry = {k: v for k, v in counting.flop_registry.items() if "addmm" not in str(k)}
    monkeypatch.setattr(counting, "flop_registry", registry)
    with pytest.raises(macs.MacsError, match="addmm"):
        macs.count_macs(nn.Linear(3, 2), torch.zeros(1, 3))


def test_nonzero_macs_follow_the_zeros():
    conv = nn.Conv2d(2, 4, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight[:2] = 0
    x = torch.zeros(3, 2, 5, 5)
    assert macs.count_nonzero_macs(conv, x) * 2 == macs.count_macs(conv, x) == 4 * 2 * 9 * 25


def test_sizes_by_hand():
    model = nn.Linear(10, 8)
    with torch.no_grad():
        model.weight[:, 1:] = 0
        model.bias.fill_(1)
        model.weight[:, 0] = 1
    assert size.sizes(model) == {
        "params": 88,
        "nonzeros": 16,
        "bytes_dense": 4 * 88,
        "bytes_bitmask": 4 * 8 + 10 + 32,
        "bytes_csr": 8 * 8 + 4 * 9 + 32,
    }


def test_activations_count_conv_and_linear_outputs_per_example():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 5))
    assert size.count_activations(model, torch.zeros(7, 1, 4, 4)) == 12 + 5


def test_latency_takes_turns_and_restores_everything():
    calls = []

    class Recorder(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.name = name

        def forward(self, x):
            calls.append((self.name, torch.get_num_threads()))
            return x

    threads = torch.get_num_threads()
    models = {name: Recorder(name).train() for name in "ab"}
    result = latency.compare_latency(models, torch.zeros(1), rounds=16, inner=0, tries=1)
    assert torch.get_num_threads() == threads
    assert all(model.training for model in models.values())
    assert {t for _, t in calls} == {1}
    turns = [name for name, _ in calls[4:]]  # after two warm-up calls each
    assert turns.count("a") == turns.count("b") == 16
    assert turns[:4] in (["b", "a", "a", "b"], ["a", "b", "b", "a"])
    assert result["a"].rounds == 16
    assert result["a"].minimum <= result["a"].median


def test_noisy_rounds_are_taken_again_and_the_quietest_set_counts(monkeypatch):
    # sets of 15 rounds: the first spreads, the second spreads less, the third is calm
    clock = {1: 2.0, 2: 1.5, 3: 1.0}
    turns = []

    def fake(model, _example, _repeats):
        turns.append(model)
        taken = (len(turns) - 5) // 30 + 1  # two passes of each warm up
        return 1.0 if len(turns) % 3 == 0 else clock.get(taken, 1.0)

    monkeypatch.setattr(latency, "_pass", fake)
    models = {"a": nn.Identity(), "b": nn.Identity()}
    calm = latency.compare_latency(models, torch.zeros(1))
    assert {(r.median, r.noisy, r.tries) for r in calm.values()} == {(1.0, False, 3)}
    turns.clear()
    still = latency.compare_latency(models, torch.zeros(1), tries=2)
    assert {(r.median, r.noisy, r.tries) for r in still.values()} == {(1.5, True, 2)}


def test_the_clock_is_that_of_the_thread_and_passes_are_averaged(monkeypatch):
    ticks = iter(range(0, 10_000, 3))  # each look at the thread's clock finds 3 s more
    monkeypatch.setattr(latency, "thread_time", lambda: next(ticks))
    monkeypatch.setattr(latency, "perf_counter", lambda: pytest.fail("the wall's clock was asked"))
    assert latency._pass(nn.Identity(), torch.zeros(1), 4) == 3 / 4


def test_latency_restores_the_mode_of_every_part():
    net = nn.Sequential(nn.Dropout(), nn.Dropout()).train()
    net[1].eval()
    latency.compare_latency({"a": net}, torch.zeros(1), inner=0, tries=1)
    assert [m.training for m in net.modules()] == [True, True, False]


def test_latency_marks_noise_and_refuses_few_rounds():
    assert latency._summary([1.0, 1.3, 1.3]).noisy
    assert not latency._summary([1.0, 1.2, 1.2]).noisy
    with pytest.raises(ValueError, match="at least 15"):
        latency.compare_latency({}, torch.zeros(1), rounds=3)
