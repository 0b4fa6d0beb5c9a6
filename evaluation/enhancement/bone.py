"""Bone SPECT of a seventh of the time: what U2-Net gains, with and without lesion attention and CT; NEMA spheres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from emrecon import recon, sims, unrolled
from emrecon.projectors.physics import linear_attenuation

from ..sections import Interval, Picture, Section, Table, Text
from ..statistics import compare_paired, t_interval
from ..suite import Options, Results, Unit
from .images import Images, folder_for, pairs_of
from .lesions import lesions_of
from .training import enhanced, trained, validation

_LEVEL = 1 / 7
_DIAMETERS = (10, 13, 17, 22, 28, 37)
_RATIO = 12.0  # spheres to background, as published
_REALISATIONS = 8
_ROSE = 5.0  # contrast over noise from which a sphere counts as seen (Rose)
_WEIGHT = 100.0

METHODS: dict[str, tuple[str, bool, bool]] = {
    "attention": ("U2-Net lite, CT, lesion attention", True, True),
    "no-attention": ("U2-Net lite, CT, no lesion attention", True, False),
    "no-ct": ("U2-Net lite, lesion attention, no CT", False, True),
}
"""Name of the unit -> for people, whether it sees CT, and whether lesions weigh more."""


def images_of(options: Options, folder: Path | None) -> Images:
    """Return the images of the topic."""
    sizes = (240, 24, 60) if options.size == "full" else (6, 2, 3)
    recipe = sims.load_recipe("bone-spect-1-7-small")
    return Images(recipe, sizes, (_LEVEL,), 10, 6, ("ct", "lesions"), folder)


def units(options: Options) -> Sequence[Unit]:
    """Return the work: the images with those of the NEMA phantom, and three trainings."""
    about = {"size": options.size, **_training(options)}
    made = Unit("bone/images", lambda folder: _images(options, folder), arguments=about)
    return [made, *(Unit(f"bone/{name}", _of(options, name), ("bone/images",), about) for name in METHODS)]


def _training(options: Options) -> dict[str, int]:
    full = options.size == "full"
    return {"steps": 1500 if full else 4, "width": 12 if full else 2, "batch": 8 if full else 2}


def _images(options: Options, folder: Path) -> Mapping[str, Any]:
    images = images_of(options, folder_for(options, folder, "bone/images"))
    test = [images.of(split) for split in ("train", "validation", "test")][-1]
    spheres = _phantom(images)
    np.savez(folder / "nema.npz", **spheres)  # type: ignore[arg-type]
    low = {**_scores(test["low"][0], test), **_seen(spheres["low"], spheres)}
    return {"n": len(test["full"]), **low, "full": _seen(spheres["full"], spheres)}


def _of(options: Options, name: str) -> Any:
    unit, (_, ct, attention) = f"bone/{name}", METHODS[name]

    def run(folder: Path) -> Mapping[str, Any]:
        images, settings = images_of(options, folder_for(options, folder, unit)), _training(options)
        arrays, held, test = (images.of(split) for split in ("train", "validation", "test"))
        with np.load(folder.parent / "images" / "nema.npz") as file:
            spheres = {key: file[key] for key in file.files}
        with unrolled.seeded(0):
            model = unrolled.u2net(lite=True, in_channels=1 + ct, width=settings["width"])
        guides = ("ct",) if ct else ()
        loss = unrolled.WeightedSum((1.0, unrolled.l1), (0.5, unrolled.ssim_loss))
        numbers = trained(
            model,
            pairs_of(arrays, "full", guides=guides, weight=_attention if attention else None, size=settings["batch"]),
            unrolled.DeepSupervision(loss),
            validation(held, "full", guides),
            folder / "training",
            settings["steps"],
            signature=unit,
        )
        made = enhanced(model, test["low"][0], guide=test["ct"] if ct else None)
        shown = enhanced(model, spheres["low"], guide=_repeated(spheres) if ct else None)
        np.savez(folder / "nema.npz", shown=shown[0])
        return {**numbers, **_scores(made, test), **_seen(shown, spheres)}

    return run


def _attention(mask: torch.Tensor) -> torch.Tensor:
    return unrolled.lesion_weight(mask, _WEIGHT)


def _scores(images: np.ndarray, test: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """PSNR and SSIM to the image of the whole time, and errors of lesions' maxima, %, to that without noise."""
    psnr, ssim = (np.asarray(f(images, test["full"], dimensions=3)).tolist() for f in (recon.psnr, recon.ssim))
    errors = [
        float(x[inside].max() / peak - 1)
        for x, mask, clean in zip(images, test["lesions"], test["clean"])
        for _, inside, peak in lesions_of(mask, clean, 25.0)
    ]
    return {"subjects": {"psnr": psnr, "ssim": ssim}, "lesions": errors}


def _phantom(images: Images) -> dict[str, np.ndarray]:
    """OSEM images of the NEMA phantom at all counts and at the level, its CT, and the spheres."""
    simulator, grid = images.source.simulator, images.recipe.grid
    body = sims.nema_iec_body(_RATIO)
    expected = simulator.expect(body).with_counts(1e5)
    samples = {
        "expected": np.asarray(expected.total)[None],
        "background": np.broadcast_to(expected.background, expected.total.shape)[None],
        "factors": np.broadcast_to(expected.factors, expected.total.shape)[None],
        "mu": np.asarray(expected.mu)[None],
    }
    mu = body.attenuation(simulator.grid, 70.0)
    found = {"ct": (1000 * (mu / linear_attenuation("water", 70.0) - 1)).astype(np.float32)}
    for name, level in (("full", 1.0), ("low", _LEVEL)):
        parts = [images.reconstructed(samples, level, 7000 + k) for k in range(_REALISATIONS)]
        found[name] = np.concatenate(parts).reshape(_REALISATIONS, *grid.shape)
    truth = body.activity(simulator.grid)
    found["truth"] = np.asarray(truth, np.float32)
    return found


def _repeated(spheres: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.repeat(spheres["ct"][None], _REALISATIONS, 0)


def _seen(images: np.ndarray, spheres: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Contrast over noise of every sphere, the mean over realisations: (maximum - background) / its deviation."""
    grid = spheres["truth"].shape
    layout = {region.name: region for region in sims.nema_iec_body(_RATIO).regions}
    x, y = np.meshgrid(*(5.0 * (np.arange(n) - (n - 1) / 2) for n in grid[:2]), indexing="ij")
    truth = spheres["truth"][..., 0]
    hot = truth > 1.05 * np.median(truth[truth > 0])
    background = (np.abs(truth / np.median(truth[truth > 0]) - 1) < 0.02) & ~_grown(hot, 3)
    found = []
    for diameter in _DIAMETERS:
        centre = cast(sims.Ellipsoid, layout[f"sphere {diameter} mm"].shape).centre
        inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 <= max(diameter / 2, 5.0) ** 2
        planes = images[..., 0]
        levels, noise = planes[:, background].mean(1), planes[:, background].std(1)
        found.append(float(((planes[:, inside].mean(1) - levels) / noise).mean()))
    return {"contrast": found}


def _grown(mask: np.ndarray, n: int) -> np.ndarray:
    from scipy import ndimage

    grown: np.ndarray = ndimage.binary_dilation(mask, iterations=n)
    return grown


# ---- report ----------------------------------------------------------------------------------------------------------


def sections(results: Results, options: Options) -> Sequence[Section]:
    """Return fidelity, maxima of lesions and spheres, with pictures of the phantom."""
    base = results["bone/images"]
    rows: list[tuple[Any, ...]] = [("1/7 of the time", *_row(base, None))]
    rows += [(title, *_row(results[f"bone/{name}"], base)) for name, (title, _, _) in METHODS.items()]
    columns = ("image", "PSNR, dB", "gain", "SSIM", "gain", "p", "lesion maximum, % off", "|error|, %")
    note = (
        f"{base['n']} slices of the test, against the image of the whole time; maxima against the reconstruction "
        "without noise. Published: PSNR 37.7 to 40.8 dB, SSIM 0.765 to 0.788."
    )
    spheres = [("1/7 of the time", *base["contrast"]), ("the whole time", *base["full"]["contrast"])]
    spheres += [(title, *results[f"bone/{name}"]["contrast"]) for name, (title, _, _) in METHODS.items()]
    seen = Table(
        f"NEMA spheres at {_RATIO:g}:1, contrast over noise",
        ("image", *(f"{d} mm" for d in _DIAMETERS)),
        [tuple(row) for row in spheres],
        f"Mean of the sphere less that of the background over the background's deviation; seen from {_ROSE:g} on. "
        f"{_REALISATIONS} realisations.",
    )
    counted = ", ".join(f"{row[0]}: {sum(value >= _ROSE for value in row[1:])}" for row in spheres)
    parts: list[Table | Picture | Text] = [
        Table("Against the whole time", columns, rows, note),
        seen,
        Text("", (f"Spheres that are seen: {counted}.",)),
        _picture(results),
    ]
    return [Section("Bone SPECT of a seventh of the time, with CT", parts)]


def _row(found: Mapping[str, Any], base: Mapping[str, Any] | None) -> tuple[Any, ...]:
    psnr, ssim = (np.asarray(found["subjects"][name]) for name in ("psnr", "ssim"))
    errors = 100 * np.asarray(found["lesions"])
    gains: list[Interval | float | None] = [None, None, None]
    if base is not None:
        before = [np.asarray(base["subjects"][name]) for name in ("psnr", "ssim")]
        p = compare_paired(psnr.tolist(), before[0].tolist()).p
        gains = [_mean(psnr - before[0]), _mean(ssim - before[1]), p]
    return _mean(psnr), gains[0], _mean(ssim), gains[1], gains[2], _mean(errors), _mean(np.abs(errors))


def _mean(values: np.ndarray) -> Interval | None:
    return t_interval([float(v) for v in values]) if len(values) > 1 else None


def _picture(results: Results) -> Picture:
    import matplotlib.pyplot as plt

    with np.load(results.folder("bone/images") / "nema.npz") as file:
        shown = {"1/7 of the time": file["low"][0], "the whole time": file["full"][0]}
    for name, (title, _, _) in METHODS.items():
        with np.load(results.folder(f"bone/{name}") / "nema.npz") as file:
            shown[title] = file["shown"]
    figure, axes = plt.subplots(1, len(shown), figsize=(2.6 * len(shown), 2.9))
    top = float(np.quantile(shown["the whole time"], 0.999))
    for axis, (title, image) in zip(axes, shown.items()):
        axis.imshow(image[..., 0].T, cmap="gray_r", vmin=0, vmax=top)
        axis.set_axis_off()
        axis.set_title(title, fontsize=7)
    return Picture.of(figure, "The NEMA phantom")
