"""`emrecon dose`: the numbers are those of Python, and everything that is unclear is asked for or said."""

import csv
import json
from datetime import datetime, timedelta

import numpy as np
import pytest
from cli_cases import emrecon

from emrecon import formats
from emrecon.projectors import ImageGrid, Study
from emrecon.recon.dosimetry import treatment_dose

GRID = ImageGrid((14, 12, 10), 5.0, (-20.0, -30.0, 100.0))
TIMES = (4.0, 24.0, 96.0)
X, Y, Z = np.indices(GRID.shape)
TUMOUR = (X - 6) ** 2 + (Y - 5) ** 2 + (Z - 4) ** 2 < 7
ORGAN = (X > 9) & (Y > 2) & (Y < 9)
SCANS = [
    np.where(TUMOUR, 1e6 * 2 ** (-t / 80), np.where(ORGAN, 2e5 * 2 ** (-t / 40), 1e3 * 2 ** (-t / 30))) for t in TIMES
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dose")
    for t, image in zip(TIMES, SCANS):
        formats.write_image(folder / f"t{t:g}.nii.gz", image, GRID, unit="Bq/mL")
    formats.write_image(folder / "plain.nii.gz", SCANS[0], GRID)
    formats.write_image(folder / "counts.nii.gz", SCANS[0], GRID, unit="counts")
    formats.write_image(folder / "k.nii.gz", SCANS[0] / 1000, GRID, unit="kBq/mL")
    formats.write_image(folder / "labels.nii.gz", TUMOUR + 2.0 * ORGAN, GRID)
    fine = ImageGrid((28, 24, 20), 2.5, (-21.25, -31.25, 98.75))
    formats.write_image(
        folder / "ct.nii.gz", np.where(np.arange(28)[:, None, None] < 4, -1000.0, 40.0) + np.zeros(fine.shape), fine
    )
    return folder


def run(folder, *more, images=("t4.nii.gz", "t24.nii.gz", "t96.nii.gz"), times=("--times", "4,24,96"), check=0):
    return emrecon("dose", *images, *times, "--nuclide", "lu177", *more, cwd=folder, check=check)


def expected(**more):
    rounded = [image.astype(np.float32) for image in SCANS]
    return treatment_dose(TIMES, rounded, GRID, "Lu-177", masks={"tumour": TUMOUR, "organ": ORGAN}, **more)


def test_image_and_table_are_those_of_python(folder):
    done = run(
        folder,
        *("--masks", "labels.nii.gz", "--label", "1=tumour", "--label", "2=organ", "--injected", "7400"),
        *("--out", "dose.nii.gz", "--table", "organs.csv", "--threshold", "5"),
    )
    image, grid = formats.read_image(folder / "dose.nii.gz")
    result = expected()
    np.testing.assert_allclose(image, result.dose.image, rtol=1e-5)
    np.testing.assert_allclose(grid.origin, GRID.origin, atol=1e-4)
    assert formats.image_unit(folder / "dose.nii.gz") == "Gy"
    rows = {row["organ"]: row for row in csv.DictReader((folder / "organs.csv").read_text().splitlines())}
    assert float(rows["tumour"]["mean_gy"]) == pytest.approx(result.organs["tumour"].mean, rel=1e-6)
    assert float(rows["tumour"]["half_life_h"]) == pytest.approx(80, rel=1e-3)
    assert float(rows["organ"]["coefficient_h"]) == pytest.approx(result.organs["organ"].activity / 7400, rel=1e-6)
    assert "v5gy" in rows["tumour"]
    assert "tumour" in done.stdout
    record = formats.read_provenance(folder / "dose.nii.gz")
    assert record.parameters["nuclide"] == "Lu-177"
    assert str(folder) not in record.command
    assert len(record.inputs) == 4


@pytest.mark.parametrize(
    "times",
    [("--times", "4", "24", "96"), ("--times", "4", "--times", "24", "--times", "96"), ("--times", "4,24", "96")],
)
def test_times_as_people_write_them(folder, times):
    run(folder, "--out", "again.h5", times=times)
    image, _ = formats.read_image(folder / "again.h5")
    np.testing.assert_allclose(image, expected().dose.image, rtol=1e-5)


def test_frames_of_one_file_and_organ_curves(folder):
    formats.write_image(folder / "all.nii.gz", np.stack(SCANS), GRID, unit="Bq/mL")
    run(
        folder,
        "--masks",
        "labels.nii.gz",
        "--fit",
        "organ",
        "--model",
        "auto",
        "--table",
        "o.json",
        images=("all.nii.gz",),
    )
    table = json.loads((folder / "o.json").read_text())
    assert table["nuclide"] == "Lu-177"
    by_python = expected(fit="organ", model="auto").organs["tumour"].mean
    assert table["organs"][0]["mean_gy"] == pytest.approx(by_python, rel=1e-5)


def test_density_of_a_ct(folder):
    done = run(folder, "--density", "ct.nii.gz", "--out", "scaled.nii.gz")
    assert "Hounsfield units by its values" in done.stdout
    assert "of the activity lies in air" in done.stdout
    scaled, water = formats.read_image(folder / "scaled.nii.gz")[0], expected().dose.image
    assert scaled[0].max() == 0
    np.testing.assert_allclose(scaled[4:], water[4:] / (1.03 + 26 / 86 * 0.0462), rtol=1e-3)
    formats.write_image(folder / "rho.nii.gz", np.full(GRID.shape, 2.0), GRID, unit="g/mL")
    run(folder, "--density", "rho.nii.gz", "--out", "half.nii.gz")
    np.testing.assert_allclose(formats.read_image(folder / "half.nii.gz")[0], water / 2, rtol=1e-5)
    formats.write_image(folder / "mu.nii.gz", np.full(GRID.shape, 0.135), GRID)
    assert "--density-unit" in run(folder, "--density", "mu.nii.gz", check=2).stderr
    run(folder, "--density", "mu.nii.gz", "--density-unit", "1/cm", "--out", "mu-dose.nii.gz")
    np.testing.assert_allclose(formats.read_image(folder / "mu-dose.nii.gz")[0], water, rtol=0.03)


def test_units(folder):
    one = ("--times", "4"), ("--model", "physical")
    run(folder, *one[1], "--out", "b.nii.gz", images=("t4.nii.gz",), times=one[0])
    run(folder, *one[1], "--out", "k_out.nii.gz", images=("k.nii.gz",), times=one[0])
    run(folder, *one[1], "--out", "p.nii.gz", "--unit", "Bq/mL", images=("plain.nii.gz",), times=one[0])
    b, k, p = (formats.read_image(folder / name)[0] for name in ("b.nii.gz", "k_out.nii.gz", "p.nii.gz"))
    np.testing.assert_allclose(k, b, rtol=1e-5)
    np.testing.assert_allclose(p, b, rtol=1e-5)
    for image, more, said in (
        ("plain.nii.gz", (), "does not say its unit"),
        ("counts.nii.gz", (), "is in counts, and a dose needs Bq/mL"),
        ("t4.nii.gz", ("--unit", "kBq/mL"), "says that it is in Bq/mL"),
        ("t4.nii.gz", ("--unit", "Gy"), "not one of Bq/mL"),
    ):
        assert said in run(folder, *one[1], *more, images=(image,), times=one[0], check=2).stderr


def test_decay_correction_to_injection_is_taken_back(folder):
    """The same activities, decay corrected to injection: a half-life that ignores it would be infinite."""
    physical = 574300.8 / 3600
    for t, image in zip(TIMES, SCANS):
        formats.write_image(folder / f"c{t:g}.nii.gz", image * 2 ** (t / physical), GRID, unit="Bq/mL")
    images = ("c4.nii.gz", "c24.nii.gz", "c96.nii.gz")
    run(folder, "--corrected-to", "injection", "--out", "back.nii.gz", images=images)
    np.testing.assert_allclose(formats.read_image(folder / "back.nii.gz")[0], expected().dose.image, rtol=1e-4)
    record = formats.Provenance("c", "osem", calibration=("decay corrected to the injection, 96 minutes before it",))
    formats.write_image(folder / "said.nii.gz", SCANS[2] * 2 ** (96 / physical), GRID, unit="Bq/mL", provenance=record)
    done = run(folder, "--out", "said-dose.nii.gz", images=("t4.nii.gz", "t24.nii.gz", "said.nii.gz"))
    assert "said.nii.gz is decay corrected to injection" in done.stdout
    other = formats.Provenance("c", "osem", calibration=("values are decay corrected to the time given (2026-01-12)",))
    formats.write_image(folder / "other.nii.gz", SCANS[2], GRID, unit="Bq/mL", provenance=other)
    refused = run(folder, "--out", "x.nii.gz", images=("t4.nii.gz", "t24.nii.gz", "other.nii.gz"), check=2)
    assert "--corrected-to" in refused.stderr
    np.testing.assert_allclose(formats.read_image(folder / "said-dose.nii.gz")[0], expected().dose.image, rtol=1e-4)


def test_another_grid_is_said(folder):
    other = ImageGrid((16, 14, 12), 5.0, (-25.0, -35.0, 95.0))
    larger = np.pad(SCANS[1], 1, mode="edge")
    formats.write_image(folder / "other.nii.gz", larger, other, unit="Bq/mL")
    done = run(folder, "--out", "moved.nii.gz", images=("t4.nii.gz", "other.nii.gz", "t96.nii.gz"))
    assert "other.nii.gz is on another grid" in done.stdout
    np.testing.assert_allclose(formats.read_image(folder / "moved.nii.gz")[0], expected().dose.image, rtol=1e-4)


def test_images_and_ct_of_dicom(folder):
    """NM, and PT that is corrected to injection; contradictions of the header are said; no name is kept."""
    injection = datetime(2026, 3, 2, 9)
    for t, image in zip(TIMES, SCANS):
        about = Study(
            injection=injection,
            start=injection + timedelta(hours=t if t < 90 else 80),
            injected=7400.0,
            attributes={"PatientName": "Doe^Jane"},
        )
        more = {"kind": "NM", "unit": "Bq/mL", "study": about, "radionuclide": "Lu-177" if t < 90 else "In-111"}
        formats.write_dicom_image(folder / f"Jane{t:g}.dcm", image, GRID, **more)
    hu = np.full((28, 24, 20), 40.0)
    formats.write_dicom_ct(folder / "ct", hu, ImageGrid((28, 24, 20), 2.5, (-21.25, -31.25, 98.75)))
    images = ("Jane4.dcm", "Jane24.dcm", "Jane96.dcm")
    done = run(folder, "--density", "ct", "--out", "nm.nii.gz", images=images)
    assert "Jane96.dcm is an image of In-111" in done.stdout
    assert "80 h after the injection by its header, and not 96 h" in done.stdout
    assert "Jane24.dcm was measured" not in done.stdout
    density = 1.03 + 26 / 86 * 0.0462
    np.testing.assert_allclose(
        formats.read_image(folder / "nm.nii.gz")[0], expected().dose.image / density, rtol=1e-3, atol=1e-4
    )
    record = formats.read_provenance(folder / "nm.nii.gz")
    assert "Jane" not in record.json()
    physical = 574300.8 / 3600
    about = Study(injection=injection, start=injection + timedelta(hours=4), injected=7400.0, weight=70.0)
    more = {"kind": "PT", "unit": "Bq/mL", "study": about, "radionuclide": "Lu-177", "duration": 600.0}
    formats.write_dicom_image(folder / "pt", SCANS[0] * 2 ** (4 / physical), GRID, decay_to="injection", **more)
    done = run(folder, "--model", "physical", "--out", "pt.nii.gz", images=("pt",), times=("--times", "4"))
    assert "pt is decay corrected to injection" in done.stdout
    run(folder, "--model", "physical", "--out", "one.nii.gz", images=("t4.nii.gz",), times=("--times", "4"))
    one = formats.read_image(folder / "one.nii.gz")[0]
    np.testing.assert_allclose(formats.read_image(folder / "pt.nii.gz")[0], one, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "option"),
    [
        (("--model", "bi"), "--model"),
        (("--model", "tri"), "--model"),
        (("--model", "auto"), "--model"),
        (("--fit", "organ"), "--fit"),
        (("--table", "x.csv"), "--table"),
        (("--table", "x.txt", "--masks", "labels.nii.gz"), "--table"),
        (("--label", "1=x"), "--label"),
        (("--label", "one", "--masks", "labels.nii.gz"), "--label"),
        (("--density-unit", "hu"), "--density-unit"),
        (("--half-life", "-3"), "--half-life"),
        (("--injected", "7400"), "--injected"),
        (("--corrected-to", "noon"), "--corrected-to"),
        (("--method", "fast"), "--method"),
        (("--method", "network"), "--weights"),
        (("--method", "network", "--weights", "none.safetensors"), "--density"),
        (("--weights", "none.safetensors"), "--weights"),
        (("--histories", "1000"), "--histories"),
        (("--out", "x.dose"), "--out"),
        (("--times", "200"), "--times"),
    ],
)
def test_wrong_options_are_named(folder, more, option):
    done = run(folder, *more, check=2)
    assert option in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_nuclides_times_and_files(folder):
    def said(*words, check=2):
        return emrecon("dose", *words, cwd=folder, check=check).stderr

    assert "choose from Lu-177, Y-90, I-131" in said("t4.nii.gz", "--times", "4", "--nuclide", "F-18")
    assert "not be negative, and increase" in said("t4.nii.gz", "t24.nii.gz", "--times", "24,4", "--nuclide", "lu177")
    assert "1 times, and 2 images" in said("t4.nii.gz", "t24.nii.gz", "--times", "4", "--nuclide", "lu177")
    assert "2 times, and 1 images" in said("t4.nii.gz", "--times", "4,24", "--nuclide", "lu177")
    assert "not hours" in said("t4.nii.gz", "--times", "4h", "--nuclide", "lu177")
    assert "needs as many time points" in said("t4.nii.gz", "--times", "4", "--nuclide", "lu177")
    assert "does not exist" in said("none.nii.gz", "--times", "4", "--nuclide", "lu177", check=3)
    assert "would replace an input" in said(
        "t4.nii.gz", "--times", "4", "--nuclide", "lu177", "--out", "t4.nii.gz", check=4
    )


@pytest.mark.slow
def test_monte_carlo_and_a_network(folder):
    torch = pytest.importorskip("torch")
    from emrecon import unrolled

    one = {"images": ("t4.nii.gz",), "times": ("--times", "4")}
    formats.write_image(folder / "tissue.nii.gz", np.full(GRID.shape, 1.0), GRID, unit="g/mL")
    more = ("--model", "physical", "--density", "tissue.nii.gz", "--out")
    run(folder, *more, "kernel.nii.gz", **one)
    done = run(folder, *more, "mc.nii.gz", "--method", "monte-carlo", "--histories", "4000", **one)
    assert "4,000 histories" in done.stdout
    assert formats.read_provenance(folder / "mc.nii.gz").parameters["histories"] == "4000"
    kernel, mc = (formats.read_image(folder / name)[0] for name in ("kernel.nii.gz", "mc.nii.gz"))
    assert mc[TUMOUR].mean() == pytest.approx(kernel[TUMOUR].mean(), rel=0.05)
    for nuclide in ("Lu-177", "Y-90"):
        arguments = {"nuclide": nuclide, "voxel_size": 5.0, "width": 2, "levels": 2}
        network = unrolled.residual_dose_net(**arguments).to(torch.float32)
        unrolled.save_weights(folder / f"{nuclide}.safetensors", network, unrolled.Card("residual-dose", arguments))
    by_network = ("--method", "network", "--weights")
    run(folder, *more, "net.nii.gz", *by_network, "Lu-177.safetensors", **one)
    found = formats.read_image(folder / "net.nii.gz")[0]
    np.testing.assert_allclose(found, kernel, rtol=1e-4, atol=1e-5 * kernel.max())
    assert formats.read_provenance(folder / "net.nii.gz").parameters["network"] == "residual-dose"
    wrong = run(folder, *more, "x.nii.gz", *by_network, "Y-90.safetensors", **one, check=2)
    assert "made for Y-90, not for Lu-177" in " ".join(wrong.stderr.split())
