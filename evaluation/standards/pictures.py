"""Pictures of the standards: phantom slices with their regions, curves of count rates, points, floods, organs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from emrecon.projectors import ImageGrid
from emrecon.recon import ImageQualityLayout
from emrecon.sims import nema_layout

from .spect_tomography import sphere_layout

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def body_phantom(folder: Path, numbers: Mapping[str, Any]) -> Figure:
    """Draw the slice through the spheres, true and reconstructed, with the regions of spheres and background."""
    grid = _grid(numbers["shape"], numbers["voxel_size"])
    with np.load(folder / "images.npz") as kept:
        images = {"true": kept["truth"], **{f"OSEM, iteration {k}": kept[k] for k in _two(kept.files)}}
    figure = _figure(12.5, 3.4)
    layout = ImageQualityLayout(**nema_layout())
    axes = figure.subplots(1, len(images))
    for axis, (title, image) in zip(axes, images.items()):
        shown = _slice(axis, image / numbers["level"], grid, 0.0, (0, 4.4), title)
        _discs(axis, layout.centres[:, :2], layout.diameters, "C3")
        _discs(axis, layout.background_centres, np.full(12, 37.0), "C0")
        _discs(axis, [layout.lung_centre or (0, 0)], [layout.lung_diameter], "C2")
    figure.colorbar(shown, ax=axes, label="activity / background", shrink=0.8)
    return figure


def contrast_noise(numbers: Mapping[str, Any]) -> Figure:
    """Draw contrast over background variability, from iteration to iteration."""
    figure = _figure(5.6, 3.8)
    axis = figure.subplots()
    images = numbers["images"]
    for k, sphere in enumerate(images[0]["spheres"]):
        points = [[image["spheres"][k][name] for name in ("variability", "contrast")] for image in images]
        axis.plot(*np.transpose(points), "-o", markersize=3, label=f"{sphere['diameter']:g} mm")
    axis.set(xlabel="background variability (%)", ylabel="contrast (%)", ylim=(0, 100), xlim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    return figure


def rates(numbers: Mapping[str, Any]) -> Figure:
    """Draw rates over activity, as found by the test and as they were, and the errors of the corrections."""
    figure = _figure(11.5, 3.6)
    left, right = figure.subplots(1, 2)
    x, found, true = numbers["activity"], numbers["by_delayed"], numbers["true"]
    for k, name in enumerate(("trues", "scatter", "randoms")):
        left.plot(x, np.divide(true[name], 1000), color=f"C{k}", label=f"{name}, as they were")
        left.plot(x, np.divide(found[name], 1000), "o", color=f"C{k}", markersize=4, label=f"{name}, by the test")
    left.plot(x, np.divide(found["noise_equivalent"], 1000), "-k", label="noise equivalent")
    left.axvline(numbers["peak"]["activity"], color="0.7", linewidth=0.8)
    left.set(xlabel="kBq/mL", ylabel="1000 counts/s", ylim=(0, 1.3 * max(true["trues"]) / 1000), xlim=(0, None))
    left.legend(frameon=False, fontsize=7)
    errors = numbers["errors"]
    right.fill_between(x, errors["lowest"], errors["highest"], color="0.85", label="slices, lowest to highest")
    right.plot(x, errors["mean"], "-o", markersize=3, label="mean of the slices")
    right.axvline(numbers["peak"]["activity"], color="0.7", linewidth=0.8)
    right.axhline(0, color="k", linewidth=0.6)
    right.set(xlabel="kBq/mL", ylabel="error of the corrections (%)", xlim=(0, None))
    right.legend(frameon=False, fontsize=8)
    return figure


def timing(folder: Path) -> Figure:
    """Draw the timing errors."""
    with np.load(folder / "rates.npz") as kept:
        histogram = kept["timing"]
    figure = _figure(5.0, 3.2)
    axis = figure.subplots()
    axis.step(np.arange(len(histogram)) * 15.0 - 1500.0, histogram, where="mid")
    axis.set(xlabel="timing error (ps)", ylabel="coincidences in 15 ps", xlim=(-900, 900))
    return figure


def slice_sensitivity(numbers: Mapping[str, Any]) -> Figure:
    """Draw the sensitivity of every slice."""
    figure = _figure(5.6, 3.2)
    axis = figure.subplots()
    for place, found in numbers["places"].items():
        axis.plot(found["slices"], label=f"{float(place) / 10:g} cm from the axis")
    axis.set(xlabel="slice", ylabel="counts/s/kBq", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)
    return figure


def pet_points(folder: Path, radii: Sequence[float]) -> Figure:
    """Draw the images of points at three distances from the axis."""
    with np.load(folder / "points.npz") as kept:
        images = kept["images"]
    figure = _figure(8.0, 2.8)
    half = images.shape[1] // 2 * 0.8
    for axis, image, radius in zip(figure.subplots(1, len(images)), images, radii):
        axis.imshow(image.T, cmap="gray_r", vmin=0, extent=(-half, half, half, -half))
        axis.set_title(f"{radius / 10:g} cm from the axis", fontsize=9)
        axis.set(xlabel="mm", xticks=(-20, 0, 20), yticks=(-20, 0, 20))
    return figure


def floods(folder: Path) -> Figure:
    """Draw the floods with UFOV and CFOV."""
    figure = _figure(8.5, 3.0)
    for axis, (name, title) in zip(figure.subplots(1, 2), (("noise", "noise alone"), ("tubes", "tubes of 1.5 %"))):
        with np.load(folder / f"{name}.npz") as kept:
            image, fields = kept["image"], (kept["ufov"], kept["cfov"])
        mean = image.mean()
        axis.imshow(image.T / mean, cmap="gray", vmin=0.97, vmax=1.03)
        for field, colour in zip(fields, ("C0", "C3")):
            axis.contour(field.T, levels=[0.5], colors=colour, linewidths=1)
        axis.set_title(title, fontsize=9)
        axis.set(xticks=[], yticks=[])
    return figure


def spect_points(folder: Path) -> Figure:
    """Draw the largest values along z of the three points."""
    with np.load(folder / "points.npz") as kept:
        image, size = kept["image"], float(kept["size"])
    half = image.shape[0] / 2 * size
    figure = _figure(3.8, 3.4)
    axis = figure.subplots()
    axis.imshow(image.T, cmap="gray_r", vmin=0, extent=(-half, half, half, -half))
    axis.set(xlabel="mm")
    return figure


def cold_spheres(folder: Path, voxel: float) -> Figure:
    """Draw the Jaszczak phantom's slices of spheres, background and rods, with the regions."""
    with np.load(folder / "image.npz") as kept:
        truth, image = kept["truth"], kept["image"]
    grid = _grid(image.shape, (voxel,) * 3)
    level = float(np.median(image[truth > 0.9 * truth.max()]))
    layout = sphere_layout()
    figure = _figure(11.0, 3.6)
    axes = figure.subplots(1, 3)
    for axis, z, title in zip(axes, (34.0, 9.0, -50.0), ("spheres", "background", "rods")):
        shown = _slice(axis, image / level, grid, z, (0, 1.4), title)
        if title == "spheres":
            _discs(axis, layout.centres[:, :2], layout.diameters, "C3")
        if title == "background":
            _discs(axis, layout.background_centres, np.full(12, layout.diameters.max()), "C0")
    figure.colorbar(shown, ax=axes, label="activity / background", shrink=0.8)
    return figure


def recovery(numbers: Mapping[str, Any]) -> Figure:
    """Draw recovery over volume."""
    figure = _figure(5.6, 3.6)
    axis = figure.subplots()
    volumes = [sphere["volume"] for sphere in numbers["spheres"]]
    for way in ("tew", "esse"):
        axis.semilogx(volumes, [sphere[way] for sphere in numbers["spheres"]], "-o", markersize=4, label=way.upper())
    axis.axhline(1, color="0.6", linewidth=0.8)
    axis.set(xlabel="volume (mL)", ylabel="recovery coefficient", ylim=(0, 1.1))
    axis.legend(frameon=False)
    return figure


def patient(folder: Path, size: float, origin: Sequence[float]) -> Figure:
    """Draw coronal and transverse slices through the kidneys, true and reconstructed, in MBq/mL."""
    with np.load(folder / "image.npz") as kept:
        images = {"true": kept["truth"], **{way.upper(): kept[way] for way in ("tew", "esse") if way in kept.files}}
    figure = _figure(10.5, 5.0)
    axes = np.atleast_2d(figure.subplots(2, len(images)))
    shape = next(iter(images.values())).shape
    x, y, z = (o + size * np.arange(n) for o, n in zip(origin, shape))
    j, k = int(np.abs(y - 46).argmin()), int(np.abs(z + 46).argmin())
    for column, (title, image) in zip(axes.T, images.items()):
        for axis, part, up in zip(column, (image[:, j], image[:, :, k]), ((z, -1), (y, 1))):
            extent = (x[0], x[-1], *(up[0][[0, -1]] if up[1] < 0 else up[0][[-1, 0]]))
            origin_at = "lower" if up[1] < 0 else "upper"
            shown = axis.imshow(part.T / 1e6, cmap="gray_r", vmin=0, vmax=0.9, extent=extent, origin=origin_at)
            axis.set(xticks=[], yticks=[])
        column[0].set_title(title, fontsize=9)
    figure.colorbar(shown, ax=axes, label="MBq/mL", shrink=0.7)
    return figure


def _two(names: Sequence[str]) -> list[str]:
    """Return an early and the last of the iterations that were kept."""
    numbers = sorted(int(name) for name in names if name.isdigit())
    chosen = sorted({numbers[min(2, len(numbers) - 1)], numbers[-1]})
    return [str(number) for number in chosen]


def _grid(shape: Sequence[int], size: Sequence[float]) -> ImageGrid:
    (nx, ny, nz), (dx, dy, dz) = shape, size
    return ImageGrid((int(nx), int(ny), int(nz)), (float(dx), float(dy), float(dz)))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _slice(axis: Axes, image: np.ndarray, grid: ImageGrid, z: float, limits: tuple[float, float], title: str) -> Any:
    k = round((z - grid.origin[2]) / grid.voxel_size[2])
    x, y = ((o - d / 2, o + d * (n - 0.5)) for o, d, n in zip(grid.origin, grid.voxel_size, grid.shape[:2]))
    axis.set_title(title, fontsize=9)
    axis.set(xticks=[], yticks=[])
    return axis.imshow(image[:, :, k].T, cmap="gray_r", vmin=limits[0], vmax=limits[1], extent=(*x, *y[::-1]))


def _discs(axis: Axes, centres: Any, diameters: Any, colour: str) -> None:
    from matplotlib.patches import Circle

    for (x, y), diameter in zip(centres, diameters):
        axis.add_patch(Circle((x, y), diameter / 2, fill=False, edgecolor=colour, linewidth=0.8))
