"""Tensors of the emulated device: torch's CPU tensors that say they are on CUDA and refuse what CUDA tensors refuse."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest import mock

import array_api_compat.torch
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from .arrays import ndarray
from .counting import note

CUDA = torch.device("cuda", 0)
_GETTERS = {
    torch.Tensor.is_cuda.__get__: True,  # type: ignore[attr-defined]
    torch.Tensor.is_cpu.__get__: False,  # type: ignore[attr-defined]
    torch.Tensor.device.__get__: CUDA,  # type: ignore[attr-defined]
}
_READS = {torch.Tensor.item, torch.Tensor.__bool__, torch.Tensor.__float__, torch.Tensor.__int__, torch.Tensor.tolist,
          torch.Tensor.__index__}  # fmt: skip
_SHAPED_BY_VALUES = {torch.nonzero, torch.Tensor.nonzero, torch.masked_select, torch.unique}


class CudaTensor(torch.Tensor):
    """A CPU tensor in disguise; whatever is made of it is one, too."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _GETTERS:
            return _GETTERS[func]
        if func in (torch.Tensor.numpy, torch.Tensor.__array__):
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        if func is torch.Tensor.__dlpack_device__:
            return 2, 0
        if func in _READS or func in _SHAPED_BY_VALUES:
            note(wait=True, to_host=8 if func in _READS else None)
        target = _target(func, args, kwargs)
        if target is not None:
            return _moved(func, args, kwargs, target)
        if func == torch.Tensor.grad.__get__:  # type: ignore[attr-defined]
            return on_cuda(super().__torch_function__(func, types, args, kwargs))  # torch never wraps it
        _check_mixed(func, args, kwargs)
        return super().__torch_function__(func, types, args, _without_device(kwargs))


def _plain(value: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return value.as_subclass(torch.Tensor) if isinstance(value, CudaTensor) else value


def on_cuda(tensor: Any) -> Any:
    """A tensor of the emulated device with the values of a CPU tensor, which it shares."""
    return tensor.as_subclass(CudaTensor) if isinstance(tensor, torch.Tensor) else tensor


def disguise(model: torch.nn.Module) -> torch.nn.Module:
    """Put a network on the emulated device, in place."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                made = on_cuda(parameter.detach().clone()).requires_grad_(parameter.requires_grad)
                made._is_param = True  # what nn.Module asks of a tensor of another class
                module._parameters[name] = made
        for name, values in list(module._buffers.items()):
            module._buffers[name] = on_cuda(values)
    return model


def host_of(tensor: Any) -> np.ndarray:
    """The memory of a tensor of the emulated device."""
    plain = _plain(tensor)
    with torch._C.DisableTorchFunctionSubclass():
        if plain.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        if not plain.is_contiguous():
            return plain.numpy()  # type: ignore[no-any-return]
        return plain.numpy()  # type: ignore[no-any-return]


def _target(func: Any, args: Any, kwargs: Any) -> Any:
    """Where a call moves a tensor, if that is what it does."""
    if func is torch.Tensor.cpu:
        return torch.device("cpu")
    if func is torch.Tensor.cuda:
        return CUDA
    if func is torch.Tensor.to:
        for one in (*args[1:], *kwargs.values()):
            if isinstance(one, torch.Tensor):
                return one.device
            if isinstance(one, torch.device) or (isinstance(one, str) and one.split(":")[0] in ("cuda", "cpu")):
                return torch.device(one)
    return None


def _moved(func: Any, args: Any, kwargs: Any, target: torch.device) -> Any:
    tensor, was_cuda = args[0], isinstance(args[0], CudaTensor)
    others = [one for one in args[1:] if isinstance(one, (torch.dtype, torch.Tensor))]
    kept = {key: value for key, value in kwargs.items() if key not in ("device", "non_blocking", "memory_format")}
    size = tensor.numel() * tensor.element_size()
    with torch._C.DisableTorchFunctionSubclass():
        dtypes = [one.dtype if isinstance(one, torch.Tensor) else one for one in others]
        moved = torch.Tensor.to(tensor.as_subclass(torch.Tensor), *dtypes, **kept) if dtypes or kept else (
            tensor.as_subclass(torch.Tensor)
        )  # fmt: skip
    to_cuda = target.type == "cuda"
    if to_cuda != was_cuda:
        note(to_device=size if to_cuda else None, to_host=None if to_cuda else size, wait=not to_cuda)
        with torch._C.DisableTorchFunctionSubclass():
            moved = moved.clone()
    return on_cuda(moved) if to_cuda else moved


def _check_mixed(func: Any, args: Any, kwargs: Any) -> None:
    """Tensors of both devices do not meet, but for numbers without dimension."""
    found = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
    cpu = [one for one in found if not isinstance(one, CudaTensor) and one.dim()]
    if cpu and func is not torch.Tensor.__setitem__ and func is not torch.Tensor.__getitem__:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({getattr(func, '__name__', func)})"
        )


def _without_device(kwargs: dict[str, Any]) -> dict[str, Any]:
    return {key: (torch.device("cpu") if key == "device" else value) for key, value in kwargs.items()}


class _Factories(TorchFunctionMode):
    """`device="cuda"` of functions that make tensors, and `.to("cuda")`, `.cuda()` of tensors on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if args and isinstance(args[0], torch.Tensor) and not isinstance(args[0], CudaTensor):
            target = _target(func, args, kwargs)
            if target is not None and target.type == "cuda":
                return _moved(func, args, kwargs, target)
        if func in (torch.asarray, torch.as_tensor) and args and isinstance(args[0], CudaTensor):
            target = torch.device(kwargs.get("device") or CUDA)
            dtypes = [kwargs["dtype"]] if kwargs.get("dtype") is not None else []
            return _moved(torch.Tensor.to, (args[0], *dtypes), {}, target)
        wanted = kwargs.get("device")
        has_cuda = any(isinstance(one, CudaTensor) for one in args)
        if wanted is not None and torch.device(wanted).type == "cuda" and not has_cuda:
            kwargs["device"] = "cpu"
            made = func(*args, **kwargs)
            if func in (torch.tensor, torch.asarray, torch.as_tensor):
                note(to_device=made.numel() * made.element_size())
            return on_cuda(made)
        return func(*args, **kwargs)


def _from_dlpack(values: Any, **kwargs: Any) -> Any:
    if isinstance(values, ndarray):
        return on_cuda(torch.from_numpy(values._host))
    return _real_from_dlpack(values, **kwargs)


_real_from_dlpack = torch.from_dlpack


@contextmanager
def cuda_tensors() -> Iterator[None]:
    """Let torch have one CUDA device inside."""
    stream = SimpleNamespace(cuda_stream=4711, synchronize=lambda: note(wait=True))
    with ExitStack() as stack:
        stack.enter_context(_Factories())
        for name, value in (
            ("is_available", lambda: True),
            ("device_count", lambda: 1),
            ("current_stream", lambda device=None: stream),
            ("current_device", lambda: 0),
            ("synchronize", lambda device=None: note(wait=True)),
            ("get_device_name", lambda device=None: "emulated device"),
        ):
            stack.enter_context(mock.patch.object(torch.cuda, name, value))
        for namespace in (torch, array_api_compat.torch):  # the second may have its own name for it already
            stack.enter_context(mock.patch.object(namespace, "from_dlpack", _from_dlpack))
        yield
