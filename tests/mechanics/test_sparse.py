import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from survey_lib.mechanics import sparse
from survey_lib.mechanics.masks import keep_largest, keep_largest_global


def drawn(seed, rows, columns, density):
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(rows, columns, generator=generator)
    return t * (torch.rand(rows, columns, generator=generator) < density)


shapes = st.tuples(st.integers(0, 999), st.integers(1, 40), st.integers(1, 90), st.floats(0, 1))


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_csr_bytes_equal_scipys(case):
    t = drawn(*case)
    matrix = scipy.sparse.csr_matrix(t.numpy())
    assert matrix.indices.dtype == np.int32
    expected = matrix.data.nbytes + matrix.indices.nbytes + matrix.indptr.nbytes
    assert sparse.bytes_csr(t) == expected


@settings(max_examples=40, deadline=None)
@given(shapes)
def test_bitmask_bytes_equal_what_numpy_packs(case):
    t = drawn(*case)
    packed = np.packbits(t.numpy() != 0)
    values = t.numpy()[t.numpy() != 0]
    assert sparse.bytes_bitmask(t) == packed.nbytes + values.nbytes


def test_gap_encoding_by_hand():
    # 3-bit gaps reach 7 places. Row 1: gaps 1 and 2. Row 2: one gap of 10 needs one padding zero.
    t = torch.zeros(2, 12)
    t[0, 0], t[0, 2], t[1, 9] = 1, 2, 3
    entries = 4
    assert sparse.bytes_csr_gap(t, bits=3) == 4 * entries + 2 + 4 * 3  # 12 bits are 2 bytes


@pytest.mark.parametrize(("gap", "pads"), [(7, 0), (8, 1), (14, 1), (15, 2)])
def test_gap_padding_at_its_edges(gap, pads):
    t = torch.zeros(1, 20)
    t[0, gap - 1] = 1
    entries = 1 + pads
    assert sparse.bytes_csr_gap(t, bits=3) == 4 * entries + -(-entries * 3 // 8) + 8


def test_mobilenet_mask_overhead_is_the_dossiers():
    assert round(4_209_088 / 8 / 1e6, 3) == 0.526
    t = torch.zeros(4_209_088 // 8, 8)
    t.flatten()[: round(0.05 * t.numel())] = 1
    mask_share = 1 - 4 * int(t.count_nonzero()) / sparse.bytes_bitmask(t)
    assert mask_share == pytest.approx(1 / (1 + 0.05 * 32), abs=1e-4)


def net(width=16):
    first = [nn.Linear(20, width), nn.BatchNorm1d(width), nn.ReLU()]
    return nn.Sequential(*first, nn.Linear(width, 3))


def pruned():
    model = net()
    with torch.no_grad():
        model[0].weight.mul_(keep_largest(model[0].weight.abs(), 30))
    return model


def test_file_is_as_large_as_the_formula_says(tmp_path):
    model = pruned()
    written = sparse.save_sparse(model, tmp_path / "net")
    counted = sparse.model_bytes(model, "bitmask")
    assert written == counted + 8  # BatchNorm's step counter is an integer of 8 bytes
    header = 2000
    assert written < (tmp_path / "net").stat().st_size < written + header


def test_round_trip_is_exact(tmp_path):
    model = pruned()
    sparse.save_sparse(model, tmp_path / "net")
    again = sparse.load_sparse(net(), tmp_path / "net")
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_bad_files_are_one_clear_sentence(tmp_path):
    path = tmp_path / "net"
    with pytest.raises(sparse.StorageError, match="no such file"):
        sparse.load_sparse(net(), path)
    sparse.save_sparse(pruned(), path)
    with pytest.raises(sparse.StorageError, match="belongs to another net"):
        sparse.load_sparse(net(8), path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(sparse.StorageError, match="not a readable safetensors file"):
        sparse.load_sparse(net(), path)
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(sparse.StorageError, match="not written by save_sparse"):
        sparse.load_sparse(net(), path)


def test_unknown_encoding_is_refused():
    with pytest.raises(ValueError, match="dense, bitmask, csr"):
        sparse.model_bytes(net(), "zip")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_keep_largest_keeps_exactly_so_many_and_the_largest(values, data):
    score = torch.tensor(values, dtype=torch.float64)
    keep = data.draw(st.integers(0, len(values)))
    mask = keep_largest(score, keep)
    assert int(mask.sum()) == keep
    if 0 < keep < len(values):
        assert score[mask].min() >= score[~mask].max()
    assert sorted(score[mask].tolist()) == sorted(values, reverse=True)[:keep][::-1]


def test_keep_largest_gives_ties_to_the_lower_index():
    assert keep_largest(torch.ones(4), 2).tolist() == [True, True, False, False]


def test_keep_largest_refuses_nan_and_impossible_counts():
    with pytest.raises(ValueError, match="NaN"):
        keep_largest(torch.tensor([1.0, float("nan")]), 1)
    with pytest.raises(ValueError, match="cannot keep 3 of 2"):
        keep_largest(torch.ones(2), 3)


def test_global_masks_share_one_threshold():
    masks = keep_largest_global({"a": torch.tensor([5.0, 1.0]), "b": torch.tensor([[4.0, 3.0]])}, 3)
    assert masks["a"].tolist() == [True, False]
    assert masks["b"].tolist() == [[True, True]]
