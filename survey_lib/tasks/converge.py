"""How long until a dense net has converged? Measure it, and keep what came out.

``python -m survey_lib.tasks.converge [MODEL …]`` takes dense nets of each model, trained by
its standard recipe, and trains them for :data:`FURTHER` more epochs as a tuning would, and writes
``convergence.json`` beside this file. Fair play asks that the further epochs gain less than half a
point of validation accuracy (a language model: 0.02 nats).
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from survey_lib import files
from survey_lib.tasks.dense import dense_net, seeded
from survey_lib.tasks.task import RECIPES, Task, load_task
from survey_lib.tasks.train import evaluate, fit

TABLE = Path(__file__).with_name("convergence.json")
FURTHER = {"accuracy": 4.0, "perplexity": 1.0}
"""Further epochs, about what a tuning takes: passes over ten thousand images, or over the text."""
REPLICATES = (0, 1)
LONG = ("char_gpt", "densenet_small")
"""Models whose training takes many minutes: replicate 0 alone, which is shipped."""
SPARED = ("toy_mlp",)
"""Models whose data is a toy's: trained in a second, by each chapter to its own end."""


def quality(model: torch.nn.Module, task: Task) -> float:
    """Validation accuracy as a share, or nats a token."""
    found = evaluate(model, task.val, task)
    return found["accuracy" if task.metric == "accuracy" else "loss"]


def measure(name: str, replicates: Sequence[int] = REPLICATES) -> dict[str, Any]:
    """Validation quality of a model after its recipe, and after :data:`FURTHER` epochs more.

    The further training is a tuning: half the peak rate, warm-up and cosine again.
    """
    task = load_task(name)
    recipe, epochs = task.training, FURTHER[task.metric]
    after, further = [], []
    for replicate in replicates:
        model = dense_net(task, replicate)
        after.append(quality(model, task))
        more = task.with_training(epochs=epochs, lr=recipe.lr / 2)
        fit(model, more, generator=seeded(replicate, 1))
        further.append(quality(model, task))
    sign = 1 if task.metric == "accuracy" else -1
    n = len(after)
    return {
        "metric": "accuracy" if sign == 1 else "nats a token",
        "epochs": recipe.epochs,
        "lr": recipe.lr,
        "replicates": list(replicates),
        "validation": [round(v, 4) for v in after],
        "further_epochs": epochs,
        "gain": round(sign * (sum(further) - sum(after)) / n, 4),
    }


def main(names: Sequence[str]) -> None:
    """Measure the models named, or all, and keep the others' rows."""
    torch.set_num_threads(1)
    for name in names or [n for n in RECIPES if n not in SPARED]:
        row = measure(name, REPLICATES[:1] if name in LONG else REPLICATES)
        # read only now: another process may have measured another model meanwhile
        table = (json.loads(TABLE.read_text()) if TABLE.exists() else {}) | {name: row}
        files.write_atomic(TABLE, json.dumps(table, indent=1, sort_keys=True) + "\n")
        print(name, json.dumps(table[name]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
