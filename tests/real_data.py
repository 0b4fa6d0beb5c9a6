"""Where tests find measured and third-party files, which are not a part of the repository."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("EMRECON_DATA") or Path(__file__).parents[1] / "../shared/data").resolve()


_SIZES = {"input.s": 120 * 64 * 128 * 4}  # what a test counts on, where a file says nothing of itself


def real_data(*parts: str) -> Path:
    """Return a file of the data folder ($EMRECON_DATA, else ../shared/data beside the repository), or skip the test."""
    path = FOLDER.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {'/'.join(parts)} in {FOLDER}; set EMRECON_DATA to the folder of test data")
    for name, size in _SIZES.items():
        data = path.with_name(name)
        if data.exists() and data.stat().st_size != size:
            pytest.skip(f"{data} is not the file that is distributed: {data.stat().st_size} bytes, not {size}")
    return path
