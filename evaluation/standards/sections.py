"""What the report of the standards shows: each test's table, its picture, and what was not simulated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emrecon.projectors import RecoveryTable
from emrecon.recon.dosimetry import fit_time_activity

from ..sections import Picture, Section, Table, Text
from ..suite import Options, Results
from . import lutetium, pictures

_PUBLISHED = "published for the scanner"
_NO_SIMULATION = (
    "Not simulated, and so not claimed: the table's load of the co-registration test (markers are displaced by a "
    "known amount instead), the range of positrons, scatter between crystals, pile-up and how timing and energy worsen "
    "with the rate, and for gamma cameras intrinsic resolution, linearity, energy resolution, registration of several "
    "windows and shields: they are properties of a detector that our images start from."
)


def sections_of(results: Results, options: Options) -> list[Section]:
    """Return the sections of NEMA NU 2, NU 1 and Lu-177, those whose units are done."""
    found = [
        _section("NEMA NU 2: counting", _counting(results)),
        _section("NEMA NU 2: images", _pet_images(results)),
        _section("NEMA NU 1: gamma camera", _camera(results)),
        _section("NEMA NU 1: tomography", _tomography(results)),
        _section("Lu-177", _lutetium(results, options)),
    ]
    return [section for section in found if section.parts]


Part = Table | Picture | Text


def _section(title: str, parts: Sequence[Part]) -> Section:
    return Section(title, parts)


def _counting(results: Results) -> list[Part]:
    parts: list[Part] = []
    if "nema-pet/sensitivity" in results:
        numbers = results["nema-pet/sensitivity"]
        rows = [
            [f"{float(place) / 10:g}", found["system"], found["without_metal"], 10 * found["attenuation"]]
            for place, found in numbers["places"].items()
        ]
        columns = ("cm from the axis", "extrapolated (counts/s/kBq)", "without any metal", "metal found (1/cm)")
        note = "Photons in a Biograph Vision 600; 16.4 counts/s/kBq is published for it (van Sluis et al. 2019), which "
        note += "the crystals' efficiency was chosen for. Aluminium has 0.228 /cm."
        parts += [Table("Sensitivity, 70 cm line in five sleeves", columns, rows, note)]
        parts += [Picture.of(pictures.slice_sensitivity(numbers), "Sensitivity of the slices")]
    if "nema-pet/counting" in results:
        numbers = results["nema-pet/counting"]
        parts += [_rates_table(numbers), Picture.of(pictures.rates(numbers), "Count rates, and errors of corrections")]
        folder = results.folder("nema-pet/counting")
        parts += [Picture.of(pictures.timing(folder), "Timing errors of pairs within 20 mm of the line")]
    return [*parts, Text("What is not simulated", [_NO_SIMULATION])] if parts else []


def _rates_table(numbers: Mapping[str, Any]) -> Table:
    peak, trues, errors, timing = (numbers[name] for name in ("peak", "trues_peak", "errors", "timing"))
    plain, known = numbers["by_scatter_fraction"], numbers["by_delayed"]
    k = int(np.abs(np.subtract(numbers["activity"], peak["activity"])).argmin())
    given = [numbers["true"][name][k] / 1000 for name in ("trues", "scatter", "randoms")]
    names = ("trues", "scatter", "randoms")
    rows: list[list[Any]] = [
        ["scatter fraction (%)", 100 * plain["scatter_fraction"], 100 * numbers["true_scatter_fraction"], 38.7],
        ["highest noise-equivalent rate (1000/s)", peak["rate"] / 1000, None, 306],
        ["  at (kBq/mL)", peak["activity"], None, 32],
        ["highest rate of trues (1000/s)", trues["rate"] / 1000, max(numbers["true"]["trues"]) / 1000, None],
        ["  at (kBq/mL)", trues["activity"], None, None],
        *([f"{name} near the peak (1000/s)", known[name][k] / 1000, value, None] for name, value in zip(names, given)),
        ["largest error of corrections up to the peak (%)", errors["largest_to_the_peak"], None, None],
        ["timing resolution (ps)", timing["fwhm"], timing["given"], 210],
    ]
    note = (
        "The scatter fraction is that of the lowest activity; rates near the peak are found with delayed coincidences. "
        "As it was: what the simulation knows of each event. Published: van Sluis et al. 2019, with a bed and "
        "shields. The dead time of blocks was chosen; their correction takes it for not paralysable."
    )
    columns = ("", "by the test", "as it was", _PUBLISHED)
    return Table("Scatter fraction, count losses, randoms, corrections, timing", columns, rows, note)


def _pet_images(results: Results) -> list[Part]:
    parts: list[Part] = []
    if "nema-pet/resolution" in results:
        numbers = results["nema-pet/resolution"]
        rows = [[f"{row['radius'] / 10:g}", *row["mean"]] for row in numbers["rows"]]
        note = (
            f"mm, means of the middle and three eighths of the axial field; SSRB and FBP with the bare ramp, pixels of "
            f"{numbers['pixel']:g} mm, slices of {numbers['slice']:.3g} mm. There is no positron range and no light "
            "sharing, so near the axis the scanner measures more (3.6 mm)."
        )
        parts += [Table("Spatial resolution", ("cm from the axis", *numbers["columns"]), rows, note)]
        folder = results.folder("nema-pet/resolution")
        radii = [row["radius"] for row in numbers["rows"]]
        parts += [Picture.of(pictures.pet_points(folder, radii), "Points in air")]
    if "nema-pet/coregistration" in results:
        numbers = results["nema-pet/coregistration"]
        rows = [[str(tuple(row["place"])), *row["difference"], row["distance"]] for row in numbers["rows"]]
        given = tuple(numbers["given"])
        note = (
            f"The CT lies at {given} mm, {numbers['given_distance']:.2f} mm away. 20 cm from the axis parallax moves "
        )
        note += "the PET marker outwards by 0.4 mm."
        columns = ("marker (mm)", "x", "y", "z", "distance (mm)")
        parts += [Table("Co-registration of CT and PET, centroids of markers", columns, rows, note)]
    if "nema-pet/image-quality" in results:
        parts += _quality(results)
    return parts


def _quality(results: Results) -> list[Part]:
    numbers, folder = results["nema-pet/image-quality"], results.folder("nema-pet/image-quality")
    images = numbers["images"]
    shown = images[min(2, len(images) - 1)]
    rows = [
        [
            f"{s['diameter']:g}",
            s["contrast"],
            s["variability"],
            s["volume_recovery"],
            s["a50"],
            s["maximum"],
            s["fwhm"],
        ]
        for s in shown["spheres"]
    ]
    columns = ("mm", "contrast (%)", "variability (%)", "recovery, whole sphere", "A50", "maximum", "FWHM (mm)")
    lung = ", ".join(f"{value:.1f}" for value in shown["lung"])
    note = (
        f"OSEM, iteration {shown['iteration']}, no filter, {numbers['prompts'] / 1e6:g} million prompts, scatter "
        f"estimated by SSS ({100 * numbers['scatter_fraction']:.0f} % of trues and scatter). Lung residual in slices "
        f"at -20, ... 20 mm: {lung} %. Background over truth {shown['background']:.3f}."
    )
    return [
        Table("Image quality, spheres 4 : 1", columns, rows, note),
        Picture.of(pictures.body_phantom(folder, numbers), "Phantom with the regions: spheres, background, lung"),
        Picture.of(pictures.contrast_noise(numbers), "Contrast and noise over iterations"),
    ]


def _camera(results: Results) -> list[Part]:
    parts: list[Part] = []
    if "nema-spect/flood" in results:
        numbers, rows = results["nema-spect/flood"], []
        for name, fields in numbers["floods"].items():
            rows += [
                [name, field, f["integral"], f["differential_x"], f["differential_y"]] for field, f in fields.items()
            ]
        note = f"Pixels of {numbers['pixel']:.1f} mm with {numbers['counts_per_pixel']:.0f} counts."
        columns = ("flood", "field", "integral (%)", "differential x (%)", "differential y (%)")
        parts += [Table("Uniformity", columns, rows, note)]
        parts += [Picture.of(pictures.floods(results.folder("nema-spect/flood")), "Floods, UFOV and CFOV")]
    rows = []
    if "nema-spect/sensitivity" in results:
        found = results["nema-spect/sensitivity"]
        rows += [
            ["planar sensitivity (counts/s/MBq)", found["planar"], found["given"]],
            ["system volume sensitivity (counts/s per MBq/mL), two heads", found["volume"], None],
            ["  per cm", found["volume_per_cm"], None],
        ]
    if "nema-spect/count-losses" in results:
        found = results["nema-spect/count-losses"]
        rows += [
            ["observed rate at 20 % loss (1000/s)", found["rate"] / 1000, found["closed_form"] / 1000],
            ["highest observed rate (1000/s)", found["highest"] / 1000, found["highest_closed_form"] / 1000],
        ]
    if rows:
        parts += [Table("Sensitivity and loss of counts, LEHR, Tc-99m", ("", "by the test", "closed form"), rows)]
    if "nema-spect/rotation" in results:
        found = results["nema-spect/rotation"]
        rows = [[r["head"], r["z"], r["offset"], r["given"], r["largest_deviation"]] for r in found["rows"]]
        note = (
            f"Heads differ by {found['heads_apart']:.2f} mm along the axis, {found['heads_apart_given']:g} were given."
        )
        columns = ("head", "source at z (mm)", "offset (mm)", "given (mm)", "largest deviation (mm)")
        parts += [Table("Centre of rotation", columns, rows, note)]
    return parts


def _tomography(results: Results) -> list[Part]:
    parts: list[Part] = []
    if "nema-spect/resolution" in results:
        numbers = results["nema-spect/resolution"]
        middle, *beside = numbers["rows"]
        at = numbers["planar_fwhm_at"]
        rows = [
            ["centre, transverse", float(np.mean(middle["fwhm"][:2])), f"{at['150']:.2f} at 15 cm"],
            ["centre, axial", middle["fwhm"][2], f"{at['150']:.2f} at 15 cm"],
            ["7.5 cm, radial", float(np.mean([row["radial"] for row in beside])), ""],
            ["7.5 cm, tangential", float(np.mean([row["tangential"] for row in beside])), ""],
            ["7.5 cm, axial", float(np.mean([row["fwhm"][2] for row in beside])), ""],
        ]
        note = f"FWHM in mm; pixels of {numbers['pixel']:g} mm, 120 views at 15 cm, FBP with the bare ramp. Planar at "
        note += f"7.5 and 22.5 cm: {at['75']:.2f} and {at['225']:.2f} mm."
        parts += [Table("Tomographic resolution without scatter, LEHR", ("", "FWHM", "planar FWHM"), rows, note)]
        parts += [Picture.of(pictures.spect_points(results.folder("nema-spect/resolution")), "The three points")]
    if "nema-spect/cold-spheres" in results:
        numbers = results["nema-spect/cold-spheres"]
        rows = [[f"{s['diameter']:g}", s["contrast"], s["variability"]] for s in numbers["spheres"]]
        uniform = numbers["uniform"]
        rings = ", ".join(f"{ring:.3f}" for ring in uniform["rings"])
        note = (
            f"{numbers['counts'] / 1e6:g} million counts, OSEM with attenuation, response and TEW, "
            f"{numbers['iterations']} iterations. Uniform slices: coefficient of variation "
            f"{100 * uniform['coefficient_of_variation']:.1f} %, means of rings over their mean {rings}."
        )
        columns = ("mm", "contrast (%)", "variability (%)")
        parts += [Table("Cold spheres of a Jaszczak phantom", columns, rows, note)]
        figure = pictures.cold_spheres(results.folder("nema-spect/cold-spheres"), numbers["voxel"])
        parts += [Picture.of(figure, "Slices with the regions")]
    return parts


def _lutetium(results: Results, options: Options) -> list[Part]:
    if "lu-177/spheres" not in results:
        return []
    spheres = results["lu-177/spheres"]
    rows: list[list[Any]] = [
        [f"{s['diameter']:g}", s["volume"], s["tew"], s["esse"]] for s in reversed(spheres["spheres"])
    ]
    background = spheres["background"]
    note = f"Background over truth: TEW {background['tew']:.3f}, ESSE {background['esse']:.3f}. "
    note += f"{spheres['sensitivity']:.1f} counts/s/MBq of one head."
    columns = ("mm", "mL", "recovery, TEW", "recovery, ESSE")
    parts: list[Part] = [
        Table("Recovery of spheres, 15 : 1", columns, rows, note),
        Picture.of(pictures.recovery(spheres), "Recovery by volume"),
    ]
    if "lu-177/patient-24h" in results:
        parts += [_organs_table(results["lu-177/patient-24h"], spheres)]
        grid = (lutetium.Protocol() if options.size == "full" else lutetium.Protocol(fine=False)).grid
        folder = results.folder("lu-177/patient-24h")
        figure = pictures.patient(folder, grid.voxel_size[0], grid.origin)
        parts += [Picture.of(figure, "The patient 24 h after the injection, through the kidneys")]
    done = [h for h in lutetium.HOURS if f"lu-177/patient-{h:g}h" in results]
    return [*parts, _times_table(results, done, spheres)] if len(done) > 2 else parts


def recovery_of(spheres: Mapping[str, Any], way: str) -> RecoveryTable:
    """Return the recovery coefficients of the spheres in an image corrected for scatter by `way`."""
    rows = sorted(spheres["spheres"], key=lambda s: s["diameter"])
    return RecoveryTable(tuple(s["diameter"] for s in rows), tuple(s[way] for s in rows))


def corrected(row: Mapping[str, Any], table: RecoveryTable, way: str) -> float | None:
    """Return an organ's concentration corrected for partial volume by its volume; None beyond the spheres measured."""
    whole = row["volume"] / 2 if row["organ"] == "kidneys" else row["volume"]
    if row["organ"] == "marrow" or not table.volumes[0] <= whole <= table.volumes[-1]:
        return None
    return float(table.correct_volume(row[way], whole, row[f"{way} around"]))


def _organs_table(numbers: Mapping[str, Any], spheres: Mapping[str, Any]) -> Table:
    tables = {way: recovery_of(spheres, way) for way in ("tew", "esse")}
    rows: list[list[Any]] = []
    for row in numbers["organs"]:
        true, partial = row["true"], row["primaries"]
        fixed = {way: corrected(row, tables[way], way) for way in tables}
        rows.append([
            row["organ"], row["volume"], true / 1000, *(100 * (row[way] / partial - 1) for way in tables),
            partial / true, *(row[way] / true for way in tables),
            *(None if value is None else value / true for value in fixed.values()),
        ])  # fmt: skip
    columns = (
        "organ",
        "mL",
        "true (kBq/mL)",
        "error but for partial volume, TEW (%)",
        "same, ESSE (%)",
        "partial volume alone",
        "recovery, TEW",
        "recovery, ESSE",
        "corrected, TEW",
        "corrected, ESSE",
    )
    note = (
        "Mean in the organ's own outline over the truth. Partial volume alone: image of unscattered photons without "
        "noise. Corrected: with the recovery of a sphere of the organ's volume (for kidneys, of one), and "
        "what lies 15 to 25 mm away as background. Marrow: vertebrae, a voxel from their surface."
    )
    return Table("Organs 24 h after the injection", columns, rows, note)


def _times_table(results: Results, hours: Sequence[float], spheres: Mapping[str, Any]) -> Table:
    table, rows = recovery_of(spheres, "esse"), []
    by_time = [{row["organ"]: row for row in results[f"lu-177/patient-{h:g}h"]["organs"]} for h in hours]
    for organ in ("left kidney", "right kidney", "liver", "spleen", "lesion 20 mm", "lesion 35 mm", "marrow"):
        found = [corrected(one[organ], table, "esse") or one[organ]["esse"] for one in by_time]
        true = [one[organ]["true"] for one in by_time]
        fits = [fit_time_activity(hours, values, "Lu-177", model="mono") for values in (found, true)]
        ratios = [a / b for a, b in zip(found, true)]
        rows.append([organ, *ratios, *(float(fit.half_lives[0]) for fit in fits), fits[0].integral / fits[1].integral])
    columns = ("organ", *(f"{h:g} h" for h in hours), "half-life (h)", "true (h)", "time integral, found / true")
    note = "ESSE, corrected for partial volume (liver and marrow: not), over the truth; mono-exponential fits."
    return Table("Four times", columns, rows, note)
