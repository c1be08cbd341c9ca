"""LLM.int8() (Dettmers et al. 2022): planted outliers in a character model, and SmolLM2-135M.

Planted: no feature of the character model reaches six at the inputs of its linear layers. A few
are scaled up there and their readers scaled down, which leaves the net's function as it is; every
row of the paper's table is judged on the same net, and nothing but the outliers' size differs.
Real: SmolLM2-135M, weights as shipped in 4 bits, computed in fp32, on the test text of WikiText-2.
There a cell is one chunk of the text, and the chunk's number takes the place of a seed.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from survey_lib.evidence.protocol import MissingArm
from survey_lib.evidence.records import Record
from survey_lib.measure.perplexity import window_losses
from survey_lib.mechanics.decoder import decoder
from survey_lib.mechanics.int8 import absmax, zeropoint
from survey_lib.methods.llm_int8 import method, outliers
from survey_lib.methods.llm_int8.attention import top_attention
from survey_lib.methods.llm_int8.linear import quantize
from survey_lib.methods.llm_int8.planting import plant
from survey_lib.tasks.dense import dense_net, seeded, shipped_net
from survey_lib.tasks.language import smollm2, wikitext2
from survey_lib.tasks.task import load_task

DATA = ("shakespeare.txt.gz", "wikitext2_test.txt.gz")

SEEDS = 5
SCALES = (1, 2, 4, 8, 16, 32, 64)
"""What planted features are multiplied by; ordinary values reach about 4."""
LARGEST = SCALES[-1]
MIDDLE = 16
"""A scale at which planted values are as large as the paper's outliers at 13 B."""
SHIFT = 3.0
"""Added to planted features before scaling, in the one-sided form."""
FEATURES = 6
"""Planted at each norm: as many as the paper's model of 6.7 B parameters has."""
EVERY = 3
"""One in so many windows of the character test text is read."""
ERROR_WINDOWS = 16
"""Windows on whose hidden states the error of single products is measured."""

FP32, ABSMAX, VECTOR, LLM = "32-bit float", "absmax", "absmax vector-wise", "LLM.int8(), absmax"
ROW, ZEROPOINT, LLM_ZEROPOINT = "absmax row-wise", "zeropoint", "LLM.int8(), zeropoint"
KINDS = (FP32, *method.KINDS)
"""Rows of the paper's Table 1, in its order and words."""

WINDOW, CHUNK = 512, 8
"""Tokens of a window, and windows of a cell, on WikiText-2."""
CHUNKS, PART = 76, 16
"""Of the whole test text, 608 windows, and of its first part, 128 windows."""
FEW = (FP32, ABSMAX, VECTOR, LLM)
"""Rows that read the whole text; the others read its first part, to save twenty minutes."""
ZEROED = 7
"""Features set to zero: the largest number of outlier features in the paper."""
ZEROED_CHUNKS, FOUND_CHUNKS = 16, 8
"""Chunks on which the largest features are zeroed, and those that the paper's criteria find."""
REAL_SCALES = (16, 64)


@dataclass(frozen=True)
class Cell:
    """One run."""

    arm: str
    """``planted``, ``features``, ``table``, ``zeroed``, ``bytes`` or ``explore``."""
    seed: int
    """Number of the dense net and of the draw, or of the chunk of WikiText-2."""
    net: str = "char_gpt"
    kind: str = ""
    """A row of the table on SmolLM2; empty on the character model, where one run does all."""
    scale: int = 1
    shift: float = 0.0
    features: int = FEATURES
    layers: float = 1.0
    """Share of the layers whose norms get planted features, evenly spread."""
    alpha: float = method.ALPHA
    activations_only: bool = False
    zeroed: str = ""
    """``largest`` or ``random``: seven features; ``outliers`` or ``as many``: those that meet the
    paper's criteria, and random ones."""


def _planted(seed: int) -> list[Cell]:
    some = (1, 4, MIDDLE, LARGEST)
    return [
        *(Cell("planted", seed, scale=s) for s in SCALES),
        *(Cell("planted", seed, scale=s, shift=SHIFT) for s in some),
        *(Cell("planted", seed, scale=s, activations_only=True) for s in some),
        *(Cell("planted", seed, scale=MIDDLE, features=n) for n in (1, 2)),
        *(Cell("planted", seed, scale=MIDDLE, layers=share) for share in (0.25, 0.5)),
        *(Cell("planted", seed, scale=MIDDLE, alpha=a) for a in (3.0, 12.0)),
    ]


def _table(chunk: int, kinds: Sequence[str]) -> list[Cell]:
    return [Cell("table", chunk, "smollm2", kind) for kind in kinds]


def _zeroed(chunk: int, which: Sequence[str] = ("largest", "random")) -> list[Cell]:
    return [Cell("zeroed", chunk, "smollm2", zeroed=z) for z in which]


def _study() -> list[Cell]:
    cells = [
        Cell("explore", 0), Cell("bytes", 0, "smollm2"),
        Cell("features", 0), Cell("features", 0, scale=MIDDLE), Cell("features", 0, "smollm2"),
    ]  # fmt: skip
    # seed by seed within each setting, so that no two workers train the same dense net
    for setting in zip(*(_planted(s) for s in range(SEEDS)), strict=True):
        cells += setting
    for chunk in range(ZEROED_CHUNKS):
        cells += _zeroed(chunk)
        cells += _zeroed(chunk, ("outliers", "as many")) if chunk < FOUND_CHUNKS else []
    for chunk in range(2):
        for s in REAL_SCALES:
            cells += [Cell("planted", chunk, "smollm2", kind, scale=s) for kind in FEW[1:]]
    for chunk in range(CHUNKS):
        cells += _table(chunk, KINDS if chunk < PART else FEW)
    return cells


def _quick() -> list[Cell]:
    """A slice of the study: one planted size in both forms, and the first chunk of WikiText-2."""
    return [
        Cell("planted", 0),
        Cell("planted", 0, scale=MIDDLE),
        Cell("planted", 0, scale=LARGEST, shift=SHIFT),
        *_table(0, FEW),
        *_zeroed(0),
    ]


def _smoke() -> list[Cell]:
    """What the page draws from a fresh run, without the large model."""
    return [Cell("planted", 0), Cell("planted", 0, scale=MIDDLE)]


GRIDS: dict[str, Callable[[], list[Cell]]] = {
    "smoke": _smoke,
    "quick": _quick,
    "study": _study,
    "full": list,
    "tune": list,
}


def grid(profile: str) -> list[Cell]:
    """The cells of a profile; every quick cell is one of the study's. Nothing is tuned."""
    return GRIDS[profile]()


# ---- what one cell does


def run(cell: Cell) -> dict[str, Any]:
    """Judge one net, planted or not, under one row of the table or under all."""
    match cell.arm:
        case "explore":
            return explored()
        case "bytes":
            return stored(language_model()[0])
        case "features":
            return features_of(cell)
        case _ if cell.net == "char_gpt":
            return on_characters(cell)
        case _:
            return on_wikitext(cell)


def character_net(cell: Cell) -> tuple[nn.Module, Tensor, Tensor]:
    """Dense net of the cell's seed, planted; windows and targets (windows, 64) of its test text.

    Net 0 is the shipped one: dense net 0 with its weights rounded to fp16.
    """
    task = load_task("char_gpt")
    net = shipped_net("char_gpt") if cell.seed == 0 else dense_net(task, cell.seed)
    net = planted(net, cell, seeded(cell.seed, 3))
    return net, task.test.x[::EVERY], task.test.y[::EVERY]


def planted(net: nn.Module, cell: Cell, generator: torch.Generator) -> nn.Module:
    """A copy with the cell's outliers in features drawn at random, in evenly spread layers."""
    plan = decoder(net)
    order = torch.randperm(plan.width, generator=generator, device="cpu")
    step = round(1 / cell.layers)
    return plant(
        net, sorted(order[: cell.features].tolist()), cell.scale, shift=cell.shift,
        layers=range(step - 1, len(plan.layers), step),
    )  # fmt: skip


def config_of(kind: str, cell: Cell) -> method.Config:
    """The method's settings: the paper's formula, outliers' weights kept in 16 bits."""
    return method.Config(
        kind, cell.alpha, half=True, activations_only=cell.activations_only,
        keep_weights=not cell.activations_only,
    )  # fmt: skip


def eight_bit(net: nn.Module, kind: str, cell: Cell) -> nn.Module:
    """The net under a row of the table; itself for 32-bit float."""
    if kind == FP32:
        return net
    return quantize(net, decoder(net).linears, config_of(kind, cell)).eval()


def on_characters(cell: Cell) -> dict[str, Any]:
    """Nats that each row of the table adds to the loss, and the error of single products.

    Keys of ``added`` and ``errors`` are rows of the table; ``added`` is a difference on the same
    windows, ``errors`` the mean over all linear layers of ‖C - XW‖ / ‖XW‖.
    """
    net, x, y = character_net(cell)
    whole = window_losses(net, x, targets=y, batch=100)
    inputs = inputs_of(net, x[:ERROR_WINDOWS])
    added, errors = {}, {}
    for kind in method.KINDS:
        small = eight_bit(net, kind, cell)
        added[kind] = float((window_losses(small, x, targets=y, batch=100) - whole).mean())
        errors[kind] = product_error(net, small, inputs)
    in_16 = [float((X.abs().amax(0) >= cell.alpha).double().mean()) for X in inputs.values()]
    return {
        "loss": float(whole.mean()),
        "added": {k: round(v, 6) for k, v in added.items()},
        "errors": {k: round(v, 6) for k, v in errors.items()},
        "llm_int8": added[LLM],
        "vector_wise": added[VECTOR],
        "error": errors[LLM],
        "in_16_bit": float(np.mean(in_16)),
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
    return float(np.mean(ratios))


@lru_cache(maxsize=1)
def language_model() -> tuple[nn.Module, Tensor]:
    """SmolLM2-135M and the windows (609, 512) of WikiText-2's test text."""
    model, tokenizer = smollm2()
    return model, wikitext2(tokenizer, WINDOW)


def chunk_of(number: int) -> Tensor:
    """(8, 512) windows of a chunk; the text's last window belongs to none."""
    return language_model()[1][number * CHUNK : (number + 1) * CHUNK]


@lru_cache(maxsize=1)
def statistics() -> outliers.FeatureStatistics:
    """Sizes of SmolLM2's features on the first chunk."""
    return outliers.feature_statistics(language_model()[0], chunk_of(0).split(2))


def chosen_features(cell: Cell) -> list[int]:
    """Features that a ``zeroed`` cell sets to zero; largest, or most common, first."""
    stats = statistics()
    largest = stats.largest.amax(0).topk(ZEROED).indices.tolist()
    found = [f.feature for f in outliers.outlier_features(stats)]
    wanted = {"largest": largest, "outliers": found}
    if cell.zeroed in wanted:
        return wanted[cell.zeroed]
    n = len(largest if cell.zeroed == "random" else found)
    others = [i for i in range(stats.largest.shape[1]) if i not in {*largest, *found}]
    order = torch.randperm(len(others), generator=seeded(cell.seed, 4), device="cpu")
    return [others[i] for i in order[:n].tolist()]


def on_wikitext(cell: Cell) -> dict[str, Any]:
    """Loss of SmolLM2 on each window of a chunk: in 8 bits, planted, or without some features."""
    net, windows = language_model()[0], chunk_of(cell.seed)
    found: dict[str, Any] = {}
    if cell.zeroed:
        found["features"] = chosen_features(cell)
        with outliers.without_features(net, found["features"]):
            losses = window_losses(net, windows)
    else:
        if cell.scale != 1:
            net = planted(net, cell, seeded(0, 3))
        losses = window_losses(eight_bit(net, cell.kind, cell), windows)
    return found | {
        "log_perplexity": float(losses.mean()),
        "losses": [round(v, 5) for v in losses.tolist()],
    }


def features_of(cell: Cell) -> dict[str, Any]:
    """Outlier features by the paper's criteria, the largest values by feature and place."""
    if cell.net == "char_gpt":
        net, x, _ = character_net(cell)
        batches = x[:64].split(16)
    else:
        net, batches = language_model()[0], chunk_of(0).split(2)
    stats = outliers.feature_statistics(net, batches)
    found = outliers.outlier_features(stats)
    top = stats.largest.amax(0).topk(12).indices  # the features with the largest values
    return {
        "outliers": [asdict(f) for f in found],
        "features": top.tolist(),
        "places": list(stats.states),
        "largest": [[round(float(v), 2) for v in row] for row in stats.largest[:, top]],
        "typical": round(float(stats.largest.median()), 3),
        "features_over_alpha": int((stats.largest.amax(0) >= cell.alpha).sum()),
        "width": stats.largest.shape[1],
        "attention": attention_mass(net, batches[:2], [f.feature for f in found]),
    }


def attention_mass(net: nn.Module, batches: Sequence[Tensor], features: list[int]) -> list[float]:
    """Mean top attention weight: of the net, and with each layer's input lacking the features."""
    return [round(float(top_attention(net, batches, f).mean()), 4) for f in ([], features)]


def stored(net: nn.Module) -> dict[str, Any]:
    """Bytes of the saved linear layers, and of all of the net: fp32, fp16, int8 in three ways."""
    paths = decoder(net).linears
    rest = sum(p.numel() for p in net.parameters()) - sum(
        p.numel() for path in paths for p in net.get_submodule(path).parameters()
    )
    found: dict[str, Any] = {"rest_parameters": rest}
    halves = {
        f"{path}.{k}": v for path in paths for k, v in net.get_submodule(path).state_dict().items()
    }
    found["float32"] = saved(halves)
    found["float16"] = saved({k: v.half() for k, v in halves.items()})
    for name, config in (
        ("int8", method.Config(LLM)),
        ("int8_and_float16", method.Config(LLM, keep_weights=True)),
    ):
        small = quantize(net, paths, config)
        state = {
            f"{path}.{k}": v
            for path in paths
            for k, v in small.get_submodule(path).state_dict().items()
        }
        found[name] = saved(state)
    return found


def saved(state: dict[str, Tensor]) -> int:
    """Bytes of the safetensors file of these tensors, header included."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "layers.safetensors"
        save_file({k: v.contiguous() for k, v in state.items()}, path)
        return path.stat().st_size


# ---- the explorer: one product of the shipped net, planted

ALPHAS = (3.0, 6.0, 12.0, 24.0)
EXPLORED_KINDS = (ABSMAX, ZEROPOINT, ROW, VECTOR, LLM)
EXPLORED = "blocks.1.up"
"""The linear layer whose product is explored."""
SHOWN = 48
"""Ordinary values drawn of one token."""


def planted_features() -> list[int]:
    """Where the explored net's outliers are."""
    order = torch.randperm(128, generator=seeded(0, 3), device="cpu")
    return sorted(order[:FEATURES].tolist())


def explored_product(scale: int) -> tuple[Tensor, Tensor]:
    """X (tokens, h) and W (h, o) of the shipped net's explored layer, with planted outliers."""
    task = load_task("char_gpt")
    cell = Cell("explore", 0, scale=scale)
    net = planted(shipped_net("char_gpt"), cell, seeded(0, 3))
    X = inputs_of(net, task.val.x[:4])[EXPLORED]
    layer = net.get_submodule(EXPLORED)
    return X, layer.weight.detach().t()  # type: ignore[union-attr]


def explored_token() -> int:
    """The token whose largest value is the median of all, with the largest planted outliers."""
    return int(explored_product(LARGEST)[0].abs().amax(1).median(0).indices)


@torch.no_grad()
def explored_setting(X: Tensor, W: Tensor, kind: str, alpha: float, token: int) -> dict[str, Any]:
    """Error of a product, its part in 16 bits, and what the grid makes of one token's values."""
    C = X @ W
    O: list[int] = []  # noqa: E741
    if kind == LLM:
        O = method.outliers(X, alpha).tolist()  # noqa: E741
        made = method.llm_int8(X, W, alpha, half=True)
    else:
        made = method.KINDS[kind](X, W)
    grid = zeropoint if kind == ZEROPOINT else absmax
    on_grid = X.clone()
    on_grid[:, O] = 0
    on_grid = grid(on_grid, None if kind in (ABSMAX, ZEROPOINT) else 1).dequantize()[token]
    on_grid[O] = X[token, O]
    ordinary = [i for i in range(X.shape[1]) if i not in planted_features()][:SHOWN]
    return {
        "error": round(float((made - C).norm() / C.norm()), 6),
        "outliers": len(O),
        "in_16_bit": round(len(O) / X.shape[1], 5),
        "value": [round(v, 3) for v in X[token, ordinary].tolist()],
        "rounded": [round(v, 3) for v in on_grid[ordinary].tolist()],
        "levels": len(set(on_grid[ordinary].tolist())),
    }


def explored() -> dict[str, Any]:
    """Every setting of the explorer."""
    token, settings = explored_token(), []
    for scale in SCALES:
        X, W = explored_product(scale)
        for kind in EXPLORED_KINDS:
            for alpha in ALPHAS:
                found = explored_setting(X, W, kind, alpha, token)
                settings.append({"scale": scale, "kind": kind, "alpha": alpha} | found)
    return {"settings": settings, "error": settings[-1]["error"]}


# ---- the statistic of each claim: one seed's records → a number; MissingArm when an arm is missing


def pick(rows: Sequence[Record], **wanted: Any) -> dict[str, Any]:
    """Numbers of the one record whose configuration has these values, the cell's defaults else.

    Raises:
        MissingArm: there is none.
    """
    config = asdict(Cell(**({"arm": "planted", "seed": 0} | wanted)))
    for row in rows:
        if all(row.config[k] == v for k, v in config.items() if k != "seed"):
            return row.numbers
    raise MissingArm(f"no record with {wanted}")


def worst_decomposition_loss(rows: Sequence[Record]) -> float:
    """Nats that LLM.int8() adds, largest over the planted sizes."""
    return max(pick(rows, scale=s)["added"][LLM] for s in SCALES)


def vector_wise_loss(rows: Sequence[Record]) -> float:
    """Nats that vector-wise int8 adds at the largest planted outliers."""
    return pick(rows, scale=LARGEST)["added"][VECTOR]


def row_wise_over_vector_wise(rows: Sequence[Record]) -> float:
    """Nats that row-wise int8 adds more than vector-wise, at the largest planted outliers."""
    added = pick(rows, scale=LARGEST)["added"]
    return added[ROW] - added[VECTOR]


def absmax_over_zeropoint(rows: Sequence[Record]) -> float:
    """Nats that absmax adds more than zeropoint, largest one-sided outliers, one scale each."""
    added = pick(rows, scale=LARGEST, shift=SHIFT)["added"]
    return added[ABSMAX] - added[ZEROPOINT]


def absmax_over_zeropoint_decomposed(rows: Sequence[Record]) -> float:
    """The same under LLM.int8()."""
    added = pick(rows, scale=LARGEST, shift=SHIFT)["added"]
    return added[LLM] - added[LLM_ZEROPOINT]


def outliers_over_random(rows: Sequence[Record]) -> float:
    """Nats by which zeroing SmolLM2's largest features is worse than zeroing random ones."""
    loss = [
        pick(rows, arm="zeroed", net="smollm2", zeroed=z)["log_perplexity"]
        for z in ("largest", "random")
    ]
    return loss[0] - loss[1]


def bytes_over_half_precision(rows: Sequence[Record]) -> float:
    """Bytes of SmolLM2's linear layers in int8, scales included, over the same in 16 bits."""
    numbers = pick(rows, arm="bytes", net="smollm2")
    return numbers["int8"] / numbers["float16"]


STATISTICS: dict[str, Callable[[Sequence[Record]], float]] = {
    f.__name__: f
    for f in (
        worst_decomposition_loss, vector_wise_loss, row_wise_over_vector_wise,
        absmax_over_zeropoint, absmax_over_zeropoint_decomposed, outliers_over_random,
        bytes_over_half_precision,
    )
}  # fmt: skip
