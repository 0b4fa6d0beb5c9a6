"""The command: its options by panel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from emrecon.recon import METHODS
from emrecon.recon.methods import known_priors

from .. import learned, options
from .config import read_config
from .running import run
from .settings import DataTable, MethodTable, OutputTable, PhysicsTable, QuantityTable, RunTable, Settings

DATA, PHYSICS, QUANTITY, METHOD, OUTPUT, RUN = "Data", "Physics", "Quantity", "Method", "Output", "Run"


def _take_from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Make what a file sets the defaults of the options that follow."""
    if path is not None:
        context.default_map = {**(context.default_map or {}), **read_config(path)}
    return path


def reconstruct(
    projections: Annotated[
        Path,
        typer.Argument(
            help="SPECT: DICOM NM file or folder; SPECT or PET sinogram: Interfile header (.hs, .hdr, .h00 ...) or "
            "emrecon HDF5 file; header of PETLINK list-mode (.l.hdr); or `projections` in --config."
        ),
    ],
    header: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=DATA, metavar="NAME=VALUE", help="Replace a value of the header; repeat."),
    ] = None,
    max_ring_difference: Annotated[
        int | None,
        typer.Option(rich_help_panel=DATA, help="PET list-mode: leave out events of more oblique planes."),
    ] = None,
    beds: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=DATA,
            help="Several bed positions: stitched (default), each alone and added by sensitivity, or joint, all in one "
            "likelihood.",
        ),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(rich_help_panel=DATA, help="Dynamic scans: each frame (default), a 4-D image, or summed."),
    ] = None,
    gates: Annotated[
        str | None, typer.Option(rich_help_panel=DATA, help="Gated scans: each gate (default), a 4-D image, or summed.")
    ] = None,
    mu: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            help="Folder of a CT (DICOM), or one of its files: converted at the energy of the photons and put where it "
            "belongs. Or an attenuation map in 1/cm: NIfTI, HDF5 or Interfile image.",
        ),
    ] = None,
    mu_series: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            metavar="NUMBER|UID",
            help="CT series, where the folder of --mu holds several.",
        ),
    ] = None,
    mu_unit: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            metavar="1/cm|1/mm|hu",
            help="Unit of --mu, such as hu for a CT as NIfTI (default: hu for a CT, else 1/cm).",
        ),
    ] = None,
    mu_kvp: Annotated[
        float | None,
        typer.Option(rich_help_panel=PHYSICS, help="Tube voltage of the CT in kV (default: the file's)."),
    ] = None,
    mu_shift: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            metavar="X,Y,Z",
            help="Move --mu by so many mm to the left, back and head of the patient.",
        ),
    ] = None,
    mu_remove_bed: Annotated[
        bool,
        typer.Option(
            "--mu-remove-bed/--mu-keep-bed",
            rich_help_panel=PHYSICS,
            help="Take everything on the CT besides the body for air.",
        ),
    ] = False,
    mu_cylinder: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            metavar="RADIUS:MU",
            help="Uniform cylinder around the axis instead: mm and 1/cm.",
        ),
    ] = None,
    collimator: Annotated[
        str | None,
        typer.Option(rich_help_panel=PHYSICS, help="SPECT: collimator by name, or none (default: the file's)."),
    ] = None,
    response: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            metavar="SLOPE,INTERCEPT",
            help="SPECT: width of a point instead: sigma = slope d + intercept, mm.",
        ),
    ] = None,
    energy: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            help="SPECT: photon energy in keV (default: the radionuclide's line inside the energy window).",
        ),
    ] = None,
    intrinsic: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PHYSICS, help="SPECT: intrinsic resolution, FWHM in mm (default: 3.8 at 140 keV)."
        ),
    ] = None,
    background: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            help="Expected scatter in every bin, counts (default: the file's). With a background of 0, counts that no "
            "line of the image explains count for nothing, and are an error where they are many.",
        ),
    ] = None,
    norm: Annotated[
        Path | None, typer.Option(rich_help_panel=PHYSICS, help="PET: Siemens normalisation header (.n.hdr).")
    ] = None,
    multiplicative: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            help="Factor m of every bin (normalisation x attenuation, SIRF's mult_factors): Interfile or HDF5 with the "
            "bins of the data; expected counts are m (A x + additive) + randoms + scatter + background.",
        ),
    ] = None,
    additive: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=PHYSICS, help="Additive term of every bin, before the factors (SIRF's additive_term)."
        ),
    ] = None,
    randoms: Annotated[
        Path | None, typer.Option(rich_help_panel=PHYSICS, help="PET sinograms: expected randoms of every bin, counts.")
    ] = None,
    scatter: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            metavar="METHOD|FILE",
            help="SPECT: tew or dew, from the energy windows beside the photopeak (tew:LOWER,UPPER names them), esse, "
            "from the image, with --mu, or none (default: tew where there are windows on both sides). PET "
            "sinograms: sss, single scatter simulation, with --mu (sss:plane|segment|all|none says what shares a scale "
            "in the tails). Or a file with the expected scatter of every bin, counts.",
        ),
    ] = None,
    peak: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            metavar="NAME|KEV|LOW-HIGH",
            help="SPECT: photopeak among several energy windows (default: that of the radionuclide's strongest line).",
        ),
    ] = None,
    scatter_smoothing: Annotated[
        float | None,
        typer.Option(rich_help_panel=PHYSICS, help="tew, dew: smooth the estimate in each view, FWHM in mm."),
    ] = None,
    dew_k: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            metavar="K[:counts|kev]",
            help="dew: scatter in the photopeak over counts in the scatter window, or over counts per keV "
            "(default: 0.5:counts).",
        ),
    ] = None,
    energy_resolution: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PHYSICS,
            help="esse, sss: FWHM at the photons' energy as a fraction (default: 0.099 at 140.5 keV; the scanner's).",
        ),
    ] = None,
    psf: Annotated[
        float | None, typer.Option(rich_help_panel=PHYSICS, help="PET: resolution in the image, FWHM in mm.")
    ] = None,
    voxel: Annotated[
        float | None, typer.Option(rich_help_panel=PHYSICS, help="Voxel size in mm (default: the bins').")
    ] = None,
    unit: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=QUANTITY,
            metavar="counts|bq/ml|suv",
            help="Unit of the image (default: bq/ml with a calibration, else counts).",
        ),
    ] = None,
    calibration: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=QUANTITY,
            help="SPECT: counts/s/MBq of one head in air (default: the file's). PET: Bq/mL for one unit of the image "
            "per second and emission.",
        ),
    ] = None,
    calibration_phantom: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=QUANTITY,
            metavar="FILE:MBQ[,at=TIME]",
            help="Find it: planar or SPECT scan of a source in air of so many MBq, or an image in counts of a phantom "
            "(then with ,seconds=S per view, of the scan for PET). at= says when it was that many, started= when the "
            "scan began.",
        ),
    ] = None,
    dead_time: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=QUANTITY,
            metavar="SECONDS[:KIND]",
            help="SPECT: dead time of a head for the counts of all recorded windows; paralysable (default) or "
            "nonparalysable.",
        ),
    ] = None,
    view_decay: Annotated[
        bool | None,
        typer.Option(
            "--view-decay/--no-view-decay",
            rich_help_panel=QUANTITY,
            help="SPECT: model the decay from view to view (default: for bq/ml and suv).",
        ),
    ] = None,
    timed_factors: Annotated[
        bool | None,
        typer.Option(
            "--timed-factors/--no-timed-factors",
            rich_help_panel=QUANTITY,
            help="SPECT: whether the scan's own factors hold the seconds of a view, where they do not tell.",
        ),
    ] = None,
    decay_to: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=QUANTITY,
            metavar="start|injection|none|TIME",
            help="Moment that the activity is of (default: start of the scan; none: the mean during it).",
        ),
    ] = None,
    started_at: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=QUANTITY, metavar="TIME", help="When the scan began, such as 2026-01-31T10:15:00."
        ),
    ] = None,
    injected_at: Annotated[
        str | None, typer.Option(rich_help_panel=QUANTITY, metavar="TIME", help="When the tracer was injected.")
    ] = None,
    injected: Annotated[
        float | None, typer.Option(rich_help_panel=QUANTITY, help="suv: injected activity in MBq, at that time.")
    ] = None,
    weight: Annotated[
        float | None, typer.Option(rich_help_panel=QUANTITY, help="suv: weight of the patient in kg.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(rich_help_panel=METHOD, help=f"{', '.join(METHODS)}; networks: {', '.join(learned.METHODS)}."),
    ] = "osem",
    prior: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=METHOD,
            metavar="NAME:BETA,...",
            help=f"Prior of the methods without a network: {known_priors()}; "
            "DELTA and EPSILON in the unit of the image, WIDTH and ETA in the guide's.",
        ),
    ] = None,
    guide: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=METHOD,
            help="Image (MR, CT ...) that bowsher, dtv, non-local, kem and networks follow; repeat for networks that "
            "were trained with several, in that order.",
        ),
    ] = None,
    neighbours: Annotated[
        int | None,
        typer.Option(rich_help_panel=METHOD, help="Prior on pairs: 6, 18 or 26 neighbours of a voxel (default: 26)."),
    ] = None,
    kappa: Annotated[
        bool,
        typer.Option(
            "--kappa/--no-kappa",
            rich_help_panel=METHOD,
            help="Prior on pairs: as strong as the data are, for even resolution.",
        ),
    ] = False,
    kernel: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=METHOD,
            metavar="K,WINDOW,SIGMA",
            help="kem: neighbours, of a box (voxels), how alike (default: 48,7,1).",
        ),
    ] = None,
    order: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=METHOD,
            help="Order of the subsets: sequential, staggered, cofactor or random[:SEED] (default: the method's).",
        ),
    ] = None,
    subsets: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            rich_help_panel=METHOD,
            help="Ordered subsets; 1 is MLEM (default: 8; dip-recon, dip-ot 1; networks their own).",
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10**9,
            rich_help_panel=METHOD,
            help="Passes over the data (default: 4; dip-recon 100, dip-ot 60).",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(rich_help_panel=METHOD, help="Stop early when the image changes by less than this."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=METHOD,
            metavar="FILE|NAME",
            help="Networks: trained weights, a file (.safetensors, with its card) or a name of those that come with "
            f"emrecon: {', '.join(learned.PRETRAINED)}.",
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=METHOD,
            help="dip-recon, dip-ot: unet (default), or chain, a small one for slices with few counts.",
        ),
    ] = None,
    known: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=METHOD,
            metavar="KIND:VALUE",
            help="mlaa, mlacf: what fixes the scale: total:SUM of the image, activity:MEAN of --known-region, or "
            "(mlaa) mu:VALUE of it in 1/cm.",
        ),
    ] = None,
    known_region: Annotated[
        Path | None,
        typer.Option(rich_help_panel=METHOD, help="mlaa, mlacf: region of --known: image of labels, RTSTRUCT or SEG."),
    ] = None,
    body: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=METHOD,
            help="mlaa, mlacf: region outside of which nothing attenuates: image of labels, RTSTRUCT or SEG.",
        ),
    ] = None,
    mu_prior: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=METHOD,
            metavar="NAME:BETA,...",
            help="mlaa, mlacf: prior of the attenuation map, as --prior is of the activity.",
        ),
    ] = None,
    without_tof: Annotated[
        bool,
        typer.Option(
            "--without-tof",
            rich_help_panel=METHOD,
            help="mlaa, mlacf: go on without time of flight, where the data do not determine activity and attenuation.",
        ),
    ] = False,
    filter: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=METHOD,
            metavar="FWHM",
            help="Gaussian filter of the image after the reconstruction, FWHM in mm; every method (default: none).",
        ),
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Image to write: .nii, .nii.gz, .h5, .hv or .dcm (SPECT: a file; PET: a folder of slices).",
        ),
    ] = Path("image.nii.gz"),
    picture: Annotated[
        Path | None,
        typer.Option(rich_help_panel=OUTPUT, help="Picture with three views of the image: .png, .svg or .pdf."),
    ] = None,
    mu_picture: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Picture (.png, .svg, .pdf) with three views of --mu over the image, to see whether they fit.",
        ),
    ] = None,
    uncertainty: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="Image of the standard deviation of every voxel over the noise of the counts (.nii.gz, .h5, .hv ...): "
            "osem, and methods with a smooth prior.",
        ),
    ] = None,
    mu_out: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="mlaa, mlacf: the attenuation map to write (default: beside the image, image_mu.nii.gz).",
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT, help="Report of the run, .html, as `emrecon report` writes it, over the CT of --mu."
        ),
    ] = None,
    masks: Annotated[
        list[Path] | None,
        typer.Option(
            rich_help_panel=OUTPUT, help="Regions in the report: RTSTRUCT, SEG or an image of labels; repeat."
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(rich_help_panel=OUTPUT, help=".csv or .json with iteration, seconds and objective."),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(rich_help_panel=OUTPUT, help="File to save every iteration in, and to go on from."),
    ] = None,
    device: Annotated[str, typer.Option(rich_help_panel=RUN, help="cpu or cuda.")] = "cpu",
    scratch: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=RUN,
            help="List-mode: a folder on a disk for the events, 16 bytes each, where the memory has no room.",
        ),
    ] = None,
    rank_timeout: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=RUN,
            help="Under torchrun: seconds without a sign of life after which a rank is lost (default: 300).",
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet/--no-quiet", "-q", rich_help_panel=RUN, help="Print nothing but errors.")
    ] = False,
    config: Annotated[
        Path | None,
        typer.Option(
            is_eager=True,
            callback=_take_from_file,
            rich_help_panel=RUN,
            # unescaped, brackets would be taken for styles
            help="TOML file with options in tables, \\[data] \\[physics] \\[method] \\[output] \\[run]; "
            "options given here win.",
        ),
    ] = None,
    write_config: Annotated[
        Path | None,
        typer.Option(rich_help_panel=OUTPUT, help="TOML file to write, which repeats this run by --config."),
    ] = None,
) -> None:
    """Reconstruct SPECT or PET data, with attenuation and resolution where they are given: OSEM, or with a prior.

    All methods but OSEM and networks start from one pass of OSEM. PET list-mode: randoms are estimated from the delays,
    and subsets are those of the events' views.
    """
    with options.named_by_option():
        physics = PhysicsTable(
            mu=mu,
            mu_series=mu_series,
            mu_unit=mu_unit,  # type: ignore[arg-type]  # checked by the table
            mu_kvp=mu_kvp,
            mu_shift=mu_shift,
            mu_remove_bed=mu_remove_bed,
            mu_cylinder=mu_cylinder,
            collimator=collimator,
            response=response,
            energy=energy,
            intrinsic=intrinsic,
            background=background,
            norm=norm,
            multiplicative=multiplicative,
            additive=additive,
            randoms=randoms,
            scatter=scatter,
            peak=peak,
            scatter_smoothing=scatter_smoothing,
            dew_k=dew_k,
            energy_resolution=energy_resolution,
            psf=psf,
            voxel=voxel,
        )
        quantity = QuantityTable(
            unit=unit,
            calibration=calibration,
            calibration_phantom=calibration_phantom,
            dead_time=dead_time,
            view_decay=view_decay,
            timed_factors=timed_factors,
            decay_to=decay_to,
            started_at=started_at,
            injected_at=injected_at,
            injected=injected,
            weight=weight,
        )
        how = MethodTable(
            method=method,
            prior=prior,
            guide=tuple(guide or ()),
            neighbours=neighbours,
            kappa=kappa,
            kernel=kernel,
            order=order,
            subsets=subsets,
            iterations=iterations,
            tolerance=tolerance,
            weights=weights,
            network=network,
            known=known,
            known_region=known_region,
            body=body,
            mu_prior=mu_prior,
            without_tof=without_tof,
            filter=filter,
        )
        data = DataTable(
            projections=projections,
            header=tuple(header or ()),
            max_ring_difference=max_ring_difference,
            beds=beds,  # type: ignore[arg-type]  # checked by the table
            frames=frames,  # type: ignore[arg-type]
            gates=gates,  # type: ignore[arg-type]
        )
        output = OutputTable(
            out=out,
            picture=picture,
            mu_picture=mu_picture,
            uncertainty=uncertainty,
            mu_out=mu_out,
            report=report,
            masks=tuple(masks or ()),
            log=log,
            checkpoint=checkpoint,
        )
        settings = Settings(
            data=data,
            physics=physics,
            quantity=quantity,
            method=how,
            output=output,
            run=RunTable(device=device, quiet=quiet, scratch=scratch, rank_timeout=rank_timeout),
        )
    run(settings, config, write_config)
