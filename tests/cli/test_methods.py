"""The command line's methods and priors: what their text means, what they do to a small scan, and going on exactly."""

import sys

import numpy as np
import pytest
import typer
from cli_cases import emrecon_or_raise as emrecon
from cli_cases import listmode, measured

from emrecon import formats, recon
from emrecon.cli.main import main
from emrecon.cli.reconstruct import engine
from emrecon.projectors import (
    AcquisitionModel,
    DynamicScan,
    EnergyWindow,
    Frames,
    ImageGrid,
    LinearResponse,
    Scan,
    SPECTGeometry,
    SPECTProjector,
    WindowedScan,
)
from emrecon.sims import poisson, uniform_cylinder

GRID = ImageGrid((16, 16, 6), 5.0)
CAMERA = SPECTGeometry.circular(12, 70, (16, 6), 5.0)
PHANTOM = uniform_cylinder(radius=28, height=24)
RESPONSE = LinearResponse(0.03, 2.0)
COMMON = ("--response", "0.03,2", "--subsets", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small scan with a background, and a guide of the phantom on another grid."""
    folder = tmp_path_factory.mktemp("methods")
    model = AcquisitionModel(SPECTProjector(GRID, CAMERA, None, RESPONSE), 1.0, 0.5)
    counts = poisson(model(3 * PHANTOM.activity(GRID)), seed=0)
    formats.write_scan(folder / "scan.h5", Scan(counts, CAMERA, background=0.5, radionuclide="Tc-99m"))
    fine = ImageGrid((32, 32, 12), 2.5)
    formats.write_image(folder / "guide.nii.gz", 100 * PHANTOM.activity(fine), fine)
    return folder


def subsets_of(folder):
    scan = formats.read_scan(folder / "scan.h5")
    likelihood = recon.PoissonLikelihood(scan, scan.model(SPECTProjector(GRID, CAMERA, None, RESPONSE)))
    return [likelihood.subset(k, 4) for k in range(4)]


# ---- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "option", "message"),
    [
        (("--method", "oesm"), "--method", "unknown method 'oesm'; did you mean 'osem'? choose from osem, map-em"),
        (("--method", "magic"), "--method", "mlacf, mapem-net, fbsem-net"),
        (("--method", "svrg", "--prior", "rpd:1,2"), "--prior", "unknown prior 'rpd'; did you mean 'rdp'?"),
        (("--method", "SVRG", "--prior", "TV:1"), "--prior", "tv is a prior for spdhg or pdhg, not for svrg"),
        (("--method", "kem"), "--guide", "kem needs a guide image"),
        (("--order", "stagered"), "--order", "did you mean 'staggered'?"),
        (("--kernel", "12"), "--kernel", "the method kem only"),
        (("--collimator", "seimens-lehr"), "--collimator", "did you mean 'siemens-lehr'? choose from the names"),
    ],
)
def test_mistakes_name_the_option(folder, options, option, message):
    with pytest.raises(typer.BadParameter) as error:
        emrecon("reconstruct", folder / "scan.h5", *options)
    assert error.value.param_hint == option
    assert message in error.value.message


# ---- runs ------------------------------------------------------------------------------------------------------------

RUNS = [
    ("osem", (), "OSEM with 4 subsets, "),
    ("osem", ("--order", "staggered"), "OSEM with 4 subsets, "),
    ("map-em", ("--prior", "huber:0.05,1"), "MAP-EM with 4 subsets, 0.05 * Huber(delta=1, neighbours=26), "),
    ("map-em", ("--prior", "smooth-tv:0.05,0.1"), "SmoothedTotalVariation(epsilon=0.1)"),
    ("bsrem", ("--prior", "quadratic:0.05", "--neighbours", "6"), "0.05 * Quadratic(neighbours=6)"),
    ("svrg", ("--prior", "rdp:0.05,2"), "SVRG with 4 subsets, 0.05 * RelativeDifference(gamma=2, epsilon="),
    ("svrg", ("--prior", "rdp:0.05,2", "--kappa", "--order", "random:3"), "neighbours=26, kappa)"),
    ("svrg", (), "SVRG with 4 subsets, 2 passes"),
    ("lbfgsb", (), "L-BFGS-B, 2 passes"),
    ("saga", ("--prior", "log-cosh:0.05,1"), "SAGA with 4 subsets, 0.05 * LogCosh"),
    ("saga", ("--prior", "bowsher:0.05,4", "--guide", "GUIDE"), "Quadratic(neighbours=26, BowsherWeights)"),
    ("osl", ("--prior", "median:0.05"), "OSL with 4 subsets, 0.05 * MedianRoot(size=3x3x3)"),
    ("osl", ("--prior", "hyperbolic:0.05,1"), "Hyperbolic(delta=1, neighbours=26)"),
    ("lbfgsb", ("--prior", "non-local:0.01,1"), "L-BFGS-B, 0.01 * NonLocal(hyperbolic, delta=1, window"),
    ("bsrem", ("--prior", "non-local:0.01,1,0.5"), "NonLocal(hyperbolic, delta=1, guide, width=0.5"),
    ("bsrem", ("--prior", "non-local:0.01,1,20", "--guide", "GUIDE"), "guide, width=20"),
    ("spdhg", ("--prior", "tv:0.05"), "SPDHG with 4 subsets, 0.05 * TotalVariation()"),
    ("spdhg", (), "SPDHG with 4 subsets, "),
    ("pdhg", ("--prior", "dtv:0.05,1", "--guide", "GUIDE"), "PDHG, 0.05 * DirectionalTotalVariation"),
    ("kem", ("--guide", "GUIDE", "--kernel", "12,3"), "KEM with 4 subsets, 12 neighbours"),
]


@pytest.mark.parametrize(("method", "options", "said"), RUNS, ids=[" ".join((run[0], *run[1])) for run in RUNS])
@pytest.mark.slow
def test_every_method_reconstructs(folder, tmp_path, capsys, method, options, said):
    options = [folder / "guide.nii.gz" if option == "GUIDE" else option for option in options]
    out, log = tmp_path / "x.h5", tmp_path / "log.csv"
    emrecon(
        *("reconstruct", folder / "scan.h5", *COMMON, "--method", method, *options),
        *("--iterations", 2, "--out", out, "--log", log),
    )
    text = capsys.readouterr().out
    assert said in text
    assert ", 2 passes, " in text
    assert ("starting from one pass of OSEM with 4 subsets" in text) == (method != "osem")
    image, _ = formats.read_image(out)
    assert np.isfinite(image).all()
    assert image.min() >= 0
    inside = PHANTOM.activity(GRID) > 0.9
    assert image[inside].mean() > 5 * image[~inside].mean()
    assert np.isfinite([float(row.split(",")[2]) for row in log.read_text().splitlines()[1:]]).all()


def test_the_command_is_what_the_library_does(folder, tmp_path):
    log = tmp_path / "log.csv"
    emrecon(
        *("reconstruct", folder / "scan.h5", *COMMON, "--method", "svrg", "--prior", "rdp:0.3,2", "--kappa"),
        *("--order", "random:5", "--iterations", 4, "--out", tmp_path / "x.h5", "--log", log, "--quiet"),
    )
    parts = subsets_of(folder)
    first = next(recon.osem(parts, np.ones(GRID.shape, np.float32))).image
    kappa = np.sqrt(sum(recon.spatial_weights(part, first) ** 2 for part in parts))
    rdp = 0.3 * recon.RelativeDifference(2.0, epsilon=1e-3 * float(first.max()), kappa=kappa, voxel_size=(5, 5, 5))
    expected = recon.run(recon.svrg(parts, rdp, first, order=recon.RandomOrder(5)), 4)
    np.testing.assert_allclose(formats.read_image(tmp_path / "x.h5")[0], expected, rtol=1e-4, atol=1e-5)
    shown = float(log.read_text().splitlines()[-1].split(",")[2])
    assert shown == pytest.approx(sum(part.value(expected) for part in parts) + rdp.value(expected), rel=1e-6)


def test_priors_lower_what_they_measure(folder, tmp_path):
    def roughness(*options):
        emrecon("reconstruct", folder / "scan.h5", *COMMON, *options, "--iterations", 12, "--out", tmp_path / "x.h5")
        return float(recon.TotalVariation().value(formats.read_image(tmp_path / "x.h5")[0]))

    plain = roughness()
    for options in (("map-em", "quadratic:0.2"), ("lbfgsb", "rdp:0.5,2"), ("spdhg", "tv:0.5")):
        assert roughness("--method", options[0], "--prior", options[1]) < 0.8 * plain


# ---- going on --------------------------------------------------------------------------------------------------------

RESUMED = [
    ("osem", "--order", "random:1"),
    ("map-em", "--prior", "rdp:0.05,2"),
    ("bsrem", "--prior", "rdp:0.05,2", "--kappa"),
    ("svrg", "--prior", "rdp:0.05,2", "--kappa"),
    ("saga", "--prior", "non-local:0.01,1,0.5"),
    ("osl", "--prior", "median:0.05"),
    ("lbfgsb", "--prior", "rdp:0.05,2"),
    ("spdhg", "--prior", "tv:0.05", "--order", "random:2"),
    ("pdhg", "--prior", "dtv:0.05", "--guide", "GUIDE"),
    ("kem", "--guide", "GUIDE", "--kernel", "12,3"),
]


@pytest.mark.slow
@pytest.mark.parametrize("options", RESUMED, ids=lambda options: options[0])
def test_an_interrupted_run_goes_on_exactly(folder, tmp_path, monkeypatch, options):
    options = [folder / "guide.nii.gz" if option == "GUIDE" else option for option in options]
    common = ("reconstruct", folder / "scan.h5", *COMMON, "--quiet", "--iterations", 6, "--method", *options)
    done, limit, forward = 0, float("inf"), AcquisitionModel.__call__

    def counted(model, x):
        nonlocal done
        done += 1
        if done > limit:
            raise KeyboardInterrupt
        return forward(model, x)

    monkeypatch.setattr(AcquisitionModel, "__call__", counted)
    emrecon(*common, "--out", tmp_path / "whole.h5")
    state = ("--checkpoint", tmp_path / "state.npz", "--out", tmp_path / "parts.h5")
    in_all, done = done, 0
    for share in (0.5, 0.3):
        done, limit = 0, int(share * in_all) + 1
        monkeypatch.setattr(sys, "argv", ["emrecon", *map(str, (*common, *state))])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 130
        assert sorted(path.name for path in tmp_path.iterdir()) == ["state.npz", "whole.h5"]
    with np.load(tmp_path / "state.npz") as saved:
        assert 1 <= int(saved["iteration"]) < 6
    limit = float("inf")
    emrecon(*common, *state)
    whole, parts = (formats.read_image(tmp_path / name)[0] for name in ("whole.h5", "parts.h5"))
    np.testing.assert_array_equal(whole, parts)


def test_all_arrays_of_a_saved_iterate_move_to_the_device(monkeypatch):
    moved = []
    monkeypatch.setattr(engine, "to_device", lambda values, device: moved.append((values.shape, device)) or values)
    state = {"begun": np.array(3), "anchor": np.ones((2, 3, 4)), "length": np.ones((1, 1, 1))}
    at = engine._moved(recon.Iterate(5, np.zeros((2, 3, 4)), state), "cuda")
    assert sorted(moved) == [((1, 1, 1), "cuda"), ((2, 3, 4), "cuda"), ((2, 3, 4), "cuda")]
    assert (at.iteration, set(at.state)) == (5, set(state))
    assert engine._moved(None, "cuda") is None


def test_another_method_prior_or_guide_is_another_run(folder, tmp_path):
    own = formats.read_image(folder / "guide.nii.gz")
    formats.write_image(tmp_path / "guide.h5", *own)
    common = ("reconstruct", folder / "scan.h5", *COMMON, "--quiet", "--out", tmp_path / "x.h5")
    state = ("--checkpoint", tmp_path / "c.npz", "--guide", tmp_path / "guide.h5")
    first = ("--method", "svrg", "--prior", "bowsher:0.05,4")
    emrecon(*common, *state, *first, "--iterations", 1)
    emrecon(*common, *state, *first, "--iterations", 2)
    for change in (
        ("--method", "saga"),
        ("--prior", "bowsher:0.05,5"),
        ("--order", "sequential"),
        ("--neighbours", 18),
        ("--kappa",),
    ):
        with pytest.raises(ValueError, match="another run"):
            emrecon(*common, *state, *first, *change, "--iterations", 3)
    formats.write_image(tmp_path / "guide.h5", 2 * own[0], own[1])
    with pytest.raises(ValueError, match="another run"):
        emrecon(*common, *state, *first, "--iterations", 3)


def test_guides_that_are_no_guides(folder, tmp_path):
    common = ("reconstruct", folder / "scan.h5", "--method", "kem", "--out", tmp_path / "x.h5", "--quiet", "--guide")
    image = np.ones(GRID.shape, np.float32)
    image[3, 3, 3] = np.nan
    formats.write_image(tmp_path / "nan.nii", image, GRID)
    with pytest.raises(ValueError, match="guide must be finite"):
        emrecon(*common, tmp_path / "nan.nii")
    formats.write_image(tmp_path / "far.h5", np.ones(GRID.shape), ImageGrid(GRID.shape, 5.0, (900, 900, 900)))
    with pytest.raises(ValueError, match="do not overlap"):
        emrecon(*common, tmp_path / "far.h5")
    with pytest.raises(FileNotFoundError):
        emrecon(*common, tmp_path / "none.nii")
    assert not (tmp_path / "x.h5").exists()


def test_outputs_never_replace_the_guide(folder):
    before = (folder / "guide.nii.gz").read_bytes()
    with pytest.raises(OSError, match="would replace an input"):
        emrecon(
            *("reconstruct", folder / "scan.h5", "--method", "kem", "--guide", folder / "guide.nii.gz"),
            *("--out", folder / "guide.nii.gz"),
        )
    assert (folder / "guide.nii.gz").read_bytes() == before


@pytest.mark.parametrize("options", [("svrg", "--prior", "rdp:0.1,2", "--kappa"), ("spdhg", "--prior", "tv:0.01")])
def test_pet_sinograms_and_events(tmp_path, capsys, options):
    scan, _, _ = measured()
    formats.write_scan(tmp_path / "scan.h5", scan)
    common = ("--subsets", 2, "--iterations", 2, "--out", tmp_path / "x.h5", "--method", *options)
    emrecon("reconstruct", tmp_path / "scan.h5", *common)
    image, grid = formats.read_image(tmp_path / "x.h5")
    inside = np.hypot(*grid.coordinates()[:2])[:, :, 0] < 30
    assert image[inside].mean() > 5 * image[~inside].mean()
    more = ("--max-ring-difference", 1, "--voxel", 16)
    emrecon("reconstruct", listmode(tmp_path), *more, *common)
    image, grid = formats.read_image(tmp_path / "x.h5")
    near = (np.hypot(*grid.coordinates()[:2]) < 40)[..., 0]
    assert image[near].mean() > 20 * image[~near].mean()
    assert f"{options[0].upper()} with 2 subsets" in capsys.readouterr().out


# ---- info ------------------------------------------------------------------------------------------------------------


def test_info_describes_frames_and_windows(tmp_path, capsys):
    frames = Frames.parse("2x10,1x60")
    counts = np.ones((len(frames), *CAMERA.shape))
    formats.write_dynamic(tmp_path / "dynamic.h5", DynamicScan(counts, CAMERA, frames, radionuclide="Tc-99m"))
    emrecon("info", tmp_path / "dynamic.h5")
    text = capsys.readouterr().out
    assert "frames" in text
    assert "Tc-99m" in text
    windows = (EnergyWindow(126.5, 154.5, "photopeak"), EnergyWindow(120.0, 126.5, "lower"))
    scan = WindowedScan(windows, np.ones((2, *CAMERA.shape)), CAMERA, radionuclide="Tc-99m")
    formats.write_windowed_scan(tmp_path / "windows.h5", scan)
    emrecon("info", tmp_path / "windows.h5")
    assert "photopeak" in capsys.readouterr().out
