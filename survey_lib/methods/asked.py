"""Methods as a command names them: ``l1``, or ``l1:scope=local`` with a setting of its own."""

import math
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.mechanics.groups import ChannelGraph
from survey_lib.methods.contract import Entry, find
from survey_lib.tasks.dense import seeded
from survey_lib.tasks.task import Task

EVEN = "l1:scope=local"
"""Magnitude within equal shares of all layers, which starves none."""
_YES, _NO = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True)
class Asked:
    """A method of the registry and the settings that it runs with."""

    entry: Entry
    config: Any
    changed: tuple[str, ...]
    """``field=value``, as given."""

    @property
    def label(self) -> str:
        """Its name in tables and figures."""
        changes = ", ".join(c.replace("=", " ") for c in self.changed)
        return self.entry.label + (f" ({changes})" if changes else "")

    def refuse(self, model: nn.Module, graph: ChannelGraph, task: Task, budget: Budget) -> None:
        """Raise for what cannot work on this net; nothing is trained.

        A setting that was changed may be refused as late as where it is used, so the net is cut
        once, whatever its weights are.

        Raises:
            ValueError: a budget out of reach, or a setting that the method refuses.
            GraphError: something in the net that the method cannot work with.
        """
        module = self.entry.load()
        module.reach(graph, budget, self.config)
        if check := getattr(module, "check", None):
            check(model, graph, task, self.config)
        if self.changed:
            self.entry.compress(
                model, task, budget, self.config, tuning=None, generator=seeded(0)
            )  # fmt: skip


def asked(text: str) -> Asked:
    """A channel method that is steered by a budget.

    Args:
        text: a name of the registry, and after colons settings of its config:
            ``NAME:field=value:field=value``.

    Raises:
        ValueError: no such method or setting, a value of another type, or one that is refused.
    """
    name, *changed = text.split(":")
    entry = find(name, kind="channels", steers="budget")
    default = entry.config()
    known = {f.name: getattr(default, f.name) for f in fields(default)}
    known = {k: v for k, v in known.items() if isinstance(v, str | int | float)}
    values = {}
    for one in changed:
        field, is_there, value = one.partition("=")
        if not is_there or field not in known:
            can = ", ".join(known) or "none"
            raise ValueError(
                f"{text!r}: no setting {one!r}; write {name}:FIELD=VALUE with one of: {can}"
            )
        if field in values:
            raise ValueError(f"{text!r}: {field} is set twice")
        values[field] = _read(text, field, value, known[field])
    return Asked(entry, entry.config(**values), tuple(changed))


def _read(text: str, field: str, value: str, default: str | float) -> str | float | bool:
    """The value in the type of the default."""
    try:
        if isinstance(default, bool):
            return (_NO, _YES).index(next(w for w in (_NO, _YES) if value.lower() in w)) == 1
        read = type(default)(value)
        if not isinstance(read, str) and not math.isfinite(read):
            raise ValueError
        return read
    except (ValueError, StopIteration):
        kind = {bool: "true or false", int: "a whole number"}.get(type(default), "a number")
        raise ValueError(f"{text!r}: {field} must be {kind}, got {value!r}") from None
