"""The experiments, one per chapter: slug → module name, written by hand."""

EXPERIMENTS: dict[str, str] = {
    "to_prune_or_not": "survey_lib.experiments.to_prune_or_not",
    "loss_modelling": "survey_lib.experiments.loss_modelling",
    "thinet": "survey_lib.experiments.thinet",
    "closer_look": "survey_lib.experiments.closer_look",
    "group_fisher": "survey_lib.experiments.group_fisher",
    "pruning_by_explaining": "survey_lib.experiments.pruning_by_explaining",
    "adaptive_activation": "survey_lib.experiments.adaptive_activation",
    "llm_int8": "survey_lib.experiments.llm_int8",
    "what_matters_llm": "survey_lib.experiments.what_matters_llm",
    "role_of_structured": "survey_lib.experiments.role_of_structured",
    "pruning_adapters": "survey_lib.experiments.pruning_adapters",
    "parameterized_structured": "survey_lib.experiments.parameterized_structured",
    "rethinking": "survey_lib.experiments.rethinking",
}

BESIDE = {"own_net": "survey_lib.experiments.own_net"}
"""What the same runner runs and no chapter tells: a user's own comparison."""
