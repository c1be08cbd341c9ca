"""What a net weighs as a file: a uniform quantiser, a small arithmetic coder, and its rivals.

A weight matrix is rounded to integer levels on a uniform grid. The levels are written as
yes-or-no questions (*bins*): is this row empty? is this weight non-zero? its sign? how many
digits has its magnitude, and which? Each question has a *context*, and each context counts its
own answers, so that the coder learns while it codes. An arithmetic coder turns a bin with
probability p into -log2(p) bits. It is a small coder in the manner of DeepCABAC, the one of the
MPEG-7 tools; counts that never forget stand for its two-speed states, and it chooses no levels
by their cost.

Beside it: the entropy of the levels, and what lzma and zstd make of the same int8 bytes.
"""

import copy
import lzma
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import zstandard
from torch import Tensor, nn

PARTS = ("rows", "zeros", "signs", "magnitudes")
SCALE = 16  # probabilities are integers over 2^16
DIGITS = 16  # longest magnitude, in binary digits
STAGES = 64  # more bins than one weight can have
# Where each kind of question keeps its counts: (first context, number of contexts).
ROWS, ZEROS, SIGNS = 0, 2, 18
LENGTHS = 19
TAILS = LENGTHS + 4 * DIGITS
CONTEXTS = TAILS + DIGITS * DIGITS


@dataclass(frozen=True)
class Quantised:
    """A tensor on a uniform grid: value = level × step; ``step`` 0 stands for all zeros."""

    levels: np.ndarray
    step: float

    def values(self) -> Tensor:
        """The tensor that is read back, float32."""
        step = np.float32(self.step)
        return torch.from_numpy(self.levels.astype(np.float32) * step)


@dataclass(frozen=True)
class Bins:
    """The questions of one tensor, in coding order.

    ``part`` indexes ``PARTS``; ``bit`` is the answer; ``context`` says whose counts are used;
    ``one`` is the probability of the answer 1 before it is known, in units of 2^-16; ``place``
    is the flat index of the weight, or of the first weight of the row.
    """

    part: np.ndarray
    context: np.ndarray
    bit: np.ndarray
    one: np.ndarray
    place: np.ndarray

    def bits(self) -> np.ndarray:
        """What each answer costs: -log2 of its probability, in bits."""
        chance = np.where(self.bit, self.one, (1 << SCALE) - self.one)
        return SCALE - np.log2(chance)


def quantise(tensor: Tensor, bits: int) -> Quantised:
    """Round to 2^bits - 1 levels, symmetric about 0, the largest weight on the outermost one.

    Raises:
        ValueError: bits outside 2 … 16, or values that are not finite.
    """
    if not 2 <= bits <= DIGITS:
        raise ValueError(f"quantise takes 2 to {DIGITS} bits a weight, not {bits}")
    values = tensor.detach().cpu().double().numpy()
    if not np.isfinite(values).all():
        raise ValueError("quantise needs finite values; this tensor has infinite ones or NaN")
    top = float(np.abs(values).max(initial=0.0))
    step = float(np.float32(top / (2 ** (bits - 1) - 1)))
    if step == 0.0:  # also where a step underflows float32
        return Quantised(np.zeros(values.shape, np.int32), 0.0)
    return Quantised(np.rint(values / step).astype(np.int32), step)


def quantised(
    model: nn.Module, bits: int, vector_bits: int = 8
) -> tuple[nn.Module, dict[str, Quantised]]:
    """A copy of a net with every parameter on its grid, and the grids by name.

    Each tensor has its own step. Vectors (biases, scales) are few and get ``vector_bits``.
    Running statistics stay as they are and are in no size: fold batch norm first.

    Raises:
        ValueError: as ``quantise``.
    """
    other = copy.deepcopy(model)
    parts: dict[str, Quantised] = {}
    with torch.no_grad():
        for name, tensor in other.named_parameters():
            parts[name] = quantise(tensor, bits if tensor.dim() > 1 else vector_bits)
            tensor.copy_(parts[name].values())
    return other, parts


def bins(levels: np.ndarray) -> Bins:
    """All questions and answers of a tensor of integer levels [rows, …], with their chances.

    A vector is one row. Contexts: an empty row by whether the row before it was empty; a
    non-zero by the weights left of it and above it (in the last row that is not empty), by the
    one two to the left and by whether its column has held a non-zero yet; the number of digits
    of a magnitude by the size of the two neighbours.

    Raises:
        ValueError: a magnitude of 2^16 or more.
    """
    table = _table(levels)
    rows, columns = table.shape
    if np.abs(table).max(initial=0) >= 1 << DIGITS:
        raise ValueError(f"a level has more than {DIGITS} binary digits; quantise more coarsely")
    full = (table != 0).any(1)
    before = np.concatenate([[False], ~full[:-1]])
    found = [_columns(0, ROWS + before, ~full, np.arange(rows) * columns, 0)]
    kept = np.abs(table[full]).astype(np.int64)  # [r, columns], the rows that are not empty
    if kept.size:
        left, second, above = (np.zeros_like(kept) for _ in range(3))
        left[:, 1:], second[:, 2:], above[1:] = kept[:, :-1], kept[:, :-2], kept[:-1]
        seen = np.logical_or.accumulate(above > 0, axis=0)
        near = 8 * seen + 4 * (above > 0) + 2 * (left > 0) + (second > 0)
        place = (np.flatnonzero(full)[:, None] * columns + np.arange(columns)).ravel()
        found.append(_columns(1, ZEROS + near.ravel(), kept.ravel() > 0, place, 1))
        on = kept.ravel() > 0
        found.append(_columns(2, SIGNS, table[full].ravel()[on] < 0, place[on], 2))
        size = np.minimum(_digits((left + above).ravel()[on]), 3)
        found.extend(_magnitudes(kept.ravel()[on], size, place[on]))
    part, context, bit, place, stage = (np.concatenate(c) for c in zip(*found, strict=True))
    order = np.argsort(place * STAGES + stage, kind="stable")
    part, context, bit, place = (a[order] for a in (part, context, bit, place))
    return Bins(part, context, bit, _chances(context, bit), place)


def encode(levels: np.ndarray) -> bytes:
    """The coded tensor: a header with its shape, then one arithmetic code word.

    A tensor of zeros is its header alone.

    Raises:
        ValueError: as ``bins``, or more than 255 axes.
    """
    header = bytes([levels.ndim]) + b"".join(_varint(n) for n in levels.shape)
    if not levels.any():
        return header
    asked = bins(levels)
    return header + b"\x01" + _arithmetic(asked.bit.tolist(), asked.one.tolist())


def decode(data: bytes) -> np.ndarray:
    """The levels that ``encode`` was given, int32.

    Raises:
        ValueError: the data end inside the header.
    """
    try:
        axes, at = data[0], 1
        shape = []
        for _ in range(axes):
            size, at = _read_varint(data, at)
            shape.append(size)
    except IndexError:
        raise ValueError("the coded tensor ends inside its header") from None
    levels = np.zeros(shape, np.int32)
    if at == len(data):
        return levels
    table = _table(levels)
    reader = _Reader(data[at + 1 :])
    columns = table.shape[1]
    above = [0] * columns
    seen = [False] * columns
    empty = False
    for row in range(len(table)):
        empty = bool(reader.bit(ROWS + empty))
        if empty:
            continue
        now = [0] * columns
        left = second = 0
        for i in range(columns):
            up = above[i]
            seen[i] = seen[i] or up > 0
            near = 8 * seen[i] + 4 * (up > 0) + 2 * (left > 0) + (second > 0)
            size = 0
            if reader.bit(ZEROS + near):
                negative = reader.bit(SIGNS)
                size = reader.magnitude(min((left + up).bit_length(), 3))
                table[row, i] = -size if negative else size
            now[i] = size
            second, left = left, size
        above = now
    return levels


def encode_net(parts: Mapping[str, Quantised]) -> bytes:
    """The file of a net: for each tensor its length, its step and its coded levels.

    Names are not stored: who reads the file knows the layers and their order.
    """
    pieces = []
    for part in parts.values():
        coded = struct.pack("<f", part.step) + encode(part.levels)
        pieces += [_varint(len(coded)), coded]
    return b"".join(pieces)


def decode_net(data: bytes) -> list[Quantised]:
    """The tensors of ``encode_net``, in order.

    Raises:
        ValueError: the file is cut short.
    """
    parts, at = [], 0
    while at < len(data):
        try:
            length, at = _read_varint(data, at)
        except IndexError:
            raise ValueError("the coded net is cut short") from None
        piece, at = data[at : at + length], at + length
        if len(piece) < max(length, 4):
            raise ValueError("the coded net is cut short")
        parts.append(Quantised(decode(piece[4:]), struct.unpack("<f", piece[:4])[0]))
    return parts


def part_bits(levels: np.ndarray) -> dict[str, float]:
    """Bits that the coder's own model gives to each of ``PARTS``; their sum is its ideal length."""
    if not levels.any():
        return dict.fromkeys(PARTS, 0.0)
    asked = bins(levels)
    totals = np.bincount(asked.part, asked.bits(), len(PARTS))
    return {name: float(total) for name, total in zip(PARTS, totals, strict=True)}


def entropy_bits(levels: np.ndarray) -> float:
    """N·H of the levels of one tensor, in bits: no coder that looks at single levels beats it."""
    _, counts = np.unique(levels, return_counts=True)
    return float(-(counts * np.log2(counts / counts.sum())).sum()) if levels.size else 0.0


def entropy_rows_bits(levels: np.ndarray) -> float:
    """The same with a flag for each row: R·h2(empty rows) + N·H of the rows that are not empty."""
    table = _table(levels)
    full = (table != 0).any(1)
    return entropy_bits(full) + entropy_bits(table[full])


def lzma_bytes(levels: np.ndarray) -> int:
    """Bytes of the levels as int8 (int16 where they don't fit) after lzma, strongest preset."""
    return len(lzma.compress(_raw(levels), lzma.FORMAT_ALONE, preset=9 | lzma.PRESET_EXTREME))


def zstd_bytes(levels: np.ndarray) -> int:
    """Bytes of the levels as int8 (int16 where they don't fit) after zstd, level 19."""
    return len(zstandard.ZstdCompressor(level=19).compress(_raw(levels)))


def coded_sizes(parts: Mapping[str, Quantised]) -> dict[str, float]:
    """What the tensors of a net weigh under every coder, in bytes.

    Returns:
        ``coded``: the file of ``encode_net``; ``entropy`` and ``entropy_rows``: the ideals of
        single levels, without header; ``lzma`` and ``zstd``: of each tensor's int8 bytes,
        summed; ``int8``: of these bytes as they are; ``coded_rows``, ``coded_zeros``,
        ``coded_signs``, ``coded_magnitudes``: what the coder spends on which question;
        ``zero_share``: levels that are zero, as a share.
    """
    levels = [part.levels for part in parts.values()]
    spent = [part_bits(level) for level in levels]
    sizes = {
        "coded": float(len(encode_net(parts))),
        "entropy": sum(entropy_bits(level) for level in levels) / 8,
        "entropy_rows": sum(entropy_rows_bits(level) for level in levels) / 8,
        "lzma": float(sum(lzma_bytes(level) for level in levels)),
        "zstd": float(sum(zstd_bytes(level) for level in levels)),
        "int8": float(sum(len(_raw(level)) for level in levels)),
    }
    sizes |= {f"coded_{name}": sum(s[name] for s in spent) / 8 for name in PARTS}
    total = sum(level.size for level in levels)
    sizes["zero_share"] = sum(int((level == 0).sum()) for level in levels) / max(total, 1)
    return sizes


def _table(levels: np.ndarray) -> np.ndarray:
    """Levels as [rows, columns], a view: output neurons by their weights; a vector is one row."""
    if levels.ndim < 2:
        return levels.reshape(1, -1)
    return levels.reshape(levels.shape[0], math.prod(levels.shape[1:]))


def _raw(levels: np.ndarray) -> bytes:
    kind = np.int8 if np.abs(levels).max(initial=0) < 128 else np.int16
    return levels.astype(kind).tobytes()


def _digits(values: np.ndarray) -> np.ndarray:
    """Binary digits of whole numbers, 0 for 0."""
    return np.frexp(values.astype(np.float64))[1].astype(np.int64)


def _columns(part: int, context, bit, place: np.ndarray, stage: int) -> tuple[np.ndarray, ...]:
    """One kind of question as five columns of equal length."""
    shape = place.shape
    return (
        np.full(shape, part, np.int64),
        np.broadcast_to(np.asarray(context, np.int64), shape),
        np.asarray(bit, np.int64),
        place.astype(np.int64),
        np.full(shape, stage, np.int64),
    )


def _magnitudes(
    magnitude: np.ndarray, size: np.ndarray, place: np.ndarray
) -> Iterator[tuple[np.ndarray, ...]]:
    """Exp-Golomb: "more digits?" until no, then the digits below the leading one."""
    digits = _digits(magnitude)
    for k in range(1, min(int(digits.max(initial=0)), DIGITS - 1) + 1):
        here = digits >= k
        context = LENGTHS + size[here] * DIGITS + k - 1
        yield _columns(3, context, digits[here] > k, place[here], 2 + k)
    for k in range(int(digits.max(initial=0)) - 1):  # the k-th digit from the right
        here = digits > k + 1
        length = digits[here] - 1
        bit = magnitude[here] >> k & 1
        yield _columns(3, TAILS + length * DIGITS + k, bit, place[here], 2 + 2 * DIGITS - k)


def _chances(context: np.ndarray, bit: np.ndarray) -> np.ndarray:
    """Chance of a 1, (ones + 1/2) / (answers + 1) of the same context so far, over 2^16."""
    order = np.argsort(context, kind="stable")
    sorted_context, sorted_bit = context[order], bit[order]
    first = np.searchsorted(sorted_context, sorted_context)  # where its context begins
    sums = np.concatenate([[0], np.cumsum(sorted_bit)])
    answers = np.arange(len(bit)) - first
    ones = sums[:-1] - sums[first]
    chances = np.empty(len(bit), np.int64)
    chances[order] = _chance(ones, answers)
    return chances


def _chance(ones, answers):
    """Krichevsky and Trofimov's estimate as a whole number, never 0 and never 1."""
    chance = ((2 * ones + 1) << SCALE) // (2 * answers + 2)
    if isinstance(chance, int):
        return min(max(chance, 1), (1 << SCALE) - 1)
    return np.clip(chance, 1, (1 << SCALE) - 1)


def _arithmetic(bits: list[int], chances: list[int]) -> bytes:
    """One code word: a number inside the interval that the answers leave of [0, 1)."""
    out = bytearray()
    low, width = 0, 1 << 32
    for bit, chance in zip(bits, chances, strict=True):
        share = (width >> SCALE) * chance
        if bit:
            width = share
        else:
            low += share
            width -= share
        while width <= 1 << 24:
            low = _carry(out, low)
            out.append(low >> 24)
            low = (low & 0xFFFFFF) << 8
            width <<= 8
    # the shortest number inside [low, low + width): the reader takes what is missing for zeros
    for kept in range(5):
        unit = 1 << 32 - 8 * kept
        number = -(-low // unit) * unit
        if number < low + width:
            break
    number = _carry(out, number)
    out += number.to_bytes(4, "big")
    return bytes(out).rstrip(b"\0")


def _carry(out: bytearray, low: int) -> int:
    """Move what exceeds 32 bits into the bytes already written."""
    if low >> 32:
        at = len(out) - 1
        while out[at] == 255:
            out[at] = 0
            at -= 1
        out[at] += 1
    return low & 0xFFFFFFFF


class _Reader:
    """The same arithmetic backwards; the counts grow as the encoder's did."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 4
        self.width = 1 << 32
        self.offset = int.from_bytes(data[:4].ljust(4, b"\0"), "big")
        self.ones = [0] * CONTEXTS
        self.answers = [0] * CONTEXTS

    def bit(self, context: int) -> int:
        share = (self.width >> SCALE) * _chance(self.ones[context], self.answers[context])
        answer = int(self.offset < share)
        if answer:
            self.width = share
        else:
            self.offset -= share
            self.width -= share
        while self.width <= 1 << 24:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.offset = self.offset << 8 | byte
            self.width <<= 8
            self.at += 1
        self.answers[context] += 1
        self.ones[context] += answer
        return answer

    def magnitude(self, size: int) -> int:
        digits = 1
        while digits < DIGITS and self.bit(LENGTHS + size * DIGITS + digits - 1):
            digits += 1
        number = 1
        for k in reversed(range(digits - 1)):
            number = number << 1 | self.bit(TAILS + (digits - 1) * DIGITS + k)
        return number


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        number |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return number, at
