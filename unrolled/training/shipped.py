"""Networks that come with the library, trained: small files of weights, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from torch import nn

from ..enhancement import ENHANCERS
from ..methods.presets import fbsem_net, mapem_net
from .weights import Card, Registry, load_network

_PREFIX, _SUFFIX = "pretrained_", ".safetensors"
_REGISTRY: Registry = {"mapem-net": mapem_net, "fbsem-net": fbsem_net, **ENHANCERS}


def pretrained_names() -> tuple[str, ...]:
    """Return the names of the trained networks: ARCHITECTURE-RECIPE, by the recipe of the training data.

    Of recipes that begin with "evidence-" the rest is in the name.
    """
    found = (entry.name for entry in files(__package__).iterdir())
    return tuple(
        sorted(n[len(_PREFIX) : -len(_SUFFIX)] for n in found if n.startswith(_PREFIX) and n.endswith(_SUFFIX))
    )


def pretrained_path(name: str) -> Path:
    """Return the file of weights of a name out of `pretrained_names()`; its card is beside it.

    Raises ValueError for an unknown name.
    """
    if name not in pretrained_names():
        raise ValueError(f"unknown trained network {name!r}; choose from {', '.join(pretrained_names())}")
    return Path(str(files(__package__) / f"{_PREFIX}{name}{_SUFFIX}"))


def pretrained(name: str) -> tuple[nn.Module, Card]:
    """Return a trained network in eval mode on the CPU, and its card, which says how and on what it was trained::

        network, card = pretrained("mapem-net-brain-pet")
        image = network(likelihood, guide=mr)
        print(fit_note(card, image, likelihood))    # None, or what is unusual

    These networks work on slices with voxels of 3.6 mm, at low counts, with an MR image as a guide; they were not
    trained for other scans.

    Raises ValueError for a name that is not among `pretrained_names()`, and ImportError that names the extra where
    safetensors is missing.
    """
    return load_network(pretrained_path(name), _REGISTRY)
