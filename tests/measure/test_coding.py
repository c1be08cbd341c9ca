import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from torch import nn

from survey_lib.measure import coding
from survey_lib.measure.coding import Quantised, decode, encode, quantise


def weights(rows=48, columns=90, density=0.3, bits=6, seed=0, whole=0):
    """Levels of Laplacian weights; ``whole`` rows are empty, the other zeros are scattered."""
    draw = np.random.default_rng(seed)
    levels = quantise(torch.from_numpy(draw.laplace(size=(rows, columns))), bits).levels
    levels *= draw.random(levels.shape) < density
    levels[draw.permutation(rows)[:whole]] = 0
    return levels


# ---- quantiser


def test_a_tensor_on_a_uniform_grid_by_hand():
    # 3 bits: seven levels -3 … 3, step 0.9 / 3 = 0.3
    found = quantise(torch.tensor([[0.9, -0.44], [0.14, -0.9]]), 3)
    assert found.levels.tolist() == [[3, -1], [0, -3]]
    assert found.step == pytest.approx(0.3)
    expected = torch.tensor([[0.9, -0.3], [0.0, -0.9]])
    torch.testing.assert_close(found.values(), expected)


@given(some.integers(2, 16), some.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_rounding_is_off_by_half_a_step_at_most_and_uses_no_level_beyond(bits, seed):
    w = torch.randn(7, 5, generator=torch.Generator().manual_seed(seed))
    found = quantise(w, bits)
    exact = torch.finfo(w.dtype).eps * w.abs().max()  # at 14 bits it is a thousandth of a step
    assert (found.values() - w).abs().max() <= found.step / 2 * (1 + 1e-5) + exact
    assert np.abs(found.levels).max() == 2 ** (bits - 1) - 1
    again = quantise(found.values(), bits)
    assert (again.levels == found.levels).all()


def test_zeros_stay_zero_and_a_tensor_of_zeros_has_no_step():
    assert quantise(torch.tensor([0.0, 1.0]), 4).levels.tolist() == [0, 7]
    nothing = quantise(torch.zeros(3, 2), 4)
    assert nothing.step == 0.0
    assert not nothing.values().any()


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_out_of_range_are_one_sentence(bits):
    with pytest.raises(ValueError, match="2 to 16 bits a weight"):
        quantise(torch.ones(2), bits)


def test_weights_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="finite"):
        quantise(torch.tensor([1.0, math.nan]), 5)


def test_a_quantised_net_is_a_copy_and_vectors_have_their_own_bits():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    before = {k: v.clone() for k, v in net.state_dict().items()}
    other, parts = coding.quantised(net, 3)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert list(parts) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert np.abs(parts["0.weight"].levels).max() == 3
    assert np.abs(parts["0.bias"].levels).max() == 127
    assert torch.equal(other[2].weight, parts["2.weight"].values())


# ---- coder


LEVELS = arrays.arrays(
    np.int32,
    arrays.array_shapes(min_dims=1, max_dims=4, max_side=9),
    elements=some.one_of(some.just(0), some.integers(-3, 3), some.integers(-65535, 65535)),
)


@given(LEVELS)
@settings(deadline=None, max_examples=200)
def test_what_is_decoded_is_what_was_encoded(levels):
    back = decode(encode(levels))
    assert back.shape == levels.shape
    assert (back == levels).all()


@given(some.floats(0, 1), some.integers(2, 9), some.integers(0, 40), some.integers(0, 10**6))
@settings(deadline=None, max_examples=40)
def test_trained_looking_matrices_come_back(density, bits, whole, seed):
    levels = weights(40, 27, density, bits, seed, whole).reshape(40, 3, 3, 3)
    assert (decode(encode(levels)) == levels).all()


@pytest.mark.parametrize("answer", [0, 1])
def test_a_carry_runs_through_bytes_that_are_all_ones(answer):
    # near-certain answers and one that is not: the code word lies at an edge of the interval
    for length in range(1, 400, 7):
        bits = [answer] * length + [1 - answer] + [answer] * 3
        chances = [65535 if answer else 1] * (length + 4)
        data = coding._arithmetic(bits, chances)
        reader = coding._Reader(data)
        low, got = reader, []
        for chance in chances:
            share = (low.width >> 16) * chance
            got.append(int(low.offset < share))
            low.width, low.offset = (
                (share, low.offset) if got[-1] else (low.width - share, low.offset - share)
            )
            while low.width <= 1 << 24:
                byte = data[low.at] if low.at < len(data) else 0
                low.offset, low.width, low.at = low.offset << 8 | byte, low.width << 8, low.at + 1
        assert got == bits


@pytest.mark.parametrize("density", [0.02, 0.3, 1.0])
@pytest.mark.parametrize("bits", [4, 8])
def test_the_code_word_is_within_a_few_bytes_of_its_models_ideal(density, bits):
    levels = weights(64, 120, density, bits)
    ideal = sum(coding.part_bits(levels).values()) / 8
    header = 4  # axes, 64, 120, a flag
    # where the word ends tells something too: zeros at its end are not written
    assert ideal - 2 <= len(encode(levels)) - header <= 1.001 * ideal + 3


def literal_bits(levels):
    """The ideal length in exact fractions, one question after the other, counts in a dictionary."""
    counts, total = {}, 0.0
    table = levels.reshape(levels.shape[0], -1).tolist()

    def ask(context, bit):
        nonlocal total
        zeros, ones = counts.get(context, (0, 0))
        p = ((ones if bit else zeros) + 0.5) / (zeros + ones + 1)
        counts[context] = (zeros + (not bit), ones + bit)
        total -= math.log2(p)

    above, seen, empty = [0] * len(table[0]), set(), 0
    for row in table:
        ask(("row", empty), int(not any(row)))
        empty = int(not any(row))
        if empty:
            continue
        for i, level in enumerate(row):
            left, second = (row[i - 1] if i else 0), (row[i - 2] if i > 1 else 0)
            seen |= {i} if above[i] else set()
            near = (i in seen, above[i] != 0, left != 0, second != 0)
            ask(("zero", near), int(level != 0))
            if level == 0:
                continue
            ask("sign", int(level < 0))
            digits = f"{abs(level):b}"
            size = min(len(f"{abs(left) + abs(above[i]):b}") if left or above[i] else 0, 3)
            for k in range(1, len(digits) + 1):
                ask(("length", size, k), int(k < len(digits)))
            for at, digit in enumerate(digits[1:]):
                ask(("digit", len(digits), at), int(digit))
        above = row
    return total


@pytest.mark.parametrize(("density", "whole"), [(0.05, 0), (0.4, 20), (1.0, 0)])
def test_the_ideal_length_is_that_of_a_literal_twin(density, whole):
    levels = weights(30, 25, density, 6, 3, whole)
    assert sum(coding.part_bits(levels).values()) == pytest.approx(literal_bits(levels), rel=1e-3)


def test_counts_learn_as_krichevsky_and_trofimov_bound_it():
    # -log2 P(x) <= n h2(ones / n) + log2(n) / 2 + 1 for every sequence of n bits (1981)
    draw = np.random.default_rng(5)
    for n, p in [(1, 0.5), (10, 0.1), (500, 0.03), (4000, 0.4), (4000, 0.0)]:
        bit = (draw.random(n) < p).astype(np.int64)
        one = coding._chances(np.zeros(n, np.int64), bit) / 2**16
        spent = -np.log2(np.where(bit, one, 1 - one)).sum()
        assert spent <= coding.entropy_bits(bit) + math.log2(n) / 2 + 1 + 0.2


def test_answers_by_hand():
    # one row is not empty; in it 0, -1: not zero? no, yes; sign minus; more digits? no
    asked = coding.bins(np.array([[0, 0], [0, -1]], np.int32))
    assert asked.part.tolist() == [0, 0, 1, 1, 2, 3]
    assert asked.bit.tolist() == [1, 0, 0, 1, 1, 0]
    assert asked.place.tolist() == [0, 2, 2, 3, 3, 3]
    # the second question of the context "nothing near" knows one answer 0: 1/4 for a 1
    assert (asked.one / 2**16).tolist() == [0.5, 0.5, 0.5, 0.25, 0.5, 0.5]
    assert asked.bits().tolist() == [1, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("shape", [(3,), (200, 700), (64, 32, 3, 3)])
def test_a_tensor_of_zeros_is_its_header(shape):
    data = encode(np.zeros(shape, np.int32))
    assert len(data) <= 1 + 2 * len(shape)
    assert decode(data).shape == shape


@pytest.mark.parametrize("zeros", [4, 16, 32, 44])
@pytest.mark.parametrize("seed", range(3))
def test_whole_rows_never_cost_more_than_the_same_zeros_shuffled(zeros, seed):
    levels = weights(48, 90, 1.0, 6, seed)
    levels[levels == 0] = 1
    rows = levels.copy()
    rows[np.random.default_rng(seed).permutation(48)[:zeros]] = 0
    shuffled = rows.reshape(-1)[np.random.default_rng(seed).permutation(rows.size)].reshape(48, 90)
    grouped, scattered = len(encode(rows)), len(encode(shuffled))
    mask = 48 * 90 * coding.entropy_bits(rows != 0) / rows.size / 8
    assert grouped < scattered
    # the saving is about the entropy of the mask, h2 bits a weight
    assert scattered - grouped == pytest.approx(mask, rel=0.1)


def test_empty_columns_are_learnt_from_the_rows_above():
    levels = weights(64, 64, 1.0, 6)
    levels[levels == 0] = 1
    columns = levels.copy()
    columns[:, ::2] = 0
    shuffled = columns.reshape(-1)[np.random.default_rng(0).permutation(64 * 64)].reshape(64, 64)
    assert len(encode(columns)) < len(encode(shuffled)) - 0.9 * 64 * 64 / 8


def test_too_large_a_level_and_a_broken_file_are_one_sentence():
    with pytest.raises(ValueError, match="binary digits"):
        encode(np.array([1 << 16]))
    with pytest.raises(ValueError, match="header"):
        decode(encode(weights())[:2])
    parts = {"w": Quantised(weights(), 0.1)}
    with pytest.raises(ValueError, match="cut short"):
        coding.decode_net(coding.encode_net(parts)[:-1])


def test_a_net_comes_back_from_its_file():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        net[0].weight[1:3] = 0
        net[2].bias.zero_()
    other, parts = coding.quantised(net, 5)
    back = coding.decode_net(coding.encode_net(parts))
    for tensor, part in zip(other.parameters(), back, strict=True):
        assert torch.equal(tensor.detach(), part.values())


# ---- ideals and rivals


def test_entropy_of_known_histograms():
    assert coding.entropy_bits(np.array([1, 1, 1, 1])) == 0.0
    assert coding.entropy_bits(np.array([0, 1, 2, 3])) == 8.0
    assert coding.entropy_bits(np.array([0, 0, 0, 5])) == pytest.approx(4 * 0.811278, abs=1e-5)
    # one of two rows empty: 2 flags of one bit, then two levels of one bit
    assert coding.entropy_rows_bits(np.array([[0, 0], [1, 2]])) == pytest.approx(4.0)


def test_the_sizes_of_a_net_add_up():
    levels = weights(64, 100, 0.2, 6, 0, 30)
    sizes = coding.coded_sizes({"w": Quantised(levels, 0.1), "b": Quantised(levels[0], 0.1)})
    assert sizes["int8"] == levels.size + 100
    assert sizes["zero_share"] == pytest.approx(
        ((levels == 0).sum() + (levels[0] == 0).sum()) / (levels.size + 100)
    )
    spent = sum(sizes[f"coded_{name}"] for name in coding.PARTS)
    assert spent < sizes["coded"] < spent + 25
    assert sizes["entropy_rows"] < sizes["entropy"]
    assert sizes["coded"] < min(sizes["lzma"], sizes["zstd"])
    # scattered weights hold no pattern beyond their histogram, so nobody beats it by much
    flat = coding.coded_sizes({"w": Quantised(weights(64, 100, 0.5, 6, 1), 0.1)})
    assert flat["entropy"] < flat["coded"] < 1.03 * flat["entropy"]
