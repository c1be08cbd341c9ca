import pytest
import torch
from torch import nn

from survey_lib.measure import kernels
from survey_lib.measure.latency import Latency
from survey_lib.mechanics.masks import keep_largest


def test_the_sparse_layer_computes_what_the_masked_one_does():
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(6, 9, generator=generator), torch.randn(4, 9, generator=generator)
    cut = weight * keep_largest(weight.abs(), 7)
    layer = kernels.SparseLinear(cut)
    assert layer.weight.values().numel() == 7
    torch.testing.assert_close(layer(x), x @ cut.T)


def test_rows_say_who_is_ahead(monkeypatch):
    seen = []

    def timed(models, x):
        seen.append((len(x), {k: int(m.weight.to_dense().count_nonzero())
                              for k, m in models.items()}))  # fmt: skip
        return {k: Latency(0.002 if k == "dense" else 0.004 * (1 - float(k)), 1, 15, False)
                for k in models}  # fmt: skip

    monkeypatch.setattr(kernels, "compare_latency", timed)
    layer, generator = nn.Linear(10, 8, bias=False), torch.Generator().manual_seed(0)
    rows = kernels.sparse_against_dense(layer, (0.25, 0.75), (1, 64), generator)
    assert seen == [(n, {"dense": 80, "0.25": 60, "0.75": 20}) for n in (1, 64)]
    assert [(r["batch"], r["zeros"]) for r in rows] == [
        (1, 0.25),
        (1, 0.75),
        (64, 0.25),
        (64, 0.75),
    ]
    assert [r["sparse"] for r in rows[:2]] == pytest.approx([3.0, 1.0])
    assert [r["speed_up"] for r in rows[:2]] == pytest.approx([2 / 3, 2.0])
