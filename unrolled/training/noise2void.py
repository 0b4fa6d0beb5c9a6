"""Noise2Void: voxels are hidden from a network that has to guess them, so that one noisy image is enough."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..networks.blocks import require_denoiser
from .losses import applied

_TRIES = 64  # draws before the voxels that are left to take are counted


@dataclass(frozen=True)
class Noise2Void:
    """The objective that hides single voxels from a denoiser and asks for them: the mean over hidden voxels of
    (model(hidden) - image)^2.

    Args:
        box, reach, radius : see `blind_spots`. A batch is the noisy images, a tuple with them first, or a mapping with
            them as "x" and what else the model takes, such as "guide".

    It assumes noise that is independent from voxel to voxel, of mean zero given the object. That of reconstructed
    images is not: neighbours share the noise of the bins that both lie on, and resolution models and filters spread it.
    With `radius` = 0 the network then finds a part of the noise of a hidden voxel in its neighbours and reproduces it.
    A `radius` of the length of that correlation (`noise_radius` measures it) hides the neighbours as well, at the price
    of details of that size. `ThinnedNoise2Noise` assumes nothing of this kind, and is to be preferred wherever the
    counts are at hand; this objective is for images alone.

    Source: Krull, Buchholz & Jug 2019 (boxes of 8 x 8, neighbours within 5 x 5); Broaddus et al. 2020 for masks that
    follow the correlation.
    """

    box: tuple[int, int, int] = (8, 8, 1)
    reach: int = 2
    radius: float = 0.0

    def __call__(self, model: nn.Module, batch: object, generator: torch.Generator | None = None) -> torch.Tensor:
        image, with_image = _image_of(batch)
        require_denoiser(model, "Noise2Void")
        hidden, spots = blind_spots(image, generator, self.box, self.reach, self.radius)
        return ((applied(model, with_image(hidden)) - image) ** 2)[spots].mean()


def _image_of(batch: object) -> tuple[torch.Tensor, Callable[[torch.Tensor], Any]]:
    """The noisy images of a batch, and how to put others in their place."""
    image: Any
    build: Callable[[torch.Tensor], Any]
    if isinstance(batch, Mapping):
        image, build = batch.get("x"), lambda x: {**batch, "x": x}
    elif isinstance(batch, (tuple, list)):
        image, build = (batch[0] if batch else None), lambda x: (x, *batch[1:])
    else:
        image, build = batch, lambda x: (x,)
    if not isinstance(image, torch.Tensor):
        raise TypeError(f"Noise2Void takes noisy images, tensors (..., x, y, z), got {type(image).__name__}")
    return image, build


def blind_spots(
    image: torch.Tensor,
    generator: torch.Generator | None = None,
    box: tuple[int, int, int] = (8, 8, 1),
    reach: int = 2,
    radius: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images with some voxels replaced by others, and booleans of the voxels to ask for.

    Args:
        image : (..., x, y, z).
        generator : of the random numbers (default: torch's global one on the CPU).
        box : one voxel in every box of this size is asked for, at a random place (the last boxes may reach beyond the
            image, and their voxel may be lost): (8, 8, 1) for slices, (4, 4, 4) for volumes; both ask for 1 of 64. One
            that is larger than the image is as large.
        radius : all voxels up to so far from one that is asked for are replaced with it, in voxels along the axes on
            which the box is longer than one voxel; 0 for that voxel alone. For noise that is correlated.
        reach : the new value is that of a voxel at most `radius` + `reach` away from the one that is asked for, along
            each of these axes, drawn uniformly from those inside the image that are not replaced themselves. So no
            value that is asked for is left anywhere in the image.

    Raises ValueError for a box or reach below 1, a negative radius, images without a neighbour to take, and a radius
    that leaves none in boxes of this size.
    """
    shape = tuple(image.shape[-3:])
    generator = torch.default_generator if generator is None else generator
    if len(box) != 3 or min(box) < 1 or reach < 1 or image.ndim < 3:
        raise ValueError(f"blind_spots takes images (..., x, y, z), box and reach of at least 1, got {box} and {reach}")
    if not 0 <= radius < math.inf:
        raise ValueError(f"blind_spots: the radius must be 0 or more, got {radius}")
    active = [axis for axis in range(3) if box[axis] > 1]
    if not any(shape[axis] > 1 for axis in active):
        raise ValueError(f"blind_spots: images of {shape} have no neighbours along the axes of a box {box}")
    items = image.reshape(-1, *shape)
    edges = (min(box[0], shape[0]), min(box[1], shape[1]), min(box[2], shape[2]))  # so that each item has a box inside
    asked = _places(len(items), shape, edges, generator)
    near, window = _offsets(math.floor(radius), active), _offsets(math.floor(radius) + reach, active)
    ball, window = near[(near**2).sum(1) <= radius**2], window[(window**2).sum(1) > radius**2]
    spots, hidden = torch.zeros(items.shape, dtype=torch.bool), torch.zeros(items.shape, dtype=torch.bool)
    spots[tuple(asked.T)] = True
    all_of_balls = _moved(asked, ball, shape)
    hidden[tuple(all_of_balls.places.T)] = True
    centres = asked[all_of_balls.owner]
    source = _sources(centres, window, hidden, shape, generator)
    result = items.clone()
    places, taken = (tuple(index.to(image.device).T) for index in (all_of_balls.places, source))
    result[places] = items[taken]
    return result.reshape(image.shape), spots.reshape(image.shape).to(image.device)


def noise_radius(first: torch.Tensor, second: torch.Tensor, *, below: float = 0.2) -> float:
    """Return how far noise is correlated in images, in voxels: the largest distance with a correlation of `below`.

    The difference of two images of independent parts of a scan (`thinned`, reconstructed alike) holds noise alone. Its
    autocorrelation, averaged over items, is looked at along x, y and z, and the longest of the three counts.

    Args:
        first, second : (..., x, y, z).

    Raises ValueError for images that are the same.
    """
    noise = (first - second).detach().to(torch.float64).reshape(-1, *first.shape[-3:])
    if not bool(noise.any()):
        raise ValueError("noise_radius: both images are the same, and so hold no noise; are they of independent parts?")
    longest = 0
    for axis in (1, 2, 3):
        n = noise.shape[axis]
        variance = (noise**2).mean()
        for distance in range(1, n // 2):
            a, b = noise.narrow(axis, 0, n - distance), noise.narrow(axis, distance, n - distance)
            if abs(float((a * b).mean() / variance)) < below:
                break
            longest = max(longest, distance)
    return float(longest)


@dataclass(frozen=True)
class _Moved:
    """Voxels around others, (n, 4) of item, x, y, z, and whose they are."""

    places: torch.Tensor
    owner: torch.Tensor


def _places(n: int, shape: tuple[int, ...], box: tuple[int, int, int], generator: torch.Generator) -> torch.Tensor:
    """One random voxel of every box of every item, those inside the image, (n, 4)."""
    grid = (n, *(math.ceil(size / edge) for size, edge in zip(shape, box)))
    corner = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
    drawn = [
        torch.floor(torch.rand(grid, generator=generator, device=generator.device) * box[axis]).long().cpu()
        for axis in range(3)
    ]
    spots = torch.stack([corner[0], *(corner[a + 1] * box[a] + drawn[a] for a in range(3))], -1).reshape(-1, 4)
    return spots[(spots[:, 1:] < torch.tensor(shape)).all(1)]


def _offsets(reach: int, active: list[int]) -> torch.Tensor:
    """All offsets within a box of so many voxels each way along the active axes, (n, 3)."""
    alone, side = torch.zeros(1, dtype=torch.long), torch.arange(-reach, reach + 1)
    return torch.cartesian_prod(*(side if axis in active else alone for axis in range(3))).reshape(-1, 3)


def _moved(at: torch.Tensor, offsets: torch.Tensor, shape: tuple[int, ...]) -> _Moved:
    """The voxels at all offsets from all places, without those outside the image and without repetitions."""
    owner = torch.arange(len(at)).repeat_interleave(len(offsets))
    places = at[owner].clone()
    places[:, 1:] += offsets.repeat(len(at), 1)
    inside = _inside(places, shape)
    places, owner = places[inside], owner[inside]
    if len(offsets) == 1:
        return _Moved(places, owner)
    nx, ny, nz = shape
    key = ((places[:, 0] * nx + places[:, 1]) * ny + places[:, 2]) * nz + places[:, 3]
    order = torch.argsort(key, stable=True)  # where balls touch, a voxel belongs to the first
    first = torch.ones(len(order), dtype=torch.bool)
    first[1:] = key[order][1:] != key[order][:-1]
    chosen = order[first]
    return _Moved(places[chosen], owner[chosen])


def _inside(places: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return ((places[:, 1:] >= 0) & (places[:, 1:] < torch.tensor(shape))).all(1)


def _sources(
    centres: torch.Tensor,
    window: torch.Tensor,
    hidden: torch.Tensor,
    shape: tuple[int, ...],
    generator: torch.Generator,
) -> torch.Tensor:
    """For every voxel the place of its new value: uniform over the window around its centre that can be taken."""
    found, left = centres.clone(), torch.arange(len(centres))
    for _ in range(_TRIES):
        if not len(left):
            return found
        drawn = torch.rand(len(left), generator=generator, device=generator.device).cpu()
        places = centres[left].clone()
        places[:, 1:] += window[(drawn * len(window)).long()]
        good = _inside(places, shape)
        good[good.clone()] = ~hidden[tuple(places[good].T)]
        found[left[good]] = places[good]
        left = left[~good]
    for k in left.tolist():  # nearly everything around is hidden
        places = centres[k].repeat(len(window), 1)
        places[:, 1:] += window
        places = places[_inside(places, shape)]
        places = places[~hidden[tuple(places.T)]]
        if not len(places):
            raise ValueError(
                "blind_spots: around a voxel everything is hidden, and no value is left to take; use larger boxes or a "
                "smaller radius"
            )
        drawn = torch.rand((), generator=generator, device=generator.device)
        found[k] = places[int(drawn * len(places))]
    return found
