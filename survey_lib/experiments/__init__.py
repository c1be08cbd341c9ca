"""The experiments, one per chapter: slug → module name, written by hand."""

EXPERIMENTS: dict[str, str] = {
    "to_prune_or_not": "survey_lib.experiments.to_prune_or_not",
    "loss_modelling": "survey_lib.experiments.loss_modelling",
    "thinet": "survey_lib.experiments.thinet",
    "closer_look": "survey_lib.experiments.closer_look",
    "group_fisher": "survey_lib.experiments.group_fisher",
    "pruning_by_explaining": "survey_lib.experiments.pruning_by_explaining",
    "llm_int8": "survey_lib.experiments.llm_int8",
    "parameterized_structured": "survey_lib.experiments.parameterized_structured",
    "rethinking": "survey_lib.experiments.rethinking",
}
