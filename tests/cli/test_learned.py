"""Networks on the command line: weights of the right kind, guides, dimensions, and deep image priors that go on."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import typer
from cli_cases import emrecon_or_raise as emrecon
from cli_cases import listmode

from emrecon import formats, recon, unrolled
from emrecon.cli import demo_brain, learned
from emrecon.cli.options import guide as guide_on
from emrecon.projectors import (
    AcquisitionModel,
    ImageGrid,
    LinearResponse,
    PETProjector,
    Scan,
    SPECTGeometry,
    SPECTProjector,
)
from emrecon.sims import poisson, uniform_cylinder
from emrecon.unrolled.training.shipped import pretrained, pretrained_names
from emrecon.unrolled.training.weights import Card, save_weights

FLAT = ImageGrid((16, 16, 1), 5.0)
DEEP = ImageGrid((16, 16, 4), 5.0)
PHANTOM = uniform_cylinder(radius=28, height=80)
RESPONSE = LinearResponse(0.03, 2.0)
SMALL = {"mapem-net": {"n_modules": 2, "width": 2}, "fbsem-net": {"n_modules": 1, "subsets": 3, "initial": [2, 4]}}
SMALL |= {"bcd-net": {"n_modules": 2, "channels": 3}, "em-net": {"n_modules": 2, "width": 2}}
SMALL |= {"osem-varnet": {"subsets": 2}, "lpd": {"n_iterations": 2, "width": 4}}


def camera(grid):
    return SPECTGeometry.circular(12, 70, (16, grid.shape[2]), 5.0)


def likelihood_of(folder, name, grid):
    scan = formats.read_scan(folder / name)
    model = scan.model(SPECTProjector(grid, camera(grid), None, RESPONSE))
    return recon.PoissonLikelihood(torch.from_numpy(np.array(scan.counts, np.float32)), model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A slice and a volume with a background, a guide, and small networks with new weights."""
    folder = tmp_path_factory.mktemp("learned")
    for name, grid in (("flat.h5", FLAT), ("deep.h5", DEEP)):
        model = AcquisitionModel(SPECTProjector(grid, camera(grid), None, RESPONSE), 1.0, 0.5)
        counts = poisson(model(3 * PHANTOM.activity(grid)), seed=0)
        formats.write_scan(folder / name, Scan(counts, camera(grid), background=0.5, radionuclide="Tc-99m"))
    formats.write_image(folder / "guide.nii.gz", 100 * PHANTOM.activity(DEEP), DEEP)
    ramp = np.broadcast_to(np.arange(16.0, dtype=np.float32)[:, None, None], DEEP.shape)
    formats.write_image(folder / "mu.nii.gz", ramp, DEEP)
    for method, options in SMALL.items():
        save(folder / f"{method}.safetensors", method, **options)
    save(folder / "guided.safetensors", "mapem-net", guide_channels=1, **SMALL["mapem-net"])
    save(folder / "two.safetensors", "mapem-net", guide_channels=2, **SMALL["mapem-net"])
    save(folder / "volumes.safetensors", "mapem-net", **{**SMALL["mapem-net"], "dimensions": 3})
    return folder


def save(path, method, *, dimensions=2, guide_channels=0, voxel_size=(5.0, 5.0, 5.0), taught=None, **options):
    arguments = {"dimensions": dimensions, **options} | ({"guide_channels": guide_channels} if guide_channels else {})
    with unrolled.seeded(0):
        network = learned.registry()[method](**arguments)
    data = {"guide": [None, "guide", ["guide", "mu"]][guide_channels]}
    data["training"] = {"simulation": {"grid": {"voxel_size": list(voxel_size)}, **(taught or {})}}
    save_weights(path, network, Card(method, arguments, data))


def reconstructed(folder, tmp_path, method, *options, scan="flat.h5"):
    out = tmp_path / "x.h5"
    emrecon("reconstruct", folder / scan, "--response", "0.03,2", "--method", method, "--out", out, *options)
    return formats.read_image(out)[0]


# ---- trained networks ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", SMALL)
@pytest.mark.parametrize("scan", ["flat.h5", "deep.h5"])
def test_the_command_is_what_the_network_does(folder, tmp_path, capsys, method, scan):
    path = folder / f"{method}.safetensors"
    image = reconstructed(folder, tmp_path, method, "--weights", path, scan=scan)
    network = learned.load(method, path, n_guides=0).network
    with torch.no_grad():
        expected = network(likelihood_of(folder, scan, FLAT if scan == "flat.h5" else DEEP))
    np.testing.assert_allclose(image, expected.numpy(), rtol=1e-4, atol=1e-4 * float(expected.max()))
    text = capsys.readouterr().out
    assert f"{method} of {method}.safetensors, " in text
    assert "starting from" not in text


def test_a_network_of_data_takes_scans_of_fewer_views(folder, tmp_path, capsys):
    whole = formats.read_scan(folder / "flat.h5")
    projector = SPECTProjector(FLAT, whole.geometry, None, RESPONSE)
    path = tmp_path / "data.safetensors"
    options = {"width": 2, "depth": 2, "passes": 1, "subsets": 2, "scan": unrolled.described(projector)}
    save(path, "sinogram-net", **options)
    n = whole.geometry.n_views
    few = replace(whole, counts=whole.counts[::2], geometry=whole.geometry.subset(0, 2))
    formats.write_scan(folder / "few.h5", few)
    image = reconstructed(folder, tmp_path, "sinogram-net", "--weights", path, scan="few.h5")
    assert f"data.safetensors predicts {n - n // 2} of {n} views; {n // 2} are measured" in capsys.readouterr().out
    hidden = unrolled.partly_measured(
        likelihood_of(folder, "flat.h5", FLAT), unrolled.every_view(n, 2, projector.out_shape)
    )
    network = learned.load("sinogram-net", path, n_guides=0).network
    with torch.no_grad():
        expected = network(hidden)
    np.testing.assert_allclose(image, expected.numpy(), rtol=1e-3, atol=1e-3 * float(expected.max()))
    turned = replace(few.geometry, angles=few.geometry.angles + 90 / n)
    formats.write_scan(folder / "few.h5", replace(few, geometry=turned))
    with pytest.raises(ValueError, match=f"is not among the {n} views of the training"):
        reconstructed(folder, tmp_path, "sinogram-net", "--weights", path, scan="few.h5")


def test_scans_of_two_tracers_are_for_python(folder, tmp_path):
    with pytest.raises(typer.BadParameter, match="takes the frames of a scan together"):
        reconstructed(folder, tmp_path, "dual-tracer", "--weights", folder / "mapem-net.safetensors")


def test_guides_and_volumes(folder, tmp_path):
    guide = ("--guide", folder / "guide.nii.gz")
    image = reconstructed(
        folder, tmp_path, "mapem-net", "--weights", folder / "guided.safetensors", *guide, scan="deep.h5"
    )
    network = learned.load("mapem-net", folder / "guided.safetensors", n_guides=1).network
    shown = torch.from_numpy(formats.read_image(folder / "guide.nii.gz")[0].astype(np.float32))
    with torch.no_grad():
        expected = network(likelihood_of(folder, "deep.h5", DEEP), guide=unrolled.normalised_guide(shown))
    np.testing.assert_allclose(image, expected.numpy(), rtol=1e-4, atol=1e-4)
    image = reconstructed(folder, tmp_path, "mapem-net", "--weights", folder / "volumes.safetensors", scan="deep.h5")
    assert image.shape == DEEP.shape
    with pytest.raises(ValueError, match=r"holds a mapem-net of volumes \(3-D\), and this image has one slice"):
        reconstructed(folder, tmp_path, "mapem-net", "--weights", folder / "volumes.safetensors")


def test_several_guides(folder, tmp_path, monkeypatch):
    names, two = ("guide.nii.gz", "mu.nii.gz"), folder / "two.safetensors"
    shown = torch.stack([torch.from_numpy(formats.read_image(folder / name)[0].astype(np.float32)) for name in names])
    guides = [word for name in names for word in ("--guide", folder / name)]
    image = reconstructed(folder, tmp_path, "mapem-net", "--weights", two, *guides, scan="deep.h5")
    network, likelihood = learned.load("mapem-net", two, 2).network, likelihood_of(folder, "deep.h5", DEEP)
    with torch.no_grad():
        expected, other = (
            network(likelihood, guide=unrolled.normalised_guide(images)) for images in (shown, shown.flip(0))
        )
    np.testing.assert_allclose(image, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert float((expected - other).abs().max()) > 1e-3  # their order matters
    small = unrolled.dip_ot(unrolled.SmallCNN(3, 2, widths=(4,)), fit=unrolled.Fit("adam", 3, 1e-2))
    monkeypatch.setattr(learned, "_deep_prior", lambda name, network, dimensions, n_guides: {2: small}[n_guides])
    image = reconstructed(folder, tmp_path, "dip-ot", *guides, "--iterations", 1, scan="deep.h5")
    expected = recon.run(small.iterates(likelihood, guide=shown), 1)
    np.testing.assert_allclose(image, expected.numpy(), rtol=1e-3, atol=1e-3)


def test_other_voxels_are_told(folder, tmp_path, capsys):
    path = tmp_path / "coarse.safetensors"
    save(path, "mapem-net", voxel_size=(7.0, 7.0, 7.0), **SMALL["mapem-net"])
    reconstructed(folder, tmp_path, "mapem-net", "--weights", path)
    assert "was trained on voxels of 7 x 7 x 7 mm, and these have 5 x 5 x 5 mm" in capsys.readouterr().out
    reconstructed(folder, tmp_path, "mapem-net", "--weights", folder / "mapem-net.safetensors")
    assert "trained on voxels" not in capsys.readouterr().out


def test_another_field_of_view_is_told(folder, tmp_path, capsys):
    path = tmp_path / "wide.safetensors"
    grid = {"grid": {"voxel_size": [5.0, 5.0, 5.0], "shape": [64, 64, 1]}}
    save(path, "mapem-net", taught=grid, **SMALL["mapem-net"])
    reconstructed(folder, tmp_path, "mapem-net", "--weights", path)
    assert "was trained on images of 320 x 320 mm, and these have 80 x 80 mm" in " ".join(
        capsys.readouterr().out.split()
    )


def test_the_other_kind_of_scan_is_told(folder, tmp_path, capsys):
    path = tmp_path / "pet.safetensors"
    save(path, "mapem-net", taught={"pet": {"rings": 1}, "spect": None}, **SMALL["mapem-net"])
    reconstructed(folder, tmp_path, "mapem-net", "--weights", path)
    assert "pet.safetensors was trained on PET, and this is SPECT" in capsys.readouterr().out


@pytest.mark.slow
def test_list_mode(folder, tmp_path):
    out = tmp_path / "x.h5"
    given = ("--method", "mapem-net", "--weights", folder / "mapem-net.safetensors", "--out", out)
    emrecon("reconstruct", listmode(tmp_path), "--max-ring-difference", 1, "--voxel", 16, *given)
    assert np.isfinite(formats.read_image(out)[0]).all()


@pytest.mark.parametrize(
    ("method", "options", "option", "message"),
    [
        (
            "fbsem-net",
            ("mapem-net",),
            "--weights",
            "holds weights of 'mapem-net', not of fbsem-net; use --method mapem-net",
        ),
        ("mapem-net", (), "--weights", "mapem-net needs a file of weights"),
        ("mapem-net", (), "--weights", "come with emrecon: mapem-net-brain-pet, mapem-net-brain-spect"),
        ("osem", ("mapem-net",), "--weights", "osem does not use it; it is for trained networks"),
        ("dip-recon", ("mapem-net",), "--weights", "dip-recon does not use it; it is for trained networks"),
        ("mapem-net", ("guided",), "--guide", "was trained with 1 guide image (such as MR or CT), got none"),
        ("mapem-net", ("mapem-net", "--guide", "GUIDE"), "--guide", "was trained without a guide"),
        (
            "mapem-net",
            ("two", "--guide", "GUIDE"),
            "--guide",
            "was trained with 2 guide images (such as MR or CT, then the attenuation map), got 1",
        ),
        ("mapem-net", ("mapem-net", "--iterations", 3), "--iterations", "mapem-net does not use it"),
        ("mapem-net", ("mapem-net", "--subsets", 3), "--subsets", "mapem-net does not use it"),
        ("mapem-net", ("mapem-net", "--log", "log.csv"), "--log", "mapem-net does not use it"),
        ("mapem-net", ("mapem-net", "--checkpoint", "x.npz"), "--checkpoint", "mapem-net does not use it"),
        ("mapem-net", ("mapem-net", "--prior", "rdp:1,2"), "--prior", "mapem-net does not use it"),
        ("osem", (None, "--network", "chain"), "--network", "osem does not use it"),
        ("dip-ot", (None, "--network", "swin"), "--network", "unknown network 'swin'; choose from unet, chain"),
        ("dip-ot", (None, "--order", "random"), "--order", "dip-ot does not use it"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, tmp_path, method, options, option, message):
    name, *more = options or (None,)
    more = [folder / "guide.nii.gz" if value == "GUIDE" else value for value in more]
    given = [] if name is None else ["--weights", folder / f"{name}.safetensors"]
    with pytest.raises(typer.BadParameter) as error:
        reconstructed(folder, tmp_path, method, *given, *more)
    assert error.value.param_hint == option
    assert message in error.value.message


def test_networks_that_come_with_the_library(folder, tmp_path, capsys):
    brain = demo_brain.simulate(0)
    grid = brain.scan.default_grid()
    formats.write_scan(tmp_path / "scan.h5", brain.scan)
    formats.write_image(tmp_path / "mr.nii.gz", brain.mr, brain.grid)
    given = ("--weights", "mapem-net-brain-pet", "--guide", tmp_path / "mr.nii.gz", "--out", tmp_path / "x.h5")
    emrecon("reconstruct", tmp_path / "scan.h5", "--method", "mapem-net", *given)
    network, card = pretrained("mapem-net-brain-pet")
    model = brain.scan.model(PETProjector(grid, brain.scan.geometry))
    likelihood = recon.PoissonLikelihood(torch.from_numpy(np.array(brain.scan.counts, np.float32)), model)
    guide = torch.from_numpy(guide_on([tmp_path / "mr.nii.gz"], grid, lambda path: None))
    with torch.no_grad():
        expected = network(likelihood, guide=unrolled.normalised_guide(guide)).numpy()
    np.testing.assert_allclose(formats.read_image(tmp_path / "x.h5")[0], expected, rtol=1e-3, atol=1e-4)
    text = capsys.readouterr().out
    assert f"mapem-net of mapem-net-brain-pet, {card.parameters} parameters" in text
    assert "trained on voxels" not in text
    with pytest.raises(typer.BadParameter, match="mapem-net-brain-pet was trained with 1 guide image"):
        reconstructed(folder, tmp_path, "mapem-net", "--weights", "mapem-net-brain-pet")
    with pytest.raises(
        typer.BadParameter, match=r"unknown weights 'mapem-net-heart'; .* choose from a file .*: fbsem-net-brain-pet, "
    ):
        reconstructed(folder, tmp_path, "mapem-net", "--weights", "mapem-net-heart")


def test_a_file_comes_before_a_name(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mapem-net-brain-pet").write_text("mine")
    with pytest.raises(ValueError, match=r"weights are .safetensors files .* not 'mapem-net-brain-pet'"):
        reconstructed(folder, tmp_path, "mapem-net", "--weights", "mapem-net-brain-pet")


def test_names_are_known_without_torch(capsys):
    assert pretrained_names() == learned.PRETRAINED
    for command in (("info",), ("reconstruct", "--help")):
        emrecon(*command)
        text = "".join(capsys.readouterr().out.replace("│", " ").split())
        assert ",".join(learned.PRETRAINED) in text


def test_unusable_files_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"the card of none\.safetensors is missing"):
        reconstructed(folder, tmp_path, "mapem-net", "--weights", tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match=r"weights are .safetensors files"):
        reconstructed(folder, tmp_path, "mapem-net", "--weights", tmp_path / "none.pt")
    card = json.loads((folder / "mapem-net.json").read_text())
    (tmp_path / "w.json").write_text(json.dumps({**card, "arguments": {"dimensions": 2, "n_modules": 2, "width": 3}}))
    (tmp_path / "w.safetensors").write_bytes((folder / "mapem-net.safetensors").read_bytes())
    with pytest.raises(ValueError, match="other arguments"):
        reconstructed(folder, tmp_path, "mapem-net", "--weights", tmp_path / "w.safetensors")
    (tmp_path / "w.json").write_text(json.dumps({**card, "architecture": "magic"}))
    with pytest.raises(typer.BadParameter, match=r"holds weights of 'magic', not of mapem-net$"):
        reconstructed(folder, tmp_path, "mapem-net", "--weights", tmp_path / "w.safetensors")


def test_missing_packages_are_named(folder, tmp_path, monkeypatch):
    for package in ("torch", "safetensors.torch"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=rf'need {package[:5]}\w*: pip install "emrecon\[torch\]"'):
                reconstructed(folder, tmp_path, "mapem-net", "--weights", folder / "mapem-net.safetensors")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "torch", None)
        with pytest.raises(ImportError, match=r"emrecon\[torch\]"):
            reconstructed(folder, tmp_path, "dip-recon")


# ---- deep image priors -----------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch):
    """Few steps, and a small network."""
    body = unrolled.SmallCNN(2, 1, widths=(4,))
    few = {"initial_steps": 3, "initial_fit": unrolled.Fit("adam", 5, 1e-2), "fit": unrolled.Fit("adam", 3, 1e-2)}
    few["dimensions"] = 2
    made = {"dip-recon": unrolled.DIPRecon(body, **few), "dip-ot": unrolled.dip_ot(body, **few)}
    monkeypatch.setattr(learned, "_deep_prior", lambda name, *_: made[name])
    return made


@pytest.mark.parametrize("method", ["dip-recon", "dip-ot"])
@pytest.mark.parametrize("guided", [False, True])
def test_deep_priors(folder, tmp_path, capsys, quick, method, guided):
    guide = ("--guide", folder / "guide.nii.gz") if guided else ()
    log = tmp_path / "log.csv"
    image = reconstructed(folder, tmp_path, method, *guide, "--iterations", 2, "--log", log, scan="deep.h5")
    shown = formats.read_image(folder / "guide.nii.gz")[0].astype(np.float32) if guided else None
    likelihood = likelihood_of(folder, "deep.h5", DEEP)
    expected = recon.run(quick[method].iterates(likelihood, guide=shown), 2)
    np.testing.assert_allclose(image, expected.numpy(), rtol=1e-3, atol=1e-3)
    assert f"{method}, unet, 1 subset, {'guided' if guided else 'noise'}, 2 passes" in capsys.readouterr().out
    assert len(log.read_text().splitlines()) == 3


@pytest.mark.parametrize("method", ["dip-recon", "dip-ot"])
def test_an_interrupted_run_goes_on_exactly(folder, tmp_path, capsys, quick, method):
    whole = reconstructed(folder, tmp_path, method, "--iterations", 3)
    keep = ("--checkpoint", tmp_path / "kept.npz")
    reconstructed(folder, tmp_path, method, "--iterations", 2, *keep)
    parts = reconstructed(folder, tmp_path, method, "--iterations", 3, *keep)
    assert "going on after iteration 2" in capsys.readouterr().out
    np.testing.assert_array_equal(parts, whole)


def test_the_usual_deep_priors():
    for method, kind in {"dip-recon": unrolled.DIPRecon, "dip-ot": unrolled.NeuralKEM}.items():
        usual = learned._deep_prior(method, "unet", 2, 1)
        assert isinstance(usual, kind)
        assert usual.network is None
        assert usual.n_iterations == learned.DEEP_PRIORS[method]


def test_deep_priors_of_a_chain(folder, tmp_path, capsys):
    guide, few = ("--guide", folder / "guide.nii.gz"), ("--iterations", 1, "--subsets", 2)
    for method, norm, kind in (("dip-recon", "none", unrolled.DIPRecon), ("dip-ot", "group", unrolled.NeuralKEM)):
        prior = learned._deep_prior(method, "chain", 3, 2)
        assert isinstance(prior, kind)
        body = unrolled.dip_chain(3, 2, norm=norm).state_dict()
        torch.testing.assert_close(prior.network.state_dict(), body)
    image = reconstructed(folder, tmp_path, "dip-ot", *guide, *few, "--network", "chain")
    assert "dip-ot, chain, 2 subsets, guided, 1 pass," in capsys.readouterr().out
    parts = [likelihood_of(folder, "flat.h5", FLAT).subset(k, 2) for k in range(2)]
    same = unrolled.dip_ot(unrolled.dip_chain(2), fit=unrolled.Fit("adam", 10, 5e-3))
    expected = recon.run(same.iterates(parts, guide=guide_on(guide[1:], FLAT, lambda path: None)), 1)
    np.testing.assert_allclose(image, expected.numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fit", [1.0, 1e6])
def test_an_image_that_does_not_explain_its_counts_gets_a_note(folder, tmp_path, capsys, fit):
    path = tmp_path / "own.safetensors"
    with unrolled.seeded(0):
        network = unrolled.mapem_net(2, **SMALL["mapem-net"])
    metrics = {"data fit": fit, "data fit spread": 0.0}
    save_weights(path, network, Card("mapem-net", {"dimensions": 2, **SMALL["mapem-net"]}, metrics=metrics))
    reconstructed(folder, tmp_path, "mapem-net", "--weights", path)
    said = capsys.readouterr()
    assert ("explains the counts worse than expected" in " ".join((said.out + said.err).split())) == (fit == 1.0)


@pytest.mark.parametrize("known", [[100.0, 200.0], [0.0, 1e4]])
def test_a_scan_outside_of_what_the_card_knows_gets_a_note(folder, tmp_path, capsys, known):
    path = tmp_path / "own.safetensors"
    with unrolled.seeded(0):
        network = unrolled.mapem_net(2, **SMALL["mapem-net"])
    about = {"statistics": {"counts per voxel": known, "n": 40}}
    save_weights(path, network, Card("mapem-net", {"dimensions": 2, **SMALL["mapem-net"]}, about))
    reconstructed(folder, tmp_path, "mapem-net", "--weights", path)
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert ("the counts per voxel that is seen is" in text) == (known[0] == 100)
    assert ("100 to 200 in training" in text) == (known[0] == 100)
