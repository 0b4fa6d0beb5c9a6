"""Tasks of benchmarks: families of simulated scans with splits, and what changes in them."""

from .changes import CHANGES, Change
from .task import TASKS, Case, Lesion, Task, task_named

__all__ = ["CHANGES", "TASKS", "Case", "Change", "Lesion", "Task", "task_named"]
