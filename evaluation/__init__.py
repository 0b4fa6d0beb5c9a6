"""Benchmarks of reconstruction: tasks, methods, scores, statistics, and reports that hold them.

A `Suite` is a list of `Unit`s, each done once and kept, and of the `Section`s that a report shows: `Table`s with
`Interval`s, `Picture`s and `Text`s. A `Method` is what is compared.
"""

if __name__ != "emrecon.evaluation":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.evaluation`")

from .methods import KINDS, Images, Method
from .records import Record, digest_of_arrays, read_record
from .sections import Cell, Interval, Picture, Section, Table, Text
from .statistics import (
    Comparison,
    Rank,
    SeedEffect,
    bootstrap_interval,
    compare_paired,
    holm,
    paired_over_seeds,
    proportion_interval,
    ranking,
    seed_interval,
    t_interval,
)
from .suite import MissingUnitError, Options, Results, Suite, Unit, folder_of, numbers_of
from .suites import SUITES
from .tasks import CHANGES, TASKS, Case, Change, Lesion, Task, task_named
from .tuning import Tuned, tune

__all__ = [
    # suites
    "SUITES",
    "Suite",
    "Unit",
    "Options",
    "Results",
    "MissingUnitError",
    "Record",
    "read_record",
    "digest_of_arrays",
    "folder_of",
    "numbers_of",
    # tasks
    "TASKS",
    "Task",
    "task_named",
    "Case",
    "Lesion",
    "CHANGES",
    "Change",
    # methods
    "Method",
    "Images",
    "KINDS",
    "tune",
    "Tuned",
    # statistics
    "compare_paired",
    "Comparison",
    "paired_over_seeds",
    "ranking",
    "Rank",
    "holm",
    "t_interval",
    "bootstrap_interval",
    "proportion_interval",
    "seed_interval",
    "SeedEffect",
    # what a report shows
    "Section",
    "Table",
    "Interval",
    "Cell",
    "Picture",
    "Text",
]
