"""The standard numbers of a net: what every experiment measures, by one function."""

import copy
from typing import Any

from torch import nn

from survey_lib.measure.macs import count_macs, count_nonzero_macs
from survey_lib.measure.size import count_activations, sizes
from survey_lib.tasks.task import Task
from survey_lib.tasks.train import evaluate, recalibrate


def standard(model: nn.Module, task: Task) -> dict[str, Any]:
    """Quality on validation and test, and sizes, of a net on a task; the net stays as it is.

    Returns:
        ``val`` and ``test``: accuracy as a share on validation and on test, or nats a token
        where the metric is perplexity; ``val_loss`` and ``loss``: nats on both; ``params``,
        ``nonzeros``, ``bytes_dense``, ``bytes_bitmask``, ``bytes_csr``; ``macs``,
        ``macs_nonzero`` and ``activations`` per example. Nets with batch norm have ``val_re`` and
        ``test_re`` too: after their statistics were estimated anew on 40 training batches.
    """
    example = task.example(1)
    numbers: dict[str, Any] = _quality(model, task)
    numbers |= sizes(model)
    numbers["macs"] = count_macs(model, example)
    numbers["macs_nonzero"] = count_nonzero_macs(model, example)
    numbers["activations"] = count_activations(model, example)
    again = copy.deepcopy(model)
    if recalibrate(again, task.train):
        fresh = _quality(again, task)
        numbers |= {f"{name}_re": fresh[name] for name in ("val", "test")}
    return numbers


def _quality(model: nn.Module, task: Task) -> dict[str, float]:
    val, test = (evaluate(model, split, task) for split in (task.val, task.test))
    of = "accuracy" if task.metric == "accuracy" else "loss"
    return {
        "val": val[of],
        "test": test[of],
        "val_loss": val["loss"],
        "loss": test["loss"],
    }
