"""From a patient's folder of DICOM files to an image in Bq/mL and its report.

The folder is simulated: Lu-177 SPECT of the NEMA body phantom with two heads and three energy windows, as a camera of
Siemens writes it, and a CT on a grid of its own. `docs/clinical.md` does the same on the command line.
"""

from dataclasses import replace
from datetime import datetime

import numpy as np
from common import options

from emrecon import figures, formats, projectors, recon, sims
from emrecon.projectors import EnergyWindow, SPECTGeometry, Study

STUDY = Study(
    placement=(12.0, -150.0, -640.0),  # mm, where the scan lies in the patient
    frame_of_reference="1.2.826.0.1.3680043.8.498.1",
    patient_position="HFS",
    injected=7400.0,
    injection=datetime(2026, 1, 5, 9),
    start=datetime(2026, 1, 6, 10),
    weight=72.0,
    collimator="MEGP",
    manufacturer="SIEMENS",
    model="Symbia Intevo",
    attributes={"PatientName": "Phantom^NEMA", "PatientID": "42", "StudyInstanceUID": "1.2.826.0.1.3680043.8.498.9"},
)


def write_patient(folder, n):
    """Write projections, CT and labels of the phantom as they come from a camera."""
    grid, views = projectors.ImageGrid((n, n, n * 5 // 8), 384 / n), n // 2
    radius = 200 + 40 * np.cos(2 * np.pi * np.arange(views) / (2 * views)) ** 2
    bins = {"n_bins": (n, n * 5 // 8), "pixel_size": 384 / n, "direction": "cw", "extent": 180}
    camera = SPECTGeometry.heads(*(SPECTGeometry.circular(views, radius, start=start, **bins) for start in (0, 180)))
    simulator = sims.SPECTSimulator(
        grid,
        camera,
        projectors.collimator("siemens-me").response(208.4),
        sensitivity=9.4,
        radionuclide="Lu-177",
        scatter=projectors.EffectiveSource((187.2, 228.8), energy=208.366),
        windows=(EnergyWindow(166.4, 187.2, "lower"), EnergyWindow(228.8, 249.6, "upper")),
    )
    phantom = sims.nema_iec_body(hot_ratio=8, background=100.0)  # kBq/mL
    scan = replace(simulator.windowed(simulator.expect(phantom), seed=0), study=STUDY, factors=1.0)
    (folder / "patient").mkdir(parents=True, exist_ok=True)
    formats.write_dicom_nm(folder / "patient" / "tomo.dcm", scan, vendor="siemens")
    fine = projectors.ImageGrid((2 * n, 2 * n, n), (192 / n, 192 / n, 240 / n))
    hounsfield = np.maximum(1000 * (phantom.attenuation(fine, 70.0) / 0.193 - 1), -1000)
    formats.write_dicom_ct(folder / "patient" / "ct", hounsfield, fine, study=STUDY)
    activity = phantom.activity(grid)
    place = replace(grid, origin=tuple(np.add(grid.origin, STUDY.placement).tolist()))
    formats.write_image(folder / "labels.nii.gz", 1.0 * (activity > 90) + (activity > 250), place)


def main():
    """Write the folder, reconstruct it, and write the image and its report."""
    choice = options(__doc__)
    out = choice.out / "clinical"
    write_patient(out, 24 if choice.quick else 64)
    tomo, ct = out / "patient" / "tomo.dcm", out / "patient" / "ct"

    scan = formats.read_scan(tomo)
    response = projectors.collimator("siemens-me").response(208.4)
    problem = recon.spect_problem(scan, mu=formats.read_mu(ct, scan), response=response, scatter="tew", subsets=6)
    history = recon.History(problem.value)
    image = recon.reconstruct(problem, "osem", iterations=5, callbacks=[history])
    quantity = recon.quantify(scan, problem.grid, "Bq/mL", calibration=9.4)
    made = {"inputs": {"projections": tomo, "mu": ct}, "quantity": quantity, "convergence": history.rows}
    record = formats.record_run(scan, problem, "osem", **made, subsets=6, iterations=5)
    facts = formats.ImageFacts.of(scan)
    formats.write_image(out / "image.dcm", quantity(image), problem.grid, provenance=record, facts=facts)
    names = {1: "background", 2: "spheres"}
    run = figures.read_run(out / "image.dcm", ct=ct, masks=[out / "labels.nii.gz"], names=names)
    figures.write_report(out / "report.html", run)

    look = figures.Look("kBq/mL", "hot", quantity="activity")
    shown = figures.orthoviews(run.image / 1e3, run.grid, look, at="max", under=figures.Layer(*run.ct, figures.CT))
    figures.save(shown, choice.out / "clinical.png", dpi=90)


if __name__ == "__main__":
    main()
