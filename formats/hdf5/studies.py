"""The circumstances of a scan in the native HDF5 file: a `Study` as a text of JSON."""

from __future__ import annotations

import json
from dataclasses import fields
from datetime import datetime

import h5py

from emrecon.projectors import Study
from emrecon.projectors.core.errors import FormatError

from .storage import optional_put, optional_text

_TIMES = ("injection", "start")


def put_study(file: h5py.Group, study: Study | None) -> None:
    """Write a study, where there is one."""
    if study is None:
        return
    values = {item.name: getattr(study, item.name) for item in fields(study)}
    said = {name: value for name, value in values.items() if value is not None} | {"attributes": dict(study.attributes)}
    for name in _TIMES:
        if name in said:
            said[name] = said[name].isoformat()
    optional_put(file, "study", json.dumps(said, ensure_ascii=True, sort_keys=True), "")


def load_study(file: h5py.Group) -> Study | None:
    """Return the study of a file, None where it holds none; raises FormatError for one that cannot be read."""
    text = optional_text(file, "study")
    if text is None:
        return None
    known = {item.name for item in fields(Study)}
    try:
        values = json.loads(text)
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"unknown {', '.join(unknown)}")
        for name in _TIMES:
            if name in values:
                values[name] = datetime.fromisoformat(values[name])
        attributes = values.get("attributes", {})
        if not all(isinstance(value, str) for value in attributes.values()):
            raise TypeError("attributes must be texts")
        return Study(**values)
    except (ValueError, TypeError, AttributeError) as error:
        raise FormatError(f"{file.file.filename}: the study cannot be read ({error}); edited by hand?") from error
