"""One linear layer in int8: exact sums and the fast kernel against torch's and bitsandbytes'.

Twice: with all instructions of this processor, and held to AVX2, as older processors are.
"""

import gc
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.common import line, take_turns, write
from survey_lib.mechanics.int8 import absmax, dynamic_product, integer_kernel, pack
from survey_lib.methods.llm_int8.linear import Int8Linear
from survey_lib.methods.llm_int8.method import Config
from survey_lib.tasks.dense import seeded

SHAPES = ((1024, 1024), (576, 1536))
TOKENS = (1, 32, 256)
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
}
RATIOS = (
    ("exact sums", "bitsandbytes", (None, 1.0)),
    ("fast", "torch dynamic qint8", (None, 1.1)),
    ("exact sums", "fp32", None),
    ("fast", "fp32", None),
)


def sides(linear: nn.Linear) -> dict[str, Callable[[Tensor], Tensor]]:
    """The same layer five ways, all from (s, h) to (s, o) in fp32, and 8 bits in the fast kernel.

    torch's own layer is what ``quantize_dynamic`` makes: one asymmetric grid for all of X, with 7
    bits, one symmetric grid for W. bitsandbytes has no outliers to look for (threshold 0).
    """
    import bitsandbytes as bnb

    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    kind = "absmax vector-wise"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is on its way out; it is the opponent
        theirs = torch.ao.quantization.quantize_dynamic(nn.Sequential(linear), dtype=torch.qint8)
    eight = bnb.nn.Linear8bitLt(
        linear.in_features, linear.out_features, bias=False, has_fp16_weights=False
    )
    eight.weight = bnb.nn.Int8Params(linear.weight.detach().clone(), requires_grad=False)
    eight = eight.to("cpu").eval()
    packed = pack(absmax(linear.weight.detach(), 1))
    return {
        "fp32": linear,
        "exact sums": Int8Linear(linear, Config(kind)),
        "fast": Int8Linear(linear, Config(kind, fast=True)),
        "torch dynamic qint8": theirs,
        "bitsandbytes": eight,
        "fast with 8 bits": lambda x: dynamic_product(x, packed, bits=8),
    }


@torch.no_grad()
def measured(processor: str) -> list[dict[str, Any]]:
    rows = []
    for h, o in SHAPES:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            linear = nn.Linear(h, o, bias=False)  # as layers start out: weights spread evenly
        ways = sides(linear)
        gc.freeze()  # the opponents' imports need not be searched between turns
        for s in TOKENS:
            x = torch.randn(s, h, generator=seeded(s))
            wanted = linear(x)
            errors = {
                name: round(float((way(x) - wanted).norm() / wanted.norm()), 5)
                for name, way in ways.items()
            }
            inner = max(1, 128 // s)

            def repeated(_: object, way: Any, x=x, inner=inner) -> None:
                for _i in range(inner):
                    way(x)

            times = take_turns(
                {
                    name: (lambda: None, lambda _, way=way: repeated(_, way))
                    for name, way in ways.items()
                    if name != "fast with 8 bits"
                },
                rounds=21,
            )
            tokens = "1 token" if s == 1 else f"{s} tokens"
            case = f"{h} → {o}, {tokens}, {processor}"
            for over, under, target in RATIOS:
                row = line("int8 linear", case, times, (over, under), target, errors=errors)
                row["ms"] = {
                    side: {k: round(v / inner, 4) for k, v in row["ms"][side].items()}
                    for side in (over, under)
                }
                rows.append(row)
    return rows


def main() -> None:
    import json

    if "--child" in sys.argv:
        print(json.dumps(measured("AVX2")))
        return
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.int8_linear", "--child"],
        env=os.environ | AVX2, capture_output=True, text=True, check=True,
    )  # fmt: skip
    limited = json.loads(run.stdout.splitlines()[-1])
    here = measured("VNNI") if integer_kernel() else []
    write("int8_linear", limited + here)
    for row in (limited + here)[:: len(RATIOS)]:
        print(row["case"], row["errors"])


if __name__ == "__main__":
    main()
