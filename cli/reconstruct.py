"""`emrecon reconstruct`: from a file of projections to an image."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from emrecon import formats
from emrecon.projectors import PETSinogram, Scan, SPECTGeometry, SPECTProjector, isotope
from emrecon.projectors.core.arrays import to_numpy
from emrecon.recon import Checkpoint, Iterate, Log, PoissonLikelihood, ProgressBar, RelativeChange, run

from . import learned, methods, options, pet
from .figures import save_orthoviews
from .outputs import check_outputs, writing


def reconstruct(
    projections: Annotated[
        Path,
        typer.Argument(
            help="Interfile header of SPECT projections or a PET sinogram (.hs, .hdr, .h00 ...), header of PETLINK "
            "list-mode (.l.hdr), or emrecon HDF5 file."
        ),
    ],
    mu: Annotated[Path | None, typer.Option(help="Attenuation map in 1/cm: NIfTI, HDF5 or Interfile image.")] = None,
    mu_cylinder: Annotated[
        str | None, typer.Option(metavar="RADIUS:MU", help="Uniform cylinder around the axis instead: mm and 1/cm.")
    ] = None,
    collimator: Annotated[str | None, typer.Option(help="Collimator by name, such as siemens-lehr.")] = None,
    response: Annotated[
        str | None,
        typer.Option(metavar="SLOPE,INTERCEPT", help="Width of a point instead: sigma = slope d + intercept, mm."),
    ] = None,
    energy: Annotated[
        float | None, typer.Option(help="Photon energy in keV (default: the radionuclide's, or Tc-99m's).")
    ] = None,
    intrinsic: Annotated[
        float | None, typer.Option(help="Intrinsic resolution, FWHM in mm (default: 3.8 at 140 keV).")
    ] = None,
    background: Annotated[
        float | None,
        typer.Option(
            help="Expected scatter in every bin, counts (default: the file's); a little of it keeps counts explained."
        ),
    ] = None,
    norm: Annotated[Path | None, typer.Option(help="PET: Siemens normalisation header (.n.hdr).")] = None,
    psf: Annotated[float | None, typer.Option(help="PET: resolution in the image, FWHM in mm.")] = None,
    max_ring_difference: Annotated[
        int | None, typer.Option(help="PET list-mode: leave out events of more oblique planes.")
    ] = None,
    voxel: Annotated[float | None, typer.Option(help="Voxel size in mm (default: the bins').")] = None,
    method: Annotated[
        str,
        typer.Option(
            help="osem, map-em, bsrem, svrg, saga, osl, lbfgsb, spdhg, pdhg or kem; "
            f"networks: {', '.join(learned.METHODS)}."
        ),
    ] = "osem",
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|NAME",
            help="Networks: trained weights, a file (.safetensors, with its card) or a name of those that come with "
            f"emrecon: {', '.join(learned.PRETRAINED)}.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(help="dip-recon, dip-ot: unet (default), or chain, a small one for slices with few counts."),
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            metavar="NAME:BETA,...",
            help=f"Prior of the other methods: {methods.known_priors()}; "
            "DELTA and EPSILON in the unit of the image, WIDTH and ETA in the guide's.",
        ),
    ] = None,
    guide: Annotated[
        list[Path] | None,
        typer.Option(
            help="Image (MR, CT ...) that bowsher, dtv, non-local, kem and networks follow; repeat for networks that "
            "were trained with several, in that order."
        ),
    ] = None,
    neighbours: Annotated[
        int | None, typer.Option(help="Prior on pairs: 6, 18 or 26 neighbours of a voxel (default: 26).")
    ] = None,
    kappa: Annotated[
        bool, typer.Option("--kappa", help="Prior on pairs: as strong as the data are, for even resolution.")
    ] = False,
    kernel: Annotated[
        str | None,
        typer.Option(metavar="K,WINDOW,SIGMA", help="kem: neighbours, of a box (voxels), how alike (default: 48,7,1)."),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(help="Of the subsets: sequential, staggered, cofactor or random[:SEED] (default: the method's)."),
    ] = None,
    subsets: Annotated[
        int | None,
        typer.Option(min=1, help="Ordered subsets; 1 is MLEM (default: 8; dip-recon, dip-ot 1; networks their own)."),
    ] = None,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Passes over the data (default: 4; dip-recon 100, dip-ot 60).")
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Stop early when the image changes by less than this.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Image to write: .nii, .nii.gz, .h5 or .hv.")] = Path("image.nii.gz"),
    picture: Annotated[Path | None, typer.Option(help="PNG with three views of the image.")] = None,
    log: Annotated[Path | None, typer.Option(help=".csv or .json with iteration, seconds and objective.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="File to save every iteration in, and to go on from.")] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    header: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Replace a value of the header; repeat.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Reconstruct SPECT or PET data, with attenuation and resolution where they are given: OSEM, or with a prior.

    All methods but OSEM and networks start from one pass of it. PET list-mode: randoms are estimated from the delays,
    and subsets are those of the events' views.
    """
    console, guides = Console(quiet=quiet, soft_wrap=True), guide or []
    how = methods.choose(
        method, prior, order=order, n_guides=len(guides), neighbours=neighbours, kappa=kappa, kernel=kernel
    )
    trained = learned.load(method, weights, len(guides))
    deep = learned.deep_network(method, network)
    if trained is not None:
        unused = {
            "--subsets": subsets,
            "--iterations": iterations,
            "--tolerance": tolerance,
            "--checkpoint": checkpoint,
        }
        learned.refuse(method, {**unused, "--log": log})
    subsets, iterations = _numbers(method, trained, subsets, iterations)
    values, listmode = options.header_values(header or []), _is_listmode(projections)
    events = formats.read_petlink(projections, **values) if listmode else None
    inputs = (projections, mu, norm, *guides, trained.path if trained else None, events.path if events else None)
    check_outputs(out, picture, log, checkpoint, inputs=inputs)
    _check_device(device)
    on = learned.torch_device(device) if method in learned.METHODS else None
    chosen = pet.Options(mu, mu_cylinder, norm, psf, max_ring_difference, voxel, subsets, background)
    kind = "PET"
    if events is not None:
        problem = pet.from_events(events, chosen)
    else:
        scan = formats.read_scan(projections, **values)
        if background is not None:
            scan = replace(scan, background=background)
        if subsets > scan.geometry.n_views:
            raise typer.BadParameter(f"the scan has only {scan.geometry.n_views} views", param_hint="--subsets")
        if isinstance(scan.geometry, PETSinogram):
            _refuse(("--collimator", collimator), ("--response", response), ("--energy", energy), why="for SPECT")
            problem = pet.from_sinogram(scan, scan.geometry, chosen)
        else:
            _refuse(("--norm", norm), ("--psf", psf), ("--max-ring-difference", max_ring_difference), why="for PET")
            keV = energy if energy is not None else isotope(scan.radionuclide or "Tc-99m").main_energy
            blur = options.response(collimator, response, keV, intrinsic)
            problem, kind = _camera_problem(scan, scan.geometry, voxel, mu, mu_cylinder, blur, subsets), "SPECT"
    console.print(problem.summary, highlight=False, markup=False)
    learned.check(method, trained, problem.grid)
    for warning in learned.notes(trained, problem.grid, kind):
        console.print(f"[yellow]note:[/] {warning}", highlight=False)
    shown = options.guide(guides, problem.grid)
    signature = f"{problem.signature}, {how}{f' {deep}' if deep else ''}, guide {pet.digest(shown)}"
    keeper = None if checkpoint is None else Checkpoint(checkpoint, signature=signature)
    begun = time.perf_counter()
    if on is not None:
        prepared = learned.prepare(
            method, trained, problem.parts, shown, on, lambda x: _saved(keeper, iterations, x), deep
        )
        engine: methods.Engine | learned.Engine = prepared
        done = engine.at.iteration
    else:
        saved = _saved(keeper, iterations)
        done = saved.iteration if saved else 0
        if not saved and how.name != "osem":
            console.print(f"starting from one pass of OSEM with {subsets} subsets")
        start, at = _to_device(problem.start, device), _moved(saved, device)
        engine = methods.prepare(how, problem.parts, problem.grid, shown, start, at)
    if done:
        console.print(f"going on after iteration {done}")
    callbacks: list[Any] = [] if quiet else [ProgressBar(iterations - done, engine.objective)]
    callbacks += [Log(log, engine.objective, resume=done > 0)] if log else []
    callbacks += [keeper] if keeper else []
    callbacks += [RelativeChange(tolerance)] if tolerance is not None else []
    last = _iterate(engine, iterations, callbacks)
    seconds = time.perf_counter() - begun
    console.print(f"{engine}, {_passes(last.iteration)}, {seconds:.1f} s", highlight=False, markup=False)
    with writing():
        formats.write_image(out, last.image, problem.grid)
        if picture is not None:
            save_orthoviews(picture, last.image, problem.grid, title=projections.name)
    console.print(f"wrote {out}" + (f" and {picture}" if picture is not None else ""), highlight=False)


def _numbers(
    method: str, trained: learned.Trained | None, subsets: int | None, iterations: int | None
) -> tuple[int, int]:
    """The numbers of subsets and of iterations, asked for or usual."""
    if trained is not None:
        return 1, 1  # the network divides the scan itself
    deep = method in learned.DEEP_PRIORS
    return subsets or (1 if deep else 8), iterations or learned.DEEP_PRIORS.get(method, 4)


def _saved(keeper: Checkpoint | None, iterations: int, like: Any = None) -> Iterate | None:
    """Where an earlier run got to, unless that is further than this one is to go; arrays are those of `like`."""
    saved = keeper.load(like) if keeper else None
    if keeper and saved and saved.iteration > iterations:
        raise typer.BadParameter(f"{keeper.path} has {saved.iteration} behind it already", param_hint="--iterations")
    return saved


def _iterate(engine: methods.Engine | learned.Engine, iterations: int, callbacks: list[Any]) -> Iterate:
    """Go on until `iterations` are done in all; return the last iterate, with its image on the host."""
    last = engine.at
    if last.iteration < iterations:
        seen: deque[Iterate] = deque(maxlen=1)
        run(engine.iterates(), iterations - last.iteration, seen.append, *callbacks)
        last = seen[0]
    return last._replace(image=to_numpy(last.image))


def _passes(n: int) -> str:
    return "1 pass" if n == 1 else f"{n} passes"


def _is_listmode(path: Path) -> bool:
    return path.suffix.lower() not in (".h5", ".hdf5") and formats.is_petlink(path)


def _refuse(*given: tuple[str, Any], why: str) -> None:
    """Options that make no sense for these data are an error, not ignored."""
    for name, value in given:
        if value is not None:
            raise typer.BadParameter(f"is {why} data only", param_hint=name)


def _camera_problem(
    scan: Scan,
    camera: SPECTGeometry,
    voxel: float | None,
    mu: Path | None,
    mu_cylinder: str | None,
    blur: Any,
    subsets: int,
) -> pet.Problem:
    """What to reconstruct from SPECT projections."""
    grid = options.cubes(scan.default_grid(), voxel)
    system = SPECTProjector(grid, camera, options.attenuation(mu, mu_cylinder, grid), blur)
    likelihood = PoissonLikelihood(scan, scan.model(system))
    parts = [likelihood.subset(k, subsets) for k in range(subsets)]
    signature = _signature(scan, camera, system, subsets)
    return pet.Problem(parts, grid, str(system), signature, system.ones_image())


def _signature(scan: Scan, geometry: SPECTGeometry, system: SPECTProjector, subsets: int) -> str:
    """What must be the same when a run goes on: every number that shapes the image."""
    orbit = (geometry.angles, geometry.radius, geometry.shift, np.array([geometry.axial_shift, *geometry.pixel_size]))
    content = pet.digest(scan.counts, scan.background, scan.factors, system.attenuation, system.grid.affine, *orbit)
    return f"{system!r}, {system.response}, {subsets} subsets, contents {content}"


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise typer.BadParameter('must be "cpu" or "cuda"', param_hint="--device")
    _to_device(np.zeros(1, np.float32), device)


def _moved(at: Iterate | None, device: str) -> Iterate | None:
    """A saved iterate with all its arrays on the device; what an engine counts stays on the host."""
    if at is None:
        return None
    state = {name: _to_device(value, device) if value.ndim else value for name, value in at.state.items()}
    return Iterate(at.iteration, _to_device(at.image, device), state)


def _to_device(image: np.ndarray, device: str) -> Any:
    if device == "cpu":
        return image
    from emrecon.projectors.core.cuda import import_cupy

    return import_cupy().asarray(image)
