"""Which part of a job this process is, as torchrun, Slurm and PBS say it."""

from __future__ import annotations

import os
from collections.abc import Mapping


def rank_and_size(environment: Mapping[str, str] | None = None) -> tuple[int, int]:
    """Return (rank, n_ranks) of this process as torchrun, Slurm or PBS tell it, (0, 1) where nobody does.

    RANK and WORLD_SIZE (torchrun, mpirun wrappers); otherwise Slurm's job array (SLURM_ARRAY_TASK_ID, _MIN, _STEP and
    _COUNT) and the tasks that srun started (SLURM_PROCID and SLURM_NTASKS), or both: every task of every array element
    is a rank; otherwise PBS_ARRAY_INDEX, for which PBS_ARRAY_COUNT must be passed along, as PBS does not tell it.

    Args:
        environment : os.environ unless given.

    Raises ValueError that names the variables where they are incomplete or contradict each other.
    """
    values = os.environ if environment is None else environment
    if "RANK" in values or "WORLD_SIZE" in values:
        return _checked_rank(values, "RANK", "WORLD_SIZE")
    index, n_elements = _array_element(values)
    if "SLURM_PROCID" not in values:
        return index, n_elements
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in values else "SLURM_NTASKS"
    task, n_tasks = _checked_rank(values, "SLURM_PROCID", size) if size in values else (0, 1)
    return index * n_tasks + task, n_elements * n_tasks


def _array_element(values: Mapping[str, str]) -> tuple[int, int]:
    if "SLURM_ARRAY_TASK_ID" in values:
        names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")
        element, first, n = (_whole(values, name) for name in names)
        step = _whole(values, "SLURM_ARRAY_TASK_STEP") if "SLURM_ARRAY_TASK_STEP" in values else 1
        index, rest = divmod(element - first, max(1, step))
        if rest or not 0 <= index < n:
            raise ValueError(
                f"SLURM_ARRAY_TASK_ID={element} is not one of {n} numbers from {first} in steps of {step}; submit an "
                "array without gaps, such as --array=0-7"
            )
        return index, n
    if "PBS_ARRAY_INDEX" in values or "PBS_ARRAYID" in values:
        return _checked_rank(
            values, "PBS_ARRAY_INDEX" if "PBS_ARRAY_INDEX" in values else "PBS_ARRAYID", "PBS_ARRAY_COUNT"
        )
    return 0, 1


def _checked_rank(values: Mapping[str, str], rank_name: str, size_name: str) -> tuple[int, int]:
    rank, size = _whole(values, rank_name), _whole(values, size_name)
    if not 0 <= rank < size:
        raise ValueError(
            f"{rank_name}={rank} and {size_name}={size} contradict each other; ranks go from 0 to size - 1"
        )
    return rank, size


def _whole(values: Mapping[str, str], name: str) -> int:
    text = values.get(name, "").strip()
    if not (text.isascii() and text.isdigit()):
        given = f"it is {text!r}" if text else "it is not set"
        raise ValueError(f"{name} must be a whole number, {given}; pass rank and n_ranks yourself?")
    return int(text)
