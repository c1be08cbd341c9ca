"""What every method is, and the one table of them.

A method's module has a frozen ``Config``, ``KIND``, ``STEERS``, and ``compress`` as
:class:`Compress` has it; one of kind ``channels`` also has ``reach(graph, budget, config)``, which
refuses a budget out of reach before anything is trained, and where a net or data may lack what it
needs ``check(model, graph, task, config)``, which refuses these as early. What is not in
:data:`METHODS` does not exist; what is in it is tested by the battery (``tests/test_battery.py``).

This module imports no method. Methods take :class:`Compressed` from its own small module, so that
a new entry here changes the code of none of them.
"""

import importlib
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Protocol

import torch
from torch import nn

from survey_lib.mechanics.budget import Budget
from survey_lib.methods.compressed import Compressed
from survey_lib.tasks.task import Task, Training

KINDS = ("weights", "channels", "bits", "adapters", "protocol")
STEERS = ("budget", "outcome")
PACKAGE = "survey_lib.methods"


class Compress(Protocol):
    """The one signature of all methods."""

    def __call__(
        self,
        model: nn.Module,
        task: Task,
        budget: Any,
        config: Any = ...,
        *,
        tuning: Training | None,
        generator: torch.Generator,
    ) -> Compressed:
        """A smaller net made from ``model``, which stays as it is: weights, modes and flags.

        Args:
            model: the dense net, on any device, in any precision; frozen parameters
                (``requires_grad=False``) may be cut but are not trained.
            task: data and loss.
            budget: how much may be kept (:class:`~survey_lib.mechanics.budget.Budget`); None for
                methods steered by their outcome.
            config: the module's own ``Config``.
            tuning: the whole training that may be spent, and spent to the step it is; None
                chooses and cuts and trains nothing.
            generator: the only source of chance (a CPU generator).

        Returns:
            The new net in eval mode, and what was spent.

        Raises:
            BudgetNotMet: the budget is out of reach.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """One method or baseline, as everything that goes over all of them sees it."""

    label: str
    """Its name in tables and figures."""
    kind: str
    """What it takes away: one of :data:`KINDS`."""
    steers: str
    """``budget``, or ``outcome`` where it takes ``budget=None`` and reports what it reached."""
    module: str
    """Its module, under ``survey_lib.methods``."""
    criterion: str = ""
    """Of the default config, where several entries share a module."""
    knob: str = ""
    """The field of its config by which a method steered by its outcome is steered."""
    name: str = ""
    """Its key in the table."""

    def load(self) -> ModuleType:
        """The method's module."""
        return importlib.import_module(f"{PACKAGE}.{self.module}")

    @property
    def trains(self) -> bool:
        """Whether a tuning can be spent; where not (``bits``), it has to be None."""
        return self.kind != "bits"

    def config(self, **changes: Any) -> Any:
        """The default config, or one that differs from it in some fields.

        Raises:
            ValueError: a field it does not have, or a value that it refuses.
        """
        own = {"criterion": self.criterion} if self.criterion else {}
        try:
            return self.load().Config(**(own | changes))
        except TypeError as error:
            raise ValueError(f"{self.name}: {error}") from None

    @property
    def compress(self) -> Compress:
        """The method itself."""
        return self.load().compress


# One line for each; a paper's entry has its slug. Papers first, then the opponents by kind.
METHODS: dict[str, Entry] = {
    "to_prune_or_not": Entry("gradual magnitude", "weights", "budget", "to_prune_or_not"),
    "parameterized_structured": Entry(
        "PSP", "weights", "outcome", "parameterized_structured.method", knob="decay"
    ),
    "loss_modelling": Entry("loss modelling", "weights", "budget", "loss_modelling"),
    "thinet": Entry("ThiNet", "channels", "budget", "thinet.method"),
    "group_fisher": Entry("Group Fisher", "channels", "budget", "group_fisher.method"),
    "closer_look": Entry("Fisher, one by one", "channels", "budget", "closer_look.method"),
    "rethinking": Entry("fresh weights", "channels", "budget", "rethinking.method"),
    "pruning_by_explaining": Entry(
        "relevance", "channels", "budget", "pruning_by_explaining.method"
    ),
    "what_matters_llm": Entry("GUM", "channels", "budget", "what_matters_llm.method", "gum"),
    "top_v": Entry("movement", "channels", "budget", "what_matters_llm.method", "top_v"),
    "soft_movement": Entry(
        "soft movement", "channels", "outcome", "what_matters_llm.soft", knob="lambda_mvp"
    ),
    "adaptive_activation": Entry(
        "adaptive activation", "channels", "outcome", "adaptive_activation.method", knob="target"
    ),
    "role_of_structured": Entry(
        "SeReNe", "weights", "outcome", "role_of_structured.method", "serene", knob="twt"
    ),
    "lobster": Entry(
        "LOBSTER", "weights", "outcome", "role_of_structured.method", "lobster", knob="twt"
    ),
    "shrink": Entry(
        "decay and threshold",
        "weights",
        "outcome",
        "role_of_structured.method",
        "decay",
        knob="twt",
    ),
    "llm_int8": Entry("LLM.int8()", "bits", "outcome", "llm_int8.method", knob="alpha"),
    "pruning_adapters": Entry("SPLoRA", "adapters", "budget", "pruning_adapters.method"),
    "magnitude": Entry("magnitude, at once", "weights", "budget", "baselines", "magnitude"),
    "random_weights": Entry("random weights", "weights", "budget", "baselines", "random"),
    "random": Entry("random", "channels", "budget", "channel_baselines", "random"),
    "l1": Entry("ℓ1", "channels", "budget", "channel_baselines", "l1"),
    "l2": Entry("ℓ2", "channels", "budget", "channel_baselines", "l2"),
    "bn_scale": Entry("batch-norm scale", "channels", "budget", "channel_baselines", "bn_scale"),
    "taylor": Entry("raw Taylor", "channels", "budget", "channel_baselines", "taylor"),
    "taylor_normalised": Entry(
        "Taylor", "channels", "budget", "channel_baselines", "taylor_normalised"
    ),
    "fisher": Entry("Fisher", "channels", "budget", "channel_baselines", "fisher"),
    "gradual_random": Entry(
        "gradual random", "channels", "budget", "what_matters_llm.method", "random"
    ),
    "gradual_l2": Entry("gradual ℓ2", "channels", "budget", "what_matters_llm.method", "magnitude"),
    "adaptive_budget": Entry(
        "adaptive within a budget", "channels", "budget", "adaptive_activation.budgeted"
    ),
    "weight_sum": Entry("weight sum", "channels", "budget", "thinet.variants", "weight_sum"),
    "apoz": Entry("zeros (APoZ)", "channels", "budget", "thinet.variants", "apoz"),
    "forward": Entry("forward selection", "channels", "budget", "thinet.variants", "forward"),
}
"""All methods by name, written by hand."""
METHODS.update({name: replace(entry, name=name) for name, entry in METHODS.items()})


def find(name: str, *, kind: str | None = None, steers: str | None = None) -> Entry:
    """The entry of a method.

    Raises:
        ValueError: there is none of that name, kind and steering; names those there are.
    """
    known = [n for n, e in METHODS.items() if kind in (None, e.kind) and steers in (None, e.steers)]
    if name not in known:
        what = f"{kind} method" if kind else "method"
        raise ValueError(f"no {what} {name!r}; use one of {', '.join(known)}")
    return METHODS[name]


def compress(
    name: str,
    model: nn.Module,
    task: Task,
    budget: Budget | None = None,
    *,
    tuning: Training | None = None,
    generator: torch.Generator,
    **options: Any,
) -> Compressed:
    """Compress a copy of ``model`` by the method of that name.

    Args:
        name: a key of :data:`METHODS`.
        model: the dense net.
        task: data and loss.
        budget: how much may be kept; None for methods steered by their outcome.
        tuning: the whole training that may be spent; None trains nothing.
        generator: the only source of chance.
        options: fields of the method's config that differ from its defaults.

    Raises:
        ValueError: no such method or option, or a budget out of reach.
    """
    entry = find(name)
    config = entry.config(**options)
    return entry.compress(model, task, budget, config, tuning=tuning, generator=generator)
