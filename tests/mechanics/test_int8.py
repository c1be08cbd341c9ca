import json
import os
import subprocess
import sys

import pytest
import torch

from survey_lib.mechanics import int8
from survey_lib.mechanics.int8 import absmax, exact_product, product, zeropoint
from survey_lib.tasks.dense import seeded

# The dossier's case, worked by hand.
X = torch.tensor([[1.0, -2.0, 60.0], [0.5, 1.0, -1.0]])
W = torch.tensor([[1.0, 0.5], [-0.25, 2.0], [0.1, -0.1]])
X_I8 = [[2, -4, 127], [1, 2, -2]]
W_I8 = [[64, 32], [-16, 127], [6, -6]]
C_I32 = [[954, -1206], [20, 298]]

GRIDS = [absmax, zeropoint]


@pytest.fixture(params=["this processor", "fp32"])
def kernel(request, monkeypatch):
    """The product by whatever is fastest here, and as processors without VNNI do it."""
    if request.param == "fp32":
        monkeypatch.setattr(int8, "integer_kernel", lambda: False)
    elif not int8.integer_kernel():
        pytest.skip("no exact integer kernel on this processor")


def test_the_dossiers_whole_numbers(kernel):
    x, w = absmax(X), absmax(W)
    assert x.q.tolist() == X_I8
    assert w.q.tolist() == W_I8
    assert exact_product(x.q, w.q).tolist() == C_I32
    assert absmax(X, 1).q[0].tolist() == X_I8[0]


@pytest.mark.parametrize("k", [1, 7, 576, 1040, 1041, 3000])
def test_the_product_of_the_largest_whole_numbers_is_exact(k, kernel):
    """All of them 127: fp32 alone is wrong from 1041 on, a kernel with 16-bit sums from 3 on."""
    a = torch.full((5, k), 127, dtype=torch.int8)
    b = torch.full((k, 16), 127, dtype=torch.int8)
    b[:, 1] = -127
    b[0, 2] = 126  # an odd sum, which fp32 cannot hold above 2²⁴
    assert torch.equal(exact_product(a, b).long(), a.long() @ b.long())


def test_the_product_of_random_whole_numbers_is_that_of_int64(kernel):
    a = torch.randint(-127, 128, (33, 1500), dtype=torch.int8, generator=seeded(0))
    b = torch.randint(-127, 128, (1500, 17), dtype=torch.int8, generator=seeded(1))
    assert torch.equal(exact_product(a, b).long(), a.long() @ b.long())
    assert torch.equal(exact_product(a.float(), b).long(), a.long() @ b.long())


def test_in_torchs_kernel_a_row_has_the_range_of_its_largest_value_of_either_sign():
    """One far-off negative value must not make the grid of the other rows coarse."""
    x = torch.rand(2, 64, generator=seeded(4)) - 0.5
    x[0, 0] = -60.0
    w = torch.randn(16, 64, generator=seeded(5))
    found = int8.dynamic_product(x, int8.pack(absmax(w, 1)), 1, bits=7)
    wanted = x @ w.T
    assert ((found - wanted).norm(dim=1) / wanted.norm(dim=1) < 0.1).all()


@pytest.mark.parametrize("dim", [None, 0, 1])
@pytest.mark.parametrize("grid", GRIDS)
def test_each_value_is_off_by_half_a_step_at_most(grid, dim):
    x = torch.randn(9, 21, generator=seeded(2), dtype=torch.float64) + 0.5
    g = grid(x, dim)
    assert g.q.dtype == torch.int8
    assert int(g.q.abs().max()) == 127
    assert ((g.dequantize() - x).abs() <= 0.5 / g.scale * (1 + 1e-12)).all()
    spread = {absmax: 2 * int8.largest(x, dim), zeropoint: (
        x.amax(dim, keepdim=True) - x.amin(dim, keepdim=True) if dim is not None
        else x.max() - x.min())}[grid]  # fmt: skip
    torch.testing.assert_close(254 / g.scale, spread.expand_as(g.scale))


def test_the_zero_point_spends_all_steps_on_one_sided_values():
    """The printed equation, and zero points clipped to 8 bits, lose the first row."""
    x = torch.tensor([[60.0, 61.0, 63.0], [0.0, 1.0, 3.0]], dtype=torch.float64)
    g = zeropoint(x, 1)
    assert g.q.tolist() == [[-127, -42, 127]] * 2
    assert (g.dequantize() - x).abs().max() <= 0.5 * 3 / 254
    assert g.scale[0] > 40 * absmax(x, 1).scale[0]  # as many times as fine


def test_a_zero_stays_a_zero_between_the_smallest_and_the_largest_value():
    """A zero point that is not whole moves all zeros alike; sums over many of them add that up."""
    x = torch.zeros(4, 500, dtype=torch.float64)
    x[:, 0], x[:, 1] = torch.tensor([-290.7, -1.0, -3.3, -0.1]), torch.tensor([472.8, 7, 9, 400])
    for dim in (None, 1):
        assert zeropoint(x, dim).dequantize()[:, 2:].count_nonzero() == 0


@pytest.mark.parametrize("grid", GRIDS)
def test_rows_of_zeros_and_constant_rows_are_exact_or_within_a_step(grid):
    x = torch.tensor([[0.0, 0.0], [3.0, 3.0], [1e-38, 0.0], [-1.0, 2.0]])
    g = grid(x, 1)
    assert g.scale.isfinite().all()
    torch.testing.assert_close(g.dequantize()[:2], x[:2])
    w = torch.ones(2, 16)
    torch.testing.assert_close(product(g, grid(w, 0)), x @ w, atol=0.02, rtol=0)
    assert grid(torch.zeros(3, 4)).dequantize().count_nonzero() == 0


@pytest.mark.parametrize("dims", [(None, None), (1, None), (1, 0)])
@pytest.mark.parametrize("grid", GRIDS)
def test_the_product_is_that_of_the_dequantized_matrices(grid, dims, kernel):
    """In float64; leaving out one of the four terms fails here."""
    x = torch.randn(6, 40, generator=seeded(3), dtype=torch.float64) + 1
    w = torch.randn(40, 16, generator=seeded(4), dtype=torch.float64) - 2
    a, b = grid(x, dims[0]), grid(w, dims[1])
    torch.testing.assert_close(product(a, b), a.dequantize() @ b.dequantize())


def test_scales_inside_the_sum_and_mixed_grids_are_refused():
    with pytest.raises(ValueError, match="cannot be taken out of the sum"):
        product(absmax(X, 0), absmax(W))
    with pytest.raises(ValueError, match="both matrices need a zero point"):
        product(zeropoint(X), absmax(W))


@pytest.mark.parametrize("dim", [None, 0, 1])
@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)])
@pytest.mark.parametrize("grid", GRIDS)
def test_nothing_on_a_grid_is_nothing(grid, shape, dim):
    g = grid(torch.zeros(shape), dim)
    scales = {None: (1, 1), 0: (1, shape[1]), 1: (shape[0], 1)}[dim]
    assert (g.q.shape, g.scale.shape) == (shape, scales)
    assert g.dequantize().shape == shape
    assert g.scale.isfinite().all()


@pytest.mark.parametrize(("m", "k", "n"), [(0, 6, 3), (4, 0, 3), (4, 6, 0), (0, 0, 0)])
@pytest.mark.parametrize("grid", GRIDS)
def test_products_with_an_empty_side(grid, m, k, n, kernel):
    c = product(grid(torch.ones(m, k), 1), grid(torch.ones(k, n), 0))
    assert torch.equal(c, torch.zeros(m, n))


@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float32), (torch.float64,) * 2])
def test_a_product_in_float64_is_exact_to_float64(dtypes, kernel):
    """Weights that lie far from 0 have zero points whose sums fp32 does not hold."""
    x = torch.randn(5, 3000, generator=seeded(5), dtype=dtypes[0])
    w = torch.randn(3000, 4, generator=seeded(6), dtype=dtypes[1]) + 1000
    a, b = zeropoint(x, 1), zeropoint(w, 0)
    wide = [int8.Quantized(g.q, g.scale.double(), g.zero.double()) for g in (a, b)]
    wanted = wide[0].dequantize() @ wide[1].dequantize()
    sums = b.q.sum(0, keepdim=True, dtype=torch.int32)
    for known in (None, sums, sums.float()):
        torch.testing.assert_close(product(a, b, known), wanted, rtol=1e-11, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_gradient_through_a_grid_is_refused(grid):
    x = X.clone().requires_grad_()
    with pytest.raises(int8.NoGradient, match=r"has no gradient; call this under torch\.no_grad"):
        grid(x, 1)
    with torch.no_grad():
        assert torch.equal(grid(x, 1).q, grid(X, 1).q)


ON_AVX2 = """
import json, torch
from survey_lib.mechanics import int8
torch.backends.quantized.engine = "onednn"
g = torch.Generator().manual_seed(0)
x = torch.randn(64, 576, generator=g)
uniform, normal = 2 * torch.rand(128, 576, generator=g) - 1, torch.randn(128, 576, generator=g)
print(json.dumps([int8.integer_kernel(), *(int8.kernel_errors(x, w) for w in (uniform, normal))]))
"""


@pytest.mark.skipif(
    "onednn" not in torch.backends.quantized.supported_engines
    or torch.backends.cpu.get_cpu_capability() not in ("AVX2", "AVX512"),
    reason="the kernels of this processor are others",
)
@pytest.mark.parametrize("instructions", ["AVX2", "AVX512_CORE"])
def test_without_vnni_the_fast_kernel_saturates_at_8_bits_and_not_at_7(instructions):
    limits = {"ONEDNN_MAX_CPU_ISA": instructions}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ON_AVX2], env=os.environ | limits,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    kernel, uniform, normal = json.loads(run.stdout)
    assert not kernel  # found out: it is not used where it is inexact
    for errors in (uniform, normal):
        assert errors["exact sums"] < errors["7 bits"] < 0.02
        assert errors["8 bits"] > 1.5 * errors["exact sums"]
    # with weights spread evenly over their range, as layers start out, large meets large often
    assert uniform["8 bits"] > 2 * uniform["7 bits"]


def test_a_missing_kernel_is_told_in_one_sentence(monkeypatch):
    monkeypatch.setattr(
        torch.ops.quantized, "linear_prepack", lambda *_: (_ for _ in ()).throw(RuntimeError("no"))
    )
    with pytest.raises(RuntimeError, match="leave out fast=True"):
        int8.pack(absmax(torch.ones(16, 8), 1))
