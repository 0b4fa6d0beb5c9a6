"""Methods of the user's own: a Python path, `package.module:name`, or a file of weights."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emrecon.projectors.core.arrays import array_namespace, like, to_numpy

from .methods import Images, Method

CALL = "(likelihood, start=None, *, guide=None) -> image"
"""What a method of the user's own is called with: `unrolled.Reconstructor`."""


class MethodError(ValueError):
    """A method of the user's own that cannot be used, and why."""


def is_own(text: str) -> bool:
    """Whether a text means a method of the user's own, and not one of a suite: it has a colon, or is a file."""
    return ":" in text or text.endswith(".safetensors")


def own_method(text: str) -> Method:
    """Return a user's method.

    Args:
        text : "package.module:name" of an object that is called as `CALL` says, looked for in the current folder, too;
            or a file of weights, .safetensors, with its card, of an architecture of `unrolled`.

    Raises MethodError, in a line, for what cannot be imported, called that way, or loaded.
    """
    return _from_weights(Path(text)) if text.endswith(".safetensors") else _from_path(text)


def own_methods(texts: Sequence[str]) -> list[Method]:
    """Return the users' methods among texts, each under a name of its own."""
    found: list[Method] = []
    for text in texts:
        if not is_own(text):
            continue
        method = own_method(text)
        if any(method.name == other.name for other in found):
            raise MethodError(f"two methods have the name '{method.name}'; is {text} given twice?")
        found.append(method)
    return found


def _from_path(text: str) -> Method:
    module, _, name = text.partition(":")
    if not (module and name and all(part.isidentifier() for part in (*module.split("."), *name.split(".")))):
        raise MethodError(f"'{text}' is not package.module:name, nor a file of weights, .safetensors")
    try:
        with _current_folder():
            found: Any = importlib.import_module(module)
    except Exception as error:
        raise MethodError(f"cannot import {module}: {type(error).__name__}: {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise MethodError(f"{module} has no '{name}'")
        found = getattr(found, part)
    _check_callable(found, text)
    return _method(found, text, _sees_guide(found))


@contextmanager
def _current_folder() -> Any:
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _check_callable(found: Any, text: str) -> None:
    if inspect.isclass(found):
        raise MethodError(f"{text} is a class; give an object of it, which is called as {CALL}")
    if not callable(found):
        raise MethodError(f"{text} is a {type(found).__name__}, which cannot be called; a method is {CALL}")
    called = found.forward if hasattr(found, "forward") and hasattr(found, "parameters") else found  # of torch's Module
    try:
        inspect.signature(called).bind(object(), None, guide=None)
    except TypeError as error:
        raise MethodError(f"{text} is not called as {CALL}: {error}") from error
    except ValueError:
        return  # compiled, and says nothing of its arguments


def _sees_guide(found: Any) -> bool:
    """Whether a network takes guides; of other objects nobody knows, and they may."""
    channels = getattr(found, "guide_channels", None)
    return True if channels is None else bool(channels)


def _from_weights(path: Path) -> Method:
    try:
        from emrecon.unrolled import load_network
        from emrecon.unrolled.methods import PRESETS
    except ImportError as error:
        raise MethodError(f'{path}: weights need torch: pip install "emrecon[torch]" ({error})') from error
    try:
        network, card = load_network(path, PRESETS)
    except (OSError, ValueError, ImportError) as error:
        said = str(error)
        raise MethodError(said if str(path) in said else f"{path}: {said}") from error
    sees = _sees_guide(network)
    return _method(network, f"{card.architecture} of {path.name}", sees, path.stem, hand_guide=sees)


def _method(
    call: Callable[..., Any], title: str, sees_guide: bool, name: str | None = None, hand_guide: bool = True
) -> Method:
    def images(case: Any) -> Images:
        yield 1, applied(call, case, title, hand_guide)

    return Method(f"own-{_plain(name or title)}", title, "own", images, sees_guide=sees_guide)


def applied(call: Callable[..., Any], case: Any, title: str, hand_guide: bool = True) -> Any:
    """Return what a method makes of a batch of scans, in the library and precision of the truth.

    Raises MethodError for images of another shape, NaN and infinity.
    """
    guide = case.guide if hand_guide else None
    with _without_gradients():
        image = call(case.likelihood, guide=guide)
    wanted = tuple(case.truth.shape)
    shape = getattr(image, "shape", None)
    if shape is None:
        raise MethodError(f"{title} returned a {type(image).__name__}, not an array of shape {wanted}")
    if tuple(shape) != wanted:
        raise MethodError(f"{title} returned an image of shape {tuple(shape)}, not {wanted}")
    values = to_numpy(image.detach() if hasattr(image, "detach") else image)
    if values.dtype.kind not in "fiu":
        raise MethodError(f"{title} returned numbers of the kind {values.dtype}, not real ones")
    n_bad = int((~_finite(values)).sum())
    if n_bad:
        raise MethodError(f"{title} returned {n_bad} voxels of {values.size} that are NaN or infinite")
    xp = array_namespace(case.truth)
    return like(values.astype("float64" if case.truth.dtype == xp.float64 else "float32"), case.truth)


def _finite(values: Any) -> Any:
    import numpy as np

    return np.isfinite(values)


@contextmanager
def _without_gradients() -> Any:
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    with torch.no_grad():
        yield


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "method"
