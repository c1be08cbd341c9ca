"""The names a reader needs first, in one place: tasks, training, methods, measurements, files.

For notebooks of one's own and for the README. Chapters import from the modules, so that a change
re-runs only the chapters that rest on it.
"""

from survey_lib.measure.compare import compare
from survey_lib.measure.macs import count_macs
from survey_lib.measure.size import count_parameters, sizes
from survey_lib.mechanics.budget import Budget, BudgetNotMet
from survey_lib.mechanics.graph import trace_groups
from survey_lib.mechanics.scratch import from_scratch
from survey_lib.mechanics.sparse import load_sparse, save_sparse
from survey_lib.mechanics.surgery import apply_recipe, load_compressed, save_compressed
from survey_lib.methods.contract import METHODS, Compressed, compress
from survey_lib.tasks.dense import dense_net, seeded, shipped_net
from survey_lib.tasks.task import Task, Training, load_task
from survey_lib.tasks.train import evaluate, fit, recalibrate, total_steps, training

__all__ = [
    "METHODS",
    "Budget",
    "BudgetNotMet",
    "Compressed",
    "Task",
    "Training",
    "apply_recipe",
    "compare",
    "compress",
    "count_macs",
    "count_parameters",
    "dense_net",
    "evaluate",
    "fit",
    "from_scratch",
    "load_compressed",
    "load_sparse",
    "load_task",
    "recalibrate",
    "save_compressed",
    "save_sparse",
    "seeded",
    "shipped_net",
    "sizes",
    "total_steps",
    "trace_groups",
    "training",
]
