"""Benchmarks of reconstruction: tasks, methods, scores, statistics, and reports that hold them.

A `Suite` is a list of `Unit`s, each done once and kept, and of the `Section`s that a report shows: `Table`s with
`Interval`s, `Picture`s and `Text`s. A `Method` is what is compared.
"""

if __name__ != "emrecon.evaluation":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.evaluation`")

from .methods import KINDS, Images, Method
from .records import Record, read_record
from .sections import Cell, Interval, Picture, Section, Table, Text
from .suite import MissingUnitError, Options, Results, Suite, Unit, folder_of, numbers_of

__all__ = [
    # suites
    "Suite",
    "Unit",
    "Options",
    "Results",
    "MissingUnitError",
    "Record",
    "read_record",
    "folder_of",
    "numbers_of",
    # methods
    "Method",
    "Images",
    "KINDS",
    # what a report shows
    "Section",
    "Table",
    "Interval",
    "Cell",
    "Picture",
    "Text",
]
