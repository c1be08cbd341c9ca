"""Dettmers et al. (2022): what is measured. Two nets multiplied in eight bits, nothing trained.

Planted: six features of the shipped character model, weights in fp32, are scaled up and their
readers scaled down, which leaves the net's function as it is. A replicate draws the features anew
and reads another eighth of the test text. Real: SmolLM2-135M, weights as shipped in 4 bits and
computed in fp32, on the test text of WikiText-2; a replicate is a chunk of the text. Layers store
int8 alone, as the bytes are counted; outlier rows are read back from it.
"""

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from survey_lib.experiments.context import Context
from survey_lib.measure.perplexity import window_losses
from survey_lib.mechanics.decoder import decoder
from survey_lib.mechanics.int8 import absmax, zeropoint
from survey_lib.methods.llm_int8 import method, outliers
from survey_lib.methods.llm_int8.attention import top_attention
from survey_lib.methods.llm_int8.linear import quantize
from survey_lib.methods.llm_int8.planting import plant
from survey_lib.tasks.dense import seeded, shipped_net
from survey_lib.tasks.language import smollm2, wikitext2
from survey_lib.tasks.task import load_task

DATA = ("shakespeare.txt.gz", "wikitext2_test.txt.gz")
INEXACT = ()

PARTS = 8
"""Parts of the character text; replicate s reads part s, those from :data:`PILOT` on of the
validation text, and the others of the test text."""
PILOT = 900
ERROR_WINDOWS = 16
"""Windows on whose hidden states the error of single products is measured."""
WINDOW, CHUNK = 512, 8
"""Tokens of a window, and windows of a replicate, on WikiText-2."""
HALF = 4
"""Windows of a chunk that are read without some features."""
ZEROED = 7
"""Features set to zero: the largest number of outlier features in the paper."""

FP32, ABSMAX, VECTOR, LLM = "32-bit float", "absmax", "absmax vector-wise", "LLM.int8(), absmax"
ROW, ZEROPOINT, LLM_ZEROPOINT = "absmax row-wise", "zeropoint", "LLM.int8(), zeropoint"
KINDS = (FP32, *method.KINDS)
"""Rows of the paper's Table 1, in its order and words."""


@dataclass(frozen=True)
class Cell:
    """One net, planted or not, under one row of the table or under all."""

    arm: str
    """``planted`` (characters), ``text`` and ``zeroed`` (SmolLM2), ``features``, ``bytes``,
    ``explore``."""
    seed: int
    """Draw of the planted features, and part of the character text or chunk of WikiText-2."""
    net: str = "char_gpt"
    """Whose features are looked at."""
    kind: str = ""
    """A row of the table on SmolLM2; on the character model one run does all."""
    scale: int = 1
    shift: float = 0.0
    """Added to planted features before scaling, which makes them one-sided."""
    features: int = 6
    """Planted at each norm: as many as the paper's model of 6.7 B parameters has."""
    layers: float = 1.0
    """Share of the layers whose norms get planted features, evenly spread."""
    alpha: float = method.ALPHA
    states_only: bool = False
    """Weights stay as they are."""
    keep_weights: bool = False
    """Weights are kept in 16 bits beside int8, for outlier rows: the paper's formula."""
    zeroed: str = ""
    """``largest`` or ``random``: seven features; ``outliers`` or ``as many``: those that meet the
    paper's criteria, and random ones."""


FEATURES_OF_SMOLLM2 = Cell("features", 0, "smollm2")


def needs(cell: Cell) -> tuple[Cell, ...]:
    """What looks at SmolLM2's features comes before what sets some to zero or plants others."""
    wants = cell.arm == "zeroed" or (cell.arm == "text" and cell.scale != 1)
    return (FEATURES_OF_SMOLLM2,) if wants else ()


# ---- nets


def drawn(width: int, cell: Cell) -> list[int]:
    """The features that a cell plants."""
    order = torch.randperm(width, generator=seeded(cell.seed, 3), device="cpu")
    return sorted(order[: cell.features].tolist())


def planted(net: nn.Module, cell: Cell) -> nn.Module:
    """A copy with the cell's outliers, in evenly spread layers; the net itself at scale 1."""
    if cell.scale == 1 and not cell.shift:
        return net
    plan, step = decoder(net), round(1 / cell.layers)
    return plant(
        net, drawn(plan.width, cell), cell.scale, shift=cell.shift,
        layers=range(step - 1, len(plan.layers), step),
    )  # fmt: skip


def eight_bit(net: nn.Module, kind: str, cell: Cell) -> nn.Module:
    """The net under a row of the table; itself for 32-bit float."""
    if kind == FP32:
        return net
    config = method.Config(
        kind, cell.alpha, half=True, activations_only=cell.states_only,
        keep_weights=cell.keep_weights,
    )  # fmt: skip
    return quantize(net, decoder(net).linears, config).eval()


# ---- the character model


def characters(seed: int) -> tuple[Tensor, Tensor]:
    """Windows and targets (windows, 64) of a replicate."""
    task = load_task("char_gpt")
    split = task.val if seed >= PILOT else task.test
    return split.x[seed % PARTS :: PARTS], split.y[seed % PARTS :: PARTS]


def on_characters(context: Context) -> dict[str, Any]:
    """Nats that each row of the table adds to the loss, and the error of single products.

    Keys of ``added`` and ``errors`` are rows of the table; ``added`` is a difference on the same
    windows, ``errors`` the mean over all linear layers of ‖C - XW‖ / ‖XW‖.
    """
    cell = context.cell
    net = planted(shipped_net("char_gpt"), cell)
    x, y = characters(cell.seed)
    whole = window_losses(net, x, targets=y, batch=128)
    inputs = inputs_of(net, x[:ERROR_WINDOWS])
    added, errors = {}, {}
    for kind in method.KINDS:
        small = eight_bit(net, kind, cell)
        added[kind] = float((window_losses(small, x, targets=y, batch=128) - whole).mean())
        errors[kind] = product_error(net, small, inputs)
    in_16 = [float((X.abs().amax(0) >= cell.alpha).double().mean()) for X in inputs.values()]
    return {
        "loss": float(whole.mean()),
        "added": {k: round(v, 6) for k, v in added.items()},
        "errors": {k: round(v, 6) for k, v in errors.items()},
        "in_16_bit": sum(in_16) / len(in_16),
        "largest": float(max(X.abs().max() for X in inputs.values())),
    }


@torch.no_grad()
def inputs_of(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Hidden states (tokens, h) at each linear layer, by path."""
    found: dict[str, Tensor] = {}

    def watch(path: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[path] = args[0].flatten(0, -2)

        return hook

    handles = [
        net.get_submodule(p).register_forward_pre_hook(watch(p)) for p in decoder(net).linears
    ]
    try:
        net(x)
    finally:
        for handle in handles:
            handle.remove()
    return found


@torch.no_grad()
def product_error(net: nn.Module, small: nn.Module, inputs: dict[str, Tensor]) -> float:
    """Mean over the linear layers of ‖C - XW‖ / ‖XW‖, each fed with the same hidden states X."""
    ratios = []
    for path, X in inputs.items():
        C = net.get_submodule(path)(X)
        ratios.append(float((small.get_submodule(path)(X) - C).norm() / C.norm()))
    return sum(ratios) / len(ratios)


# ---- SmolLM2


@lru_cache(maxsize=1)
def language_model() -> tuple[nn.Module, Tensor]:
    """SmolLM2-135M and the windows (609, 512) of WikiText-2's test text."""
    model, tokenizer = smollm2()
    return model, wikitext2(tokenizer, WINDOW)


def chunk_of(number: int) -> Tensor:
    """(8, 512) windows of a chunk; the text's last window belongs to none."""
    return language_model()[1][number * CHUNK : (number + 1) * CHUNK]


def on_text(context: Context) -> dict[str, Any]:
    """Loss of SmolLM2, planted or not, on each window of a chunk under a row of the table."""
    cell, net = context.cell, language_model()[0]
    losses = window_losses(eight_bit(planted(net, cell), cell.kind, cell), chunk_of(cell.seed))
    found = told(losses)
    if cell.scale != 1:
        sizes = seen_features(context)["largest_of"]
        found["largest"] = cell.scale * max(sizes[i] for i in drawn(len(sizes), cell))
    return found


def without_some(context: Context) -> dict[str, Any]:
    """Loss of SmolLM2 on half a chunk, some features set to zero before attention."""
    cell, net = context.cell, language_model()[0]
    features = chosen_features(seen_features(context), cell)
    with outliers.without_features(net, features):
        losses = window_losses(net, chunk_of(cell.seed)[:HALF])
    return told(losses) | {"features": features}


def told(losses: Tensor) -> dict[str, Any]:
    """Mean and single losses of some windows."""
    return {
        "log_perplexity": float(losses.mean()),
        "losses": [round(v, 5) for v in losses.tolist()],
    }


def seen_features(context: Context) -> dict[str, Any]:
    """What the cell that looked at SmolLM2's features left."""
    return json.loads(context.kept(FEATURES_OF_SMOLLM2, "features.json").read_text())


def chosen_features(seen: dict[str, Any], cell: Cell) -> list[int]:
    """Features that a cell sets to zero; largest, or most common, first."""
    sizes = torch.tensor(seen["largest_of"])
    wanted = {"largest": sizes.topk(ZEROED).indices.tolist(), "outliers": seen["outliers"]}
    if cell.zeroed in wanted:
        return wanted[cell.zeroed]
    special = {*wanted["largest"], *wanted["outliers"]}
    others = [i for i in range(len(sizes)) if i not in special]
    order = torch.randperm(len(others), generator=seeded(cell.seed, 4), device="cpu")
    n = len(wanted["largest" if cell.zeroed == "random" else "outliers"])
    return [others[i] for i in order[:n].tolist()]


def features_of(context: Context) -> dict[str, Any]:
    """Outlier features by the paper's criteria, the largest values by feature and place."""
    cell = context.cell
    if cell.net == "char_gpt":
        net = planted(shipped_net("char_gpt"), cell)
        batches = load_task("char_gpt").test.x[:64].split(16)
    else:
        net, batches = language_model()[0], chunk_of(0).split(2)
    stats = outliers.feature_statistics(net, batches)
    found = outliers.outlier_features(stats)
    sizes, which = stats.largest.amax(0), [f.feature for f in found]
    left = {"largest_of": sizes.tolist(), "outliers": which}
    context.keep("features.json").write_text(json.dumps(left))
    top = sizes.topk(12).indices  # the features with the largest values
    attention = (top_attention(net, batches[:2], f).mean() for f in ([], which))
    return {
        "outliers": [asdict(f) for f in found],
        "features": top.tolist(),
        "places": list(stats.states),
        "largest": [[round(float(v), 2) for v in row] for row in stats.largest[:, top]],
        "typical": round(float(stats.largest.median()), 3),
        "features_over_alpha": int((sizes >= cell.alpha).sum()),
        "width": stats.largest.shape[1],
        "attention": [round(float(a), 4) for a in attention],
    }


def stored(_context: Context) -> dict[str, Any]:
    """Bytes of SmolLM2's saved linear layers in fp32, fp16 and int8; parameters of the rest."""
    net = language_model()[0]
    paths = decoder(net).linears

    def state(net: nn.Module) -> dict[str, Tensor]:
        return {f"{p}.{k}": v for p in paths for k, v in net.get_submodule(p).state_dict().items()}

    plain = state(net)
    found = {
        "rest_parameters": sum(p.numel() for p in net.parameters())
        - sum(v.numel() for v in plain.values()),
        "float32": saved(plain),
        "float16": saved({k: v.half() for k, v in plain.items()}),
    }
    for name, keep in (("int8", False), ("int8_and_float16", True)):
        found[name] = saved(state(quantize(net, paths, method.Config(LLM, keep_weights=keep))))
    return found


def saved(state: dict[str, Tensor]) -> int:
    """Bytes of the safetensors file of these tensors, header included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.safetensors"
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        return path.stat().st_size


# ---- the explorer: one product of the character model, planted

EXPLORED = "blocks.1.up"
"""The linear layer whose product is explored."""
EXPLORED_SCALES = (1, 2, 4, 8, 16, 32, 64)
EXPLORED_KINDS = (ABSMAX, ZEROPOINT, ROW, VECTOR, LLM)
ALPHAS = (3.0, 6.0, 12.0, 24.0)
SHOWN = 48
"""Ordinary values drawn of one token."""


def explored_product(scale: int) -> tuple[Tensor, Tensor]:
    """X (tokens, h) and W (h, o) of the explored layer, with planted outliers."""
    net = planted(shipped_net("char_gpt"), Cell("explore", 0, scale=scale))
    X = inputs_of(net, load_task("char_gpt").val.x[:4])[EXPLORED]
    layer: Any = net.get_submodule(EXPLORED)
    return X, layer.weight.detach().t()


def explored_token() -> int:
    """The token whose largest value is the median of all, with the largest planted outliers."""
    X, _ = explored_product(EXPLORED_SCALES[-1])
    return int(X.abs().amax(1).median(0).indices)


@torch.no_grad()
def explored_setting(X: Tensor, W: Tensor, kind: str, alpha: float, token: int) -> dict[str, Any]:
    """Error of a product, its part in 16 bits, and what the grid makes of one token's values."""
    C = X @ W
    O: list[int] = method.outliers(X, alpha).tolist() if kind == LLM else []  # noqa: E741
    made = method.llm_int8(X, W, alpha, half=True) if kind == LLM else method.KINDS[kind](X, W)
    grid = zeropoint if kind == ZEROPOINT else absmax
    left = X.index_fill(1, torch.tensor(O, dtype=torch.int64), 0)
    on_grid = grid(left, None if kind in (ABSMAX, ZEROPOINT) else 1).dequantize()[token]
    on_grid[O] = X[token, O]
    planted_ones = drawn(X.shape[1], Cell("explore", 0))
    ordinary = [i for i in range(X.shape[1]) if i not in planted_ones][:SHOWN]
    rounded = on_grid[ordinary].tolist()
    return {
        "error": round(float((made - C).norm() / C.norm()), 6),
        "outliers": len(O),
        "in_16_bit": round(len(O) / X.shape[1], 5),
        "value": [round(v, 3) for v in X[token, ordinary].tolist()],
        "rounded": [round(v, 3) for v in rounded],
        "levels": len(set(rounded)),
        "zeros": sum(v == 0 for v in rounded),
    }


def explored(_context: Context) -> dict[str, Any]:
    """Every setting of the explorer."""
    token, settings = explored_token(), []
    for scale in EXPLORED_SCALES:
        X, W = explored_product(scale)
        for kind in EXPLORED_KINDS:
            for alpha in ALPHAS:
                found = explored_setting(X, W, kind, alpha, token)
                settings.append({"scale": scale, "kind": kind, "alpha": alpha} | found)
    return {"settings": settings}


ARMS = {
    "planted": on_characters,
    "text": on_text,
    "zeroed": without_some,
    "features": features_of,
    "bytes": stored,
    "explore": explored,
}
