"""Packages that only some functions need, with an error that names the extra which installs them."""

from __future__ import annotations

import importlib
from types import ModuleType


def optional_module(module: str, who: str, needs: str, extra: str) -> ModuleType:
    """Return a module that is imported at its first use.

    Raises ImportError that names who needs it, what it is part of, and the extra of emrecon that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f'{who} needs {needs}: pip install "emrecon[{extra}]" ({error})') from error
