"""`emrecon enhance`: the image of Python, guides on any grid, and one line for what does not fit."""

import json

import numpy as np
import pytest
import torch
from cli_cases import emrecon

from emrecon import formats, unrolled
from emrecon.projectors import ImageGrid

GRID = ImageGrid((12, 10, 5), 4.0, (-20.0, -30.0, 100.0))
FINE = ImageGrid((24, 20, 10), 2.0, (-21.0, -31.0, 99.0))
SIMULATION = {"pet": {"tof": False}, "spect": None, "grid": {"shape": [12, 10, 5], "voxel_size": [4.0, 4.0, 4.0]}}
IMAGE = np.random.default_rng(0).random(GRID.shape).astype(np.float32) + 0.5


def weights(folder, name, network, architecture, arguments, guide=None, **data):
    about = {"guide": guide, "training": {"simulation": SIMULATION}, **data}
    path = folder / f"{name}.safetensors"
    unrolled.save_weights(path, network, unrolled.Card(architecture, arguments, about))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("enhance")
    record = formats.Provenance("emrecon reconstruct scan.h5", "osem", acquisition=("PET of 60 s",), notes=("a note",))
    formats.write_image(folder / "x.nii.gz", IMAGE, GRID, unit="Bq/mL", provenance=record)
    formats.write_image(folder / "plain.nii.gz", IMAGE, GRID)
    formats.write_image(folder / "spect.h33", IMAGE, GRID)
    formats.write_image(folder / "frames.nii.gz", np.stack([IMAGE, 2 * IMAGE]), GRID)
    formats.write_image(folder / "coarse.nii.gz", IMAGE, ImageGrid(GRID.shape, 7.0))
    formats.write_image(folder / "slice.nii.gz", IMAGE[..., :1], ImageGrid((12, 10, 1), 4.0))
    formats.write_image(folder / "nan.nii.gz", np.where(IMAGE > 1.4, np.nan, IMAGE), GRID)
    ct = np.where(np.indices(FINE.shape)[0] < 4, -1000.0, 40.0)
    formats.write_image(folder / "ct.nii.gz", ct, FINE)
    formats.write_image(folder / "mr.nii.gz", IMAGE, GRID)
    formats.write_image(folder / "far.nii.gz", IMAGE, ImageGrid(GRID.shape, 4.0, (900.0, 900.0, 900.0)))
    with unrolled.seeded(0):
        small = {"depth": 3, "width": 2, "norm": "none"}
        weights(folder, "plain", unrolled.dncnn_enhancer(2, **small), "dncnn", {"dimensions": 2, **small})
        guided = {"dimensions": 2, "guide_channels": 1, **small}
        weights(folder, "mu", unrolled.dncnn_enhancer(**guided), "dncnn", guided, "mu")
        weights(folder, "ct", unrolled.dncnn_enhancer(**guided), "dncnn", guided, "ct")
        volume = {"dimensions": 3, "width": 2, "levels": 2}
        narrow = {"statistics": {"noise": [1e-4, 2e-4], "n": 9}}
        weights(folder, "volume", unrolled.unet_enhancer(**volume), "unet", volume, **narrow)
        fbsem = unrolled.fbsem_net(2, 1, width=2, depth=2)
        weights(folder, "fbsem", fbsem, "fbsem-net", {"dimensions": 2, "n_modules": 1, "width": 2, "depth": 2})
    return folder


def run(folder, image, name, *more, out="out.nii.gz", check=0):
    return emrecon("enhance", image, "--weights", f"{name}.safetensors", "--out", out, *more, cwd=folder, check=check)


def words(done):
    return " ".join((done.stdout + done.stderr).split())


def test_image_unit_and_record(folder):
    done = run(folder, "x.nii.gz", "plain")
    made, grid = formats.read_image(folder / "out.nii.gz")
    network, _ = unrolled.load_network(folder / "plain.safetensors", unrolled.ENHANCERS)
    with torch.no_grad():
        expected = network(torch.as_tensor(IMAGE)).clamp(min=0).numpy()
    np.testing.assert_allclose(made, expected, atol=1e-5)
    assert grid.shape == GRID.shape
    assert formats.image_unit(folder / "out.nii.gz") == "Bq/mL"
    record = formats.read_provenance(folder / "out.nii.gz")
    assert record.method == "dncnn on an image"
    assert record.acquisition == ("PET of 60 s",)
    assert record.notes == ("a note",)
    assert [file.role for file in record.inputs] == ["image", "--weights"]
    assert "wrote out.nii.gz" in words(done)


def test_guides_are_brought_to_the_image(folder):
    done = run(folder, "x.nii.gz", "mu", "--guide", "ct.nii.gz")
    assert "resampled from voxels of 2 x 2 x 2 mm to those of the image, 4 x 4 x 4 mm" in words(done)
    assert "taken for a CT in Hounsfield units" in words(done)
    assert "1 + HU / 1000" in words(done)
    network, _ = unrolled.load_network(folder / "mu.safetensors", unrolled.ENHANCERS)
    mu = np.where(np.indices(GRID.shape)[0] < 2, 0.0, 1.04).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.as_tensor(IMAGE), guide=torch.as_tensor(mu)).clamp(min=0).numpy()
    np.testing.assert_allclose(formats.read_image(folder / "out.nii.gz")[0], expected, atol=1e-4)


def test_windows_are_those_of_the_whole(folder):
    done = run(folder, "frames.nii.gz", "plain", "--window", "8", out="framed.nii.gz")
    assert "windows of 8 x 8" in words(done)
    assert "does not say whether it is PET or SPECT" in words(done)
    made = formats.read_image(folder / "framed.nii.gz")[0]
    assert made.shape == (2, *GRID.shape)
    np.testing.assert_allclose(made[1], 2 * made[0], rtol=1e-4, atol=1e-6)
    run(folder, "frames.nii.gz", "plain", "--frame", "2", out="second.nii.gz")
    assert formats.read_image(folder / "second.nii.gz")[0].shape == GRID.shape


def test_noise_outside_of_the_training_is_said(folder):
    done = run(folder, "x.nii.gz", "volume")
    assert "standard deviation of the noise over the mean of the object" in words(done)


@pytest.mark.parametrize(
    ("image", "name", "more", "said", "code"),
    [
        ("spect.h33", "plain", (), "was trained on PET, and spect.h33 is SPECT; --anyway goes on", 2),
        ("coarse.nii.gz", "plain", (), "trained on voxels of 4 x 4 x 4 mm, and these have 7 x 7 x 7 mm", 2),
        ("slice.nii.gz", "volume", (), "a network of volumes (3-D), and this image has one slice", 2),
        ("x.nii.gz", "plain", ("--guide", "mr.nii.gz"), "trained without a guide, and 1 are given", 2),
        ("x.nii.gz", "ct", (), "trained with 1 guide (CT in HU), and none is given", 2),
        ("x.nii.gz", "ct", ("--guide", "mr.nii.gz"), "trained with CT in HU, and mr.nii.gz is none", 2),
        ("x.nii.gz", "mu", ("--guide", "far.nii.gz"), "does not cover x.nii.gz", 2),
        ("ct.nii.gz", "plain", (), "is a CT in HU; name it by --guide", 2),
        ("nan.nii.gz", "plain", (), "holds NaN or infinite values", 3),
        ("x.nii.gz", "fbsem", (), "it reconstructs scans: emrecon reconstruct --method fbsem-net", 2),
        ("x.nii.gz", "plain", ("--sigma", "1"), "not told the level of the noise", 2),
        ("x.nii.gz", "plain", ("--memory", "1e-6"), "GB are not enough", 2),
        ("frames.nii.gz", "plain", ("--frame", "3"), "there are frames 1 to 2, got 3", 2),
        ("absent.nii.gz", "plain", (), "absent.nii.gz", 3),
        ("x.nii.gz", "absent", (), "absent", 3),
    ],
)
def test_one_line_for_what_does_not_fit(folder, image, name, more, said, code):
    done = run(folder, image, name, *more, check=code)
    assert said in words(done)
    assert "Traceback" not in words(done)


def test_names_and_outputs(folder):
    done = emrecon("enhance", "x.nii.gz", "--weights", "nothing", "--out", "o.nii.gz", cwd=folder, check=2)
    assert "no trained enhancers come with emrecon" in words(done)
    assert "not DICOM" in words(run(folder, "x.nii.gz", "plain", out="o.dcm", check=2))
    run(folder, "x.nii.gz", "plain", out="x.nii.gz", check=4)
    run(folder, "coarse.nii.gz", "plain", "--anyway", "--quiet", out="o.h5")
    card = json.loads((folder / "plain.json").read_text())
    assert formats.read_provenance(folder / "o.h5").parameters["weights"] == f"SHA-256 {card['sha256']}"
