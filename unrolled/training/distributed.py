"""Several processes at one training or one scan: torchrun's group, averaged gradients, projectors shared by views."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeAlias, TypeVar

import torch
import torch.distributed
from torch import nn
from torch.autograd.function import FunctionCtx

from emrecon.projectors import AcquisitionModel, Projector
from emrecon.projectors.core.arrays import Array, array_namespace, is_torch
from emrecon.recon import PoissonLikelihood

from ..networks.scaling import count_scale

Value = TypeVar("Value")
Group: TypeAlias = "torch.distributed.ProcessGroup | None"
"""Some of the ranks; None for all of them."""


class Ranks(NamedTuple):
    """Which of how many processes this is, and the device it should work on."""

    rank: int
    n_ranks: int
    device: torch.device


@contextmanager
def process_group(device: str | None = None) -> Iterator[Ranks]:
    """Join the processes that torchrun started, and leave them at the end::

        torchrun --nproc-per-node 2 script.py          with process_group() as (rank, n_ranks, device): ...

    A script that was started without torchrun is a group of one.

    Args:
        device : "cpu" for gloo, "cuda" for NCCL with the GPU of LOCAL_RANK (default: CUDA where there is one).

    Raises ValueError for another device, and RuntimeError where torchrun's variables are incomplete.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        raise ValueError(f"process_group works on 'cpu' or 'cuda', got {device!r}")
    here = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if kind == "cuda" else torch.device("cpu")
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if "WORLD_SIZE" not in os.environ:
        yield Ranks(0, 1, here)
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise RuntimeError(f"WORLD_SIZE is set, but not {', '.join(missing)}; start the script with torchrun")
    torch.distributed.init_process_group("nccl" if kind == "cuda" else "gloo")
    try:
        yield Ranks(*rank_and_size(), here)
    finally:
        torch.distributed.destroy_process_group()


def rank_and_size(group: Group = None) -> tuple[int, int]:
    """Return (rank, n_ranks) of this process in a group, (0, 1) where torch.distributed has not been started."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(group), torch.distributed.get_world_size(group)


def average_gradients(parameters: Iterable[nn.Parameter], group: Group = None) -> None:
    """Replace every gradient by its mean over the ranks, with one all_reduce per precision and device.

    With batches of one size on all ranks, and losses that are means over the batch, the mean is the gradient of one
    process with the batches of all. A rank that has no gradient counts as one with a gradient of zero.
    """
    n_ranks = rank_and_size(group)[1]
    if n_ranks == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            kinds.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for members in kinds.values():
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients]) / n_ranks
        torch.distributed.all_reduce(flat, group=group)
        for parameter, part in zip(members, flat.split([p.numel() for p in members])):
            parameter.grad = part.reshape(parameter.shape)


def broadcast_weights(weights: Iterable[torch.Tensor], group: Group = None) -> None:
    """Give every rank the first one's values of these tensors, such as `module.state_dict().values()`."""
    if rank_and_size(group)[1] == 1:
        return
    first = 0 if group is None else torch.distributed.get_global_rank(group, 0)
    with torch.no_grad():
        for values in weights:
            whole = values.contiguous()
            torch.distributed.broadcast(whole, first, group=group)
            values.copy_(whole)


def mean_over_ranks(value: float, device: torch.device, group: Group = None) -> float:
    """Return the mean of a number over all ranks, on all of them.

    Args:
        device : one that the ranks talk by, such as that of the weights.
    """
    n_ranks = rank_and_size(group)[1]
    if n_ranks == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=device)
    torch.distributed.all_reduce(total, group=group)
    return float(total) / n_ranks


def of_first_rank(value: Value, group: Group = None) -> Value:
    """Return the first rank's value on all ranks: numbers, texts and the like, not large arrays."""
    if rank_and_size(group)[1] == 1:
        return value
    box = [value]
    torch.distributed.broadcast_object_list(box, 0 if group is None else torch.distributed.get_global_rank(group, 0))
    return box[0]


class ShardedProjector(Projector):
    """One scan on several processes: rank k of n holds the views k, k + n, ... and every rank the whole image::

        A x : this rank's views of A x, without communication
        A' y = sum over ranks of A_k' y_k : the whole back projection on every rank, one all_reduce

    Args:
        projector : of all views; the part of this rank is `projector.subset(k, n)`.
        group : the ranks (default: all).

    What is the same on all ranks (images, weights of networks) stays the same, bit for bit, and so do its gradients:
    the backward pass of A is the summed A', that of A' is the local A. So `em_step`, MLEM and unrolled networks run
    unchanged, and equal one process to the rounding of the sums, which are made in the precision of the data. A number
    made of this rank's views alone, such as `likelihood.value(x)`, needs `sum_over_ranks`, and `UnrolledEM` the scale
    `shared_count_scale`.
    `subset(k, n)` takes the views k, k + n, ... of every rank: of the scan, whole blocks of n_ranks views.
    All ranks must make the same calls in the same order; where one fails, the others wait for it until torchrun ends
    them.

    Raises ValueError for less than one view per rank.
    """

    def __init__(self, projector: Projector, group: Group = None) -> None:
        rank, n_ranks = rank_and_size(group)
        if projector.out_shape[0] < n_ranks:
            raise ValueError(f"{projector!r} has {projector.out_shape[0]} views for {n_ranks} ranks")
        self._hold(projector if n_ranks == 1 else projector.subset(rank, n_ranks), group)

    def _hold(self, local: Projector, group: Group) -> None:
        if local.has_parameters:
            raise ValueError(f"{local!r}: ranks do not share the gradient of its attenuation map; give a constant map")
        self.local, self.group = local, group
        self.in_shape, self.out_shape = local.in_shape, local.out_shape

    @classmethod
    def of_local(cls, local: Projector, group: Group = None) -> ShardedProjector:
        """Return the sharded projector of views that have been dealt out already."""
        sharded = cls.__new__(cls)
        sharded._hold(local, group)
        return sharded

    @property
    def n_items(self) -> int | None:
        return self.local.n_items

    def subset(self, k: int, n: int) -> ShardedProjector:
        return ShardedProjector.of_local(self.local.subset(k, n), self.group)

    def _forward(self, x: Array) -> Array:
        return self.local._forward(x)

    def _adjoint(self, y: Array) -> Array:
        return _summed(self.local._adjoint(y), self.group)

    def _forward_batch(self, x: Array) -> Array:
        return self.local._forward_batch(x)

    def _adjoint_batch(self, y: Array) -> Array:
        return _summed(self.local._adjoint_batch(y), self.group)


def view_sharded(likelihood: PoissonLikelihood, group: Group = None) -> PoissonLikelihood:
    """Return this rank's share of a scan's likelihood: its counts, factors and background, and a `ShardedProjector` A.

    Gradients, sensitivities and EM steps are those of the whole scan; its value is
    `sum_over_ranks(likelihood.value(x))`.
    """
    rank, n_ranks = rank_and_size(group)
    n_views = likelihood.model.projector.out_shape[0]
    if n_views < n_ranks:
        raise ValueError(f"{likelihood.model.projector!r} has {n_views} views for {n_ranks} ranks")
    mine = likelihood if n_ranks == 1 else likelihood.subset(rank, n_ranks)
    model = mine.model
    return PoissonLikelihood(
        mine.data,
        AcquisitionModel(
            ShardedProjector.of_local(model.projector, group), model.factors, model.background, model.scale
        ),
    )


class _SumOverRanks(torch.autograd.Function):
    """L = sum of L_k: the total is the same on all ranks, and every L_k has its gradient."""

    @staticmethod
    def forward(values: torch.Tensor, group: Group) -> torch.Tensor:
        return _summed(values.detach().clone(), group)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[object, ...], output: torch.Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def sum_over_ranks(values: torch.Tensor, group: Group = None) -> torch.Tensor:
    """Return the sum over all ranks of what each has computed from its views; differentiable."""
    return _SumOverRanks.apply(values, group)


def shared_count_scale(likelihood: PoissonLikelihood, steps: int = 16, group: Group = None) -> Array:
    """Return `count_scale` of a view-sharded scan: its sums over bins go over the views of all ranks.

    For `UnrolledEM(..., scale=shared_count_scale)`; the plain one would see the counts of one rank, and each rank
    another scale. (..., 1, 1, 1), the same bits on all ranks; alone it is `count_scale`.

    Raises TypeError for data other than torch tensors.
    """
    if not isinstance(likelihood.data, torch.Tensor):
        raise TypeError("shared_count_scale works on torch tensors; give the likelihood torch data")
    return count_scale(likelihood, steps, total=lambda sums: sum_over_ranks(sums, group))


def _summed(values: Array, group: Group) -> Array:
    """Sum an array of this process's own over the ranks, in place where that is possible."""
    if rank_and_size(group)[1] == 1:
        return values
    own = array_namespace(values).asarray(values, copy=True) if not is_torch(values) else values
    tensor = (own if is_torch(own) else torch.from_dlpack(own)).contiguous()
    torch.distributed.all_reduce(tensor, group=group)
    return tensor if is_torch(own) else array_namespace(own).from_dlpack(tensor)
