"""Large images through a network piece by piece: overlapping windows that are blended, and the memory that it takes."""

from __future__ import annotations

import copy
import itertools
import math
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from emrecon.projectors.core.arrays import Array

from .enhancer import Enhancer

_SIZES = (512, 384, 256, 192, 160, 128, 96, 64, 48, 32, 16)


class Windowed(nn.Module):
    """An `Enhancer` that sees large images through windows, itself a denoiser::

        image = sum_w taper_w body(channels in w) / sum_w taper_w

    Scale, level of the noise, guides and coordinates are those of the whole image. Tapers rise linearly over the
    overlap, and are 0 within `margin` voxels of a cut, where the network has seen an edge that is none. So the result
    is that of the whole image, up to rounding, for bodies whose receptive field reaches no farther than the margin and
    that normalise by no statistics of the image (norm "batch" in use, or "none"); of others it differs a little.

    Args:
        enhancer : in 2-D the windows are those of slices, of which `items` go through at once.
        window : voxels along each axis that the network convolves over, one number or one for each; images that are
            smaller go through as a whole. Windows begin at multiples of what the body divides by (`body.multiple`).
        overlap : voxels that neighbouring windows share; default a quarter of the window.
        margin : of the overlap on either side of a cut that is not used; default a quarter of the overlap.
        items : windows that go through the body at once.

    Raises ValueError for windows below 1, and an overlap or margin that leaves nothing of a window.
    """

    def __init__(
        self,
        enhancer: Enhancer,
        window: int | Sequence[int],
        overlap: int | None = None,
        margin: int | None = None,
        items: int = 1,
    ) -> None:
        super().__init__()
        n = enhancer.dimensions
        self.window = (window,) * n if isinstance(window, int) else tuple(window)
        if len(self.window) != n or min(self.window) < 1 or items < 1:
            raise ValueError(f"Windowed: a window has {n} numbers of voxels of 1 or more, and items are 1 or more")
        self.overlap = min(self.window) // 4 if overlap is None else overlap
        self.margin = self.overlap // 4 if margin is None else margin
        if not 0 <= 2 * self.margin <= self.overlap < min(self.window):
            raise ValueError(
                f"Windowed: the overlap must be less than the window and twice the margin or more, got windows of "
                f"{self.window}, overlap {self.overlap} and margin {self.margin}"
            )
        self.enhancer, self.items = enhancer, items

    @property
    def dimensions(self) -> int:
        """2 for networks of slices, 3 of volumes."""
        return self.enhancer.dimensions

    @property
    def guide_channels(self) -> int:
        """How many guide images it takes."""
        return self.enhancer.guide_channels

    def forward(
        self,
        x: Tensor,
        sigma: float | Tensor | None = None,
        *,
        guide: Array | None = None,
        scale: float | Tensor | None = None,
    ) -> Tensor:
        """Return the enhanced image, of the shape of x, (..., x, y, z); gradients pass."""
        made = self.enhancer.applied(self._blended, x, sigma, guide=guide, scale=scale)
        assert isinstance(made, Tensor)
        return made

    def n_windows(self, shape: Sequence[int]) -> int:
        """Return how many windows an image (x, y, z) takes, slices of 2-D networks included."""
        sizes = shape[: self.dimensions]
        slices = shape[2] if self.dimensions == 2 else 1
        return slices * math.prod(len(starts) for starts in self._starts(sizes))

    def memory(self, shape: Sequence[int]) -> int:
        """Return about how many bytes an image (x, y, z) takes: network, its values in a window, and whole arrays."""
        sizes = [min(n, w) for n, w in zip(shape, self.window)]
        return body_memory(self.enhancer, sizes, self.items) + _whole(self.enhancer, shape)

    def _blended(self, channels: Tensor) -> Tensor:
        sizes = channels.shape[2:]
        total, weights = None, channels.new_zeros((1, 1, *sizes))
        for start, stop in self._places(sizes):
            place = tuple(slice(a, b) for a, b in zip(start, stop))
            piece = channels[(..., *place)]
            parts = [self.enhancer.body(part) for part in piece.split(self.items)]
            made, taper = torch.cat(parts), self._taper(start, stop, sizes, channels)
            if total is None:
                total = made.new_zeros((*made.shape[:2], *sizes))
            # not in place, where gradients pass
            sides = [side for a, b, n in zip(start[::-1], stop[::-1], sizes[::-1]) for side in (a, n - b)]
            if made.requires_grad:
                total = total + nn.functional.pad(taper * made, sides)
            else:
                total[(..., *place)] += taper * made
            weights[(..., *place)] += taper
        assert total is not None
        return total / weights

    def _places(self, sizes: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        axes = []
        for starts, window, n in zip(self._starts(sizes), self.window, sizes):
            axes.append([(a, n if a == starts[-1] else a + window) for a in starts])
        for place in itertools.product(*axes):
            yield tuple(a for a, _ in place), tuple(b for _, b in place)

    def _starts(self, sizes: Sequence[int]) -> list[list[int]]:
        """Where windows begin along each axis; the last one reaches the end, and is a little longer where it must."""
        multiples = getattr(self.enhancer.body, "multiple", (1,) * len(self.window))
        found = []
        for n, window, multiple in zip(sizes, self.window, multiples):
            last = max(0, (n - window) // multiple * multiple)
            step = max(multiple, (window - self.overlap) // multiple * multiple)
            found.append([*range(0, last, step), last])
        return found

    def _taper(self, start: Sequence[int], stop: Sequence[int], sizes: Sequence[int], like: Tensor) -> Tensor:
        taper = like.new_ones(())
        for axis, (a, b, n) in enumerate(zip(start, stop, sizes)):
            place = torch.arange(b - a, dtype=like.dtype, device=like.device) + 0.5
            rise = max(self.overlap - 2 * self.margin, 1)
            line = torch.ones_like(place)
            for cut, distance in ((a > 0, place), (b < n, b - a - place)):
                line = line * (((distance - self.margin) / rise).clamp(0, 1) if cut else 1)
            taper = taper * line.reshape(-1, *[1] * (len(sizes) - 1 - axis))
        return taper


def body_memory(enhancer: Enhancer, sizes: Sequence[int], items: int = 1) -> int:
    """Return the bytes of weights and of all values that a body holds at once for windows, in use (no gradients).

    Found by running a copy without memory (torch's "meta" device), on which only sizes are known; what convolutions
    need inside comes on top.

    Args:
        sizes : of the axes that the body convolves over.
    """
    weights = [*enhancer.body.parameters(), *enhancer.body.buffers()]
    kind = next((w.dtype for w in weights if w.is_floating_point()), torch.float32)
    meta = copy.deepcopy(enhancer.body).to("meta").eval()
    held = _Held()
    with torch.no_grad(), held:
        meta(torch.empty((items, enhancer.in_channels, *sizes), dtype=kind, device="meta"))
    return held.most + sum(w.numel() * w.element_size() for w in weights)


def fitting_window(
    enhancer: Enhancer, shape: Sequence[int], limit: int, *, sizes: Sequence[int] = _SIZES
) -> Windowed | None:
    """Return windows of an image (x, y, z) that take at most `limit` bytes, the largest of those sizes; None where
    none fits.

    Args:
        sizes : edges in voxels that are tried after the whole image, the largest first.
    """
    largest = max(shape[: enhancer.dimensions])
    for size in [largest, *(size for size in sizes if size < largest)]:
        windowed = Windowed(enhancer, size)
        if windowed.memory(shape) <= limit:
            return windowed
    return None


def _whole(enhancer: Enhancer, shape: Sequence[int]) -> int:
    """Bytes of the arrays of the whole image: channels, sums, weights and result."""
    return 4 * math.prod(shape) * (2 * enhancer.in_channels + 4)


class _Held(TorchDispatchMode):
    """Inside: how many bytes of tensors that operations made are alive at once, at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = operation(*args, **(kwargs or {}))
        for value in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(value, Tensor):
                self._add(value)
        return made

    def _add(self, value: Tensor) -> None:
        storage = value.untyped_storage()
        key, size = storage._cdata, value.numel() * value.element_size()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(value, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
