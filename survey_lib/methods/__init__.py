"""The methods, one file per paper: slug → module name, written by hand."""

METHODS: dict[str, str] = {
    "to_prune_or_not": "survey_lib.methods.to_prune_or_not",
    "loss_modelling": "survey_lib.methods.loss_modelling",
    "thinet": "survey_lib.methods.thinet.method",
    "group_fisher": "survey_lib.methods.group_fisher.method",
    "closer_look": "survey_lib.methods.closer_look.method",
    "llm_int8": "survey_lib.methods.llm_int8.method",
}
"""The papers' methods. Import with ``importlib.import_module(METHODS[slug])``."""

BASELINES: dict[str, str] = {
    "random": "survey_lib.methods.baselines",
    "magnitude": "survey_lib.methods.baselines",
}
"""One-shot opponents of every method; ``baselines.Config(criterion=...)`` chooses."""

CHANNEL_BASELINES = "survey_lib.methods.channel_baselines"
"""One-shot opponents of every channel method; ``Config(criterion=...)`` chooses."""
