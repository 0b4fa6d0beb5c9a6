"""Names of weights that do not depend on whether a module is compiled, or spread over devices."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
_COMPILED = "_orig_mod."  # which torch.compile puts into the names of weights


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside `torch.compile`, `DistributedDataParallel` and `DataParallel`, or the module itself."""
    while True:
        if isinstance(module, _PARALLEL):
            module = module.module
        elif hasattr(module, "_orig_mod"):
            module = module._orig_mod
        else:
            return module


def plain_names(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return weights under the names that they have in modules that are not compiled: without `_orig_mod.`."""
    return {str(name).replace(_COMPILED, ""): w for name, w in weights.items()}


def load_plain(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load weights by their plain names into a model that may be compiled, as a whole or in parts."""
    inner = unwrapped(model)
    own = dict(zip(plain_names(inner.state_dict()), inner.state_dict()))
    inner.load_state_dict({own.get(name, name): w for name, w in plain_names(weights).items()})
