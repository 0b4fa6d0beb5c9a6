"""Trained weights as two files that hold no code: numbers as safetensors, and a JSON card that says what they are."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import torch
from torch import nn
from torch.nn.modules import module as hooks

from emrecon.projectors.core.errors import FormatError, require_file
from emrecon.projectors.core.files import atomic_path
from emrecon.projectors.core.texts import read_json

from ..networks.optional import optional_module
from .names import plain_names, unwrapped

_SCHEMA, _SCHEMA_VERSION = "emrecon-weights", 1
_LARGEST_CARD = 1 << 20
_LARGEST_NUMBER = 1 << 12  # of modules, channels, steps, ...: what builds a network would not end
_SPARE = 8  # times more than is in the file may be made while building
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")  # torch.save, old and new

Registry = Mapping[str, Callable[..., nn.Module]]


@dataclass(frozen=True)
class Card:
    """What a reader of weights must know; everything is JSON: texts, numbers, lists and mappings.

    Args:
        architecture : a name in the registry that builds the network, and the keyword arguments that it is called with.
        data : the recipe of the training data, with seeds.
        scale : how images are scaled before the network.
        metrics : name -> value; say in `data` on which held-out data.
        notes : licence, reference, known failures.

    The rest is filled in when saving: number of parameters, SHA-256 of the safetensors file, version of emrecon.
    """

    architecture: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    data: object = None
    scale: str = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    notes: str = ""
    parameters: int = 0
    sha256: str = ""
    version: str = ""


def card_path(path: str | os.PathLike[str]) -> Path:
    """Return where the card of a weights file is: the same name, ending in .json.

    Raises ValueError for a name that does not end in .safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise ValueError(f"weights are .safetensors files with a .json card beside them, not {str(path)!r}")
    return Path(path).with_suffix(".json")


def save_weights(path: str | os.PathLike[str], module: nn.Module, card: Card, *, overwrite: bool = True) -> Card:
    """Write parameters and buffers of a module to NAME.safetensors and the card to NAME.json.

    Returns the card as written, with number of parameters, checksum and version. Tensors that the module uses under
    several names are written once. Weights of a compiled module, or of compiled parts, have the names of one that is
    not compiled, and can be loaded into either. Both files are written beside their targets first and then moved into
    place; weights whose card was lost in between are refused by the checksum when loading.

    Raises ValueError for weights that are not finite and cards that are not JSON, FileExistsError and OSError as every
    writer here does, ImportError that names the extra where safetensors is missing.
    """
    where = card_path(path)
    tensors = {name: w.detach().cpu().contiguous() for name, w in _tensors(module).items()}
    for name, w in tensors.items():
        _require_finite(path, name, w)
    data = _safetensors().save(tensors, metadata={"format": f"{_SCHEMA} {_SCHEMA_VERSION}"})
    written = replace(
        card,
        parameters=count_parameters(module),
        sha256=hashlib.sha256(data).hexdigest(),
        version=_library_version(),
    )
    try:
        text = json.dumps(
            {"format": _SCHEMA, "schema_version": _SCHEMA_VERSION} | asdict(written), indent=1, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ValueError(f"cannot write the card of {path}: it must be JSON with finite numbers ({error})") from error
    with atomic_path(path, overwrite) as weights, atomic_path(where, overwrite) as about:
        weights.write_bytes(data)
        about.write_text(text + "\n", encoding="utf-8")
    return written


def read_card(path: str | os.PathLike[str]) -> Card:
    """Return the card of a weights file.

    Raises FileNotFoundError where there is none, and ValueError that names the file and the fact for one that is not a
    card: too large, not JSON, another format or version, fields that are missing, unknown or of another kind.
    """
    where = card_path(path)
    if not where.exists():
        raise FileNotFoundError(f"{where}: the card of {Path(path).name} is missing; both files belong together")
    values = read_json(where, "a card of weights", _LARGEST_CARD)
    if not isinstance(values, dict) or values.pop("format", None) != _SCHEMA:
        raise FormatError(f"{where} is not a card of weights: its format is not {_SCHEMA!r}")
    found = values.pop("schema_version", None)
    if found != _SCHEMA_VERSION:
        raise FormatError(
            f"{where} has schema version {found!r}, this emrecon reads {_SCHEMA_VERSION}; is a newer one needed?"
        )
    _check_fields(where, values)
    return Card(**values)


def load_weights(path: str | os.PathLike[str], module: nn.Module, *, architecture: str | None = None) -> Card:
    """Read weights into a module that has been built, and return their card; on any error the module is untouched.

    Args:
        architecture : the name that the card must state, where given.

    Nothing is unpickled or executed.

    Raises FileNotFoundError for missing files, and ValueError that names the file and the fact: a pickle, a truncated
    or changed file, a header that does not fit, tensors of other names, shapes or types (usual cause: another
    architecture or other arguments), values that are not finite.
    """
    card = read_card(path)
    if architecture is not None and card.architecture != architecture:
        raise FormatError(f"{path} holds weights of {card.architecture!r}, not of {architecture!r}")
    found = _read_tensors(Path(path), card)
    _require_same(path, found, _tensors(module))
    _fill(module, found)
    return card


def load_network(path: str | os.PathLike[str], registry: Registry) -> tuple[nn.Module, Card]:
    """Return the network that a card describes, with its weights, in eval mode on the CPU, and the card.

    Args:
        registry : name -> what builds the network from the card's arguments, such as {"fbsem-net": fbsem_net}. The card
            chooses among these and calls nothing else. Arguments are tried without memory first (on torch's "meta"
            device), so that a card with absurd sizes is refused by its file's shapes.

    Raises ValueError for architectures that are not in the registry and arguments that they do not take, and as
    `load_weights` does.
    """
    card = read_card(path)
    if any(isinstance(n, int) and abs(n) > _LARGEST_NUMBER for n in _numbers(card.arguments.values())):
        raise FormatError(f"{path}: a number in the card's arguments {dict(card.arguments)} is too large to build")
    if card.architecture not in registry:
        raise FormatError(
            f"{path} needs the architecture {card.architecture!r}; known are {', '.join(sorted(registry)) or 'none'}"
        )
    found = _read_tensors(Path(path), card)
    build = registry[card.architecture]
    card = _with_norm(card, build, found)
    with no_larger_than(path, found):
        sketch = _sketched(build, card)
        if sketch is not None:
            _require_same(path, found, _tensors(sketch))
        network = _built(path, build, card)
    _require_same(path, found, _tensors(network))
    _fill(network, found)
    return network.eval(), card


def count_parameters(module: nn.Module) -> int:
    """Return how many numbers are learned, those used in several places once."""
    return sum(parameter.numel() for parameter in module.parameters())


def _numbers(values: Iterable[object]) -> Iterator[object]:
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _numbers(value)
        else:
            yield value


def _sketched(build: Callable[..., nn.Module], card: Card) -> nn.Module | None:
    """The network without memory, or None where its builder looks at values and cannot do without."""
    try:
        with torch.device("meta"):
            return build(**card.arguments)
    except FormatError:
        raise
    except Exception:  # what is wrong for good is said when building in earnest
        return None


@contextmanager
def no_larger_than(path: str | os.PathLike[str], found: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Within: a network that this thread builds has the tensors and numbers that are found, or a few times more.

    Builders may make what they drop again, so some more is allowed; beyond, a FormatError ends the building before a
    number is drawn.
    """
    most_tensors = _SPARE * (len(found) + 10)
    most_numbers = _SPARE * (sum(w.numel() for w in found.values()) + 1000)
    made, thread = [0, 0], threading.get_ident()

    def count(module: nn.Module, name: str, what: object) -> None:
        if threading.get_ident() != thread or what is None:
            return
        made[0] += 1
        made[1] += what.numel() if isinstance(what, torch.Tensor) else 0
        if made[0] > most_tensors or made[1] > most_numbers:
            raise FormatError(f"{path}: the network of the card's arguments is much larger than its weights; hostile?")

    handles = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
        hooks.register_module_module_registration_hook(count),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _with_norm(card: Card, build: Callable[..., nn.Module], found: Mapping[str, torch.Tensor]) -> Card:
    """The card as it is, or with norm="batch" where the weights have running means and it does not say so.

    It was the presets' default up to version 0.2.0.
    """
    if "norm" in card.arguments or not any(name.endswith("running_mean") for name in found):
        return card
    if "norm" not in inspect.signature(build).parameters:
        return card
    return replace(card, arguments={**card.arguments, "norm": "batch"})


def _built(path: str | os.PathLike[str], build: Callable[..., nn.Module], card: Card) -> nn.Module:
    try:
        return build(**card.arguments)
    except FormatError:
        raise
    except Exception as error:  # whatever a builder makes of the arguments of a stranger
        raise FormatError(
            f"{path}: {card.architecture!r} cannot be built with its card's arguments {dict(card.arguments)}: {error}"
        ) from error


def _tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers by plain name; what has several names has its first one."""
    seen: dict[int, str] = {}
    state = unwrapped(module).state_dict(keep_vars=True)
    return plain_names({name: w for name, w in state.items() if seen.setdefault(id(w), name) == name})


def _read_tensors(path: Path, card: Card) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: the weights of the card {card_path(path).name} are missing")
    data = require_file(path).read_bytes()
    if data[:16].startswith(_PICKLES):
        raise FormatError(f"{path} is a pickle (torch.save?), which can run code, and is not read; use save_weights")
    if hashlib.sha256(data).hexdigest() != card.sha256:
        raise FormatError(
            f"{path} ({len(data)} bytes) does not have the SHA-256 that its card states: the file is truncated or "
            "changed, or the card belongs to other weights"
        )
    safetensors = _safetensors()
    try:
        tensors: dict[str, torch.Tensor] = safetensors.load(data)
    except Exception as error:  # the reader's own error type is not public under one name in all its versions
        raise FormatError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    for name, w in tensors.items():
        _require_finite(path, name, w)
    return plain_names(tensors)


def _require_same(
    path: str | os.PathLike[str], found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unknown:
        raise FormatError(
            f"{path} holds weights of another architecture; missing: {_some(missing)}; unknown: {_some(unknown)}"
        )
    for name, w in expected.items():
        if (found[name].shape, found[name].dtype) != (w.shape, w.dtype):
            raise FormatError(
                f"{path}: {name} is {tuple(found[name].shape)} {found[name].dtype}, the network has {tuple(w.shape)} "
                f"{w.dtype}; other arguments?"
            )


@torch.no_grad()
def _fill(module: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    for name, w in _tensors(module).items():
        w.copy_(values[name])


def _require_finite(path: str | os.PathLike[str], name: str, w: torch.Tensor) -> None:
    if w.is_floating_point() and not bool(torch.isfinite(w.float() if w.itemsize == 1 else w).all()):
        raise FormatError(f"{path}: {name} holds NaN or infinite values; did the training diverge?")


def _check_fields(where: Path, values: Mapping[str, object]) -> None:
    kinds = {name: type(value) for name, value in asdict(Card("")).items()}
    if values.keys() != kinds.keys():
        missing, unknown = sorted(kinds.keys() - values.keys()), sorted(values.keys() - kinds.keys())
        raise FormatError(
            f"{where} is not a card of weights; missing fields: {_some(missing)}; unknown fields: {_some(unknown)}"
        )
    for name, kind in kinds.items():
        if name != "data" and not isinstance(values[name], kind):
            raise FormatError(f"{where}: {name} must be {kind.__name__}, got {type(values[name]).__name__}")


def _some(names: list[str]) -> str:
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "nothing"


def _safetensors() -> ModuleType:
    return optional_module("safetensors.torch", "a file of weights", "safetensors", "learned")


def _library_version() -> str:
    try:
        return version("emrecon")
    except PackageNotFoundError:
        return "unknown"
