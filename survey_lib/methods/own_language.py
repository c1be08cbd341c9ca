"""Take neurons out of a language model of one's own: score, cut, measure, save.

What ``survey prune --model hf:…`` does, as one function. A neuron of a gated feed-forward net is a
row of the gate, the same row of up and the same column of down; all three go. Nothing is trained.
"""

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from survey_lib import files
from survey_lib.measure.device import device_name
from survey_lib.measure.latency import compare_latency
from survey_lib.measure.macs import count_macs
from survey_lib.measure.perplexity import window_losses
from survey_lib.measure.size import count_parameters, file_bytes
from survey_lib.mechanics.decoder import causal_lm
from survey_lib.mechanics.filters import filters
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.mechanics.selection import channels_table, shrunk
from survey_lib.mechanics.sparse import StorageError
from survey_lib.mechanics.statistics import Batches, fisher, taylor
from survey_lib.mechanics.surgery import Recipe, apply_recipe, load_compressed, save_compressed
from survey_lib.methods.own_model import check_folder
from survey_lib.methods.what_matters_llm.choice import Plan, share_of_neurons
from survey_lib.methods.what_matters_llm.measures import neurons, sensitivity
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.language import smollm2

PREFIX = "hf:"
METHODS = ("random", "magnitude", "taylor", "fisher", "sensitivity")
"""``magnitude``: norm of a neuron's rows of gate and up; the last three look at text."""


@dataclass(frozen=True)
class Measured:
    """One language model on the text that was not calibrated on."""

    name: str
    perplexity: float
    params: int
    macs_per_token: float
    file_bytes: int
    ms_per_token: float
    """Fastest pass over one window, one thread, by its tokens."""


@dataclass(frozen=True)
class PrunedLanguage:
    """What came out."""

    model: nn.Module
    recipe: Recipe
    rows: tuple[Measured, Measured]
    """Whole and pruned."""
    noisy: bool
    """Whether the times spread too much to be believed."""
    folder: Path

    def __str__(self) -> str:
        """A table in plain text, one column for each model."""
        lines = [("", *(row.name for row in self.rows))]
        for label, form, field in (
            ("perplexity", "{:.3f}", "perplexity"), ("parameters", "{:,}", "params"),
            ("MACs per token", "{:,.0f}", "macs_per_token"),
            ("bytes of the file", "{:,}", "file_bytes"), ("ms a token", "{:.3f}", "ms_per_token"),
        ):  # fmt: skip
            lines.append((label, *(form.format(getattr(row, field)) for row in self.rows)))
        lines.append(("noisy", *["yes" if self.noisy else "no"] * 2))
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]).rstrip()
            for line in lines
        )


def next_token_loss(out: Any, x: Tensor) -> Tensor:
    """Mean nats a token of a model's output against the windows' own tokens 1 … T - 1."""
    z = out if isinstance(out, Tensor) else out.logits  # (B, T, vocabulary)
    return F.cross_entropy(z[:, :-1].flatten(0, 1), x[:, 1:].flatten())


def share(keep: str) -> float:
    """The fraction of ``neurons=FRACTION``.

    Raises:
        ValueError: anything else.
    """
    metric, _, value = keep.partition("=")
    try:
        found = float(value)
    except ValueError:
        found = math.nan
    if metric != "neurons" or not 0 < found <= 1:
        raise ValueError(
            f"budget {keep!r}: of a language model write neurons=FRACTION, more than 0 and at "
            "most 1, e.g. neurons=0.8"
        )
    return found


def windows_of(text: Path, tokenizer: Any, window: int) -> Tensor:
    """(windows, window) tokens of a UTF-8 text; the rest at its end is left out.

    Raises:
        ValueError: no such file, no UTF-8, or fewer than two windows.
    """
    try:
        words = text.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ValueError(f"{text}: no such file; --text names a text to calibrate on") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise ValueError(f"{text}: not a text in UTF-8") from None
    tokens = tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"]
    n = len(tokens) // window
    if n < 2:
        raise ValueError(
            f"{text}: {len(tokens)} tokens are too few: two windows of {window} are the least, one "
            "to calibrate on and one to measure on"
        )
    return torch.tensor(tokens[: n * window]).view(n, window)


def scores(
    model: nn.Module, graph: ChannelGraph, method: str, batches: Batches, generator: torch.Generator
) -> dict[str, Tensor]:
    """(neurons,) by feed-forward net, higher = keep."""
    own = neurons(graph)
    if method == "random":
        return {g.name: torch.rand(g.size, generator=generator, device="cpu") for g in own}
    if method == "magnitude":
        return {g.name: filters(model, g).square().sum(1).sqrt() for g in own}
    look = {"taylor": taylor, "fisher": fisher, "sensitivity": sensitivity}[method]
    found = look(model, graph, next_token_loss, batches)
    return {g.name: found[g.name] for g in own}


def prune(
    spec: str,
    text: Path | None,
    method: str,
    keep: str,
    out: Path,
    *,
    window: int = 256,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> PrunedLanguage:
    """Remove neurons of one language model at once and save the rest in ``out``.

    Args:
        spec: ``hf:PATH`` of a local folder, ``hf:NAME`` on the hub, or ``hf:smollm2``.
        text: a UTF-8 file: its first third (32 windows at most) is what scores look at, from the
            rest (32 windows at most) perplexity is measured.
        method: one of :data:`METHODS`.
        keep: ``neurons=FRACTION``, of all layers together, one ranking; a layer keeps one at least.
        out: folder for ``recipe.json``, ``weights.safetensors`` and ``report.json``.
        window: tokens of a window.
        seed: of random scores.
        say: receives one line of progress after each stage.

    Raises:
        ValueError: unknown method, budget or text, or an ``out`` that cannot be written; before the
            model is loaded where that can be told.
        DataError: there is no such model within reach.
        GraphError: the model is built otherwise than known decoders, or cannot be followed.
    """
    v = share(keep)
    if method not in METHODS:
        raise ValueError(
            f"no method {method!r} for neurons of a language model; use one of {', '.join(METHODS)}"
        )
    if text is None:
        raise ValueError("a language model is calibrated and measured on a text: give --text FILE")
    if window < 2:
        raise ValueError(f"need a window of at least 2 tokens, got {window}")
    check_folder(out)
    name = spec.removeprefix(PREFIX)
    model, tokenizer = smollm2() if name == "smollm2" else causal_lm(name)
    windows = windows_of(text, tokenizer, window)
    third = min(32, -(-len(windows) // 3))
    calibration, held = windows[:third], windows[third : third + 32]
    say(f"{third} windows of {window} tokens to calibrate on, {len(held)} others to measure on")
    graph = trace_groups(model, windows[:1, : min(8, window)])
    batches = [(x, x) for x in calibration.split(1)]
    found = scores(model, graph, method, batches, seeded(seed))
    plan = Plan(graph, share_of_neurons(graph, v, "params"), "global")
    masks = plan.top(found, plan.v_f)
    recipe = shrunk(graph, {k: m.nonzero().flatten().tolist() for k, m in masks.items()})
    small = apply_recipe(model, graph, recipe).eval()
    say(f"scored by {method}; {sum(int(m.sum()) for m in masks.values())} of {plan.size} stay")
    x = windows[:1]
    times = compare_latency({"whole": model, "pruned": small}, x)
    rows = tuple(
        Measured(
            label, math.exp(float(window_losses(net, held).mean())), count_parameters(net),
            count_macs(net, x) / x.numel(), file_bytes(net),
            1000 * times[label].minimum / x.numel(),
        )
        for label, net in (("whole", model), ("pruned", small))
    )  # fmt: skip
    noisy = any(t.noisy for t in times.values())
    save_compressed(small, graph, recipe, out, constructor=spec)
    report = {
        "model": spec, "method": method, "keep": {"neurons": v}, "seed": seed, "text": text.name,
        "window": window, "calibration_windows": third, "measured_windows": len(held),
        "rows": [asdict(row) for row in rows], "noisy": noisy, "device": device_name(x),
        "layers": [r for r in channels_table(graph, recipe) if r["layer"] in masks],
    }  # fmt: skip
    files.write_atomic(out / "report.json", json.dumps(report, indent=1) + "\n")
    return PrunedLanguage(small, recipe, (rows[0], rows[1]), noisy, out)


def load_pruned(folder: Path) -> tuple[nn.Module, Any]:
    """The language model that was saved, rebuilt from the one it was made of, and its tokenizer.

    Raises:
        StorageError: a file is absent or damaged, or not of a language model.
        DataError: the whole model is no longer within reach.
    """
    try:
        spec = json.loads((folder / "recipe.json").read_text(encoding="utf-8"))["constructor"]
    except (OSError, ValueError, KeyError, TypeError):
        raise StorageError(f"{folder / 'recipe.json'}: absent or damaged") from None
    if not isinstance(spec, str) or not spec.startswith(PREFIX):
        raise StorageError(f"{folder}: not of a language model; use own_model.load_pruned")
    name = spec.removeprefix(PREFIX)
    model, tokenizer = smollm2() if name == "smollm2" else causal_lm(name)
    example = torch.zeros(1, 8, dtype=torch.int64)
    return load_compressed(folder, model, example), tokenizer
