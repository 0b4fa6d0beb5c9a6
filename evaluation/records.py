"""The file that a finished unit leaves behind: its numbers, and how, where and when they came about."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emrecon.projectors.core.arrays import to_numpy
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.texts import read_json

FILE = "unit.json"


@dataclass(frozen=True)
class Record:
    """What is kept of a unit.

    Args:
        digest : of everything that decides its numbers.
        numbers : what it returned, None where it failed.
        error : why it failed.
        seconds, peak_memory : of the run; memory in bytes, of the whole process.
        threads : that it used; 0 where it failed.
    """

    unit: str
    digest: str
    numbers: Mapping[str, Any] | None
    error: str = ""
    seconds: float = 0.0
    peak_memory: int = 0
    arguments: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str = ""
    threads: int = 0

    @property
    def is_done(self) -> bool:
        """Whether it has numbers."""
        return self.numbers is not None


def read_record(folder: Path) -> Record | None:
    """Return the record in a unit's folder, None where there is none.

    Raises FormatError, naming the file, where it is no record.
    """
    path = folder / FILE
    if not path.exists():
        return None
    read = read_json(path, "the record of a unit")
    try:
        return Record(**read)
    except TypeError as error:
        raise FormatError(f"{path} is not the record of a unit: {error}") from error


def write_record(folder: Path, record: Record) -> None:
    """Write a record, whole or not at all."""
    text = json.dumps(plain(asdict(record)), indent=1, allow_nan=False)
    with atomic_path(folder / FILE) as path:
        path.write_text(text + "\n", encoding="utf-8")


def plain(value: Any, where: str = "") -> Any:
    """Return a value as JSON holds it: arrays as lists, NaN and infinity as None.

    Raises ValueError, naming the place, for what is no number, text, list or mapping with texts as keys.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value), where)
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(
                    f"the numbers of a unit have texts as keys, got {key!r}{f' in {where}' if where else ''}"
                )
        return {key: plain(one, f"{where}.{key}".lstrip(".")) for key, one in value.items()}
    if isinstance(value, Sequence):
        return [plain(one, f"{where}[{i}]") for i, one in enumerate(value)]
    raise ValueError(f"JSON cannot hold {where or 'this value'}, a {type(value).__name__}")


def digest_of_arrays(arrays: Iterable[Any]) -> str:
    """Return a digest of arrays: their shapes and their values in float32, so that libraries do not matter."""
    whole = hashlib.sha256()
    for array in arrays:
        x = np.ascontiguousarray(to_numpy(array), np.float32)
        whole.update(str(x.shape).encode())
        whole.update(x.tobytes())
    return whole.hexdigest()[:16]


def digest_of(value: Any) -> str:
    """Return a digest of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]
