"""What is measured of a scan, and the note where it lies outside of what a card says that the training saw."""

import numpy as np
import pytest
import torch
from scipy.ndimage import shift as moved

from emrecon import projectors, recon, sims
from emrecon.unrolled.training.domain import scan_notes, scan_statistics, statistics_range
from emrecon.unrolled.training.shipped import pretrained
from emrecon.unrolled.training.weights import Card

N, SIZE = 24, 8.0
GRID = projectors.ImageGrid((N, N, 1), SIZE)
CAMERA = projectors.SPECTGeometry.circular(n_views=24, radius=150, n_bins=(N, 1), pixel_size=SIZE)
MODEL = projectors.AcquisitionModel(projectors.SPECTProjector(GRID, CAMERA), background=0.3)
SIZES = {"voxel_size": GRID.voxel_size}


@pytest.fixture(scope="module")
def scans():
    """Six scans and guides that show the same borders in other intensities."""
    truth = torch.stack(
        [torch.as_tensor(sims.random_ellipses(seed=k).activity(GRID).astype(np.float32)) for k in range(6)]
    )
    truth = 4 * truth / truth.amax((1, 2, 3), keepdim=True)
    counts = torch.poisson(MODEL(truth), generator=torch.Generator().manual_seed(1))
    return recon.PoissonLikelihood(counts, MODEL), 7 * truth.sqrt()


def test_counts_and_background_are_those_of_the_scan(scans):
    likelihood, guide = scans
    found = scan_statistics(likelihood, guide, **SIZES)
    counts = likelihood.data.double().sum((1, 2, 3))
    n_seen = (likelihood.sensitivity_like(guide) > 0).sum()
    torch.testing.assert_close(found["counts per voxel"], counts / n_seen)
    torch.testing.assert_close(found["background"], 0.3 * likelihood.data[0].numel() / counts)
    assert (found["object"] > 0.05).all()
    assert (found["object"] < 1).all()


def test_subsets_and_single_scans_have_the_same_statistics(scans):
    likelihood, guide = scans
    found = scan_statistics(likelihood, guide, **SIZES)
    for name, values in scan_statistics([likelihood.subset(k, 3) for k in range(3)], guide, **SIZES).items():
        torch.testing.assert_close(values, found[name], rtol=2e-3, atol=2e-3)
    one = recon.PoissonLikelihood(likelihood.data[2], MODEL)
    for name, value in scan_statistics(one, 100 * guide[2], **SIZES).items():
        assert value.shape == ()
        assert float(value) == pytest.approx(float(found[name][2]), rel=1e-3, abs=1e-3)
    assert set(scan_statistics(one)) == {"counts per voxel", "background", "object", "variation"}
    several = scan_statistics(one, torch.stack([guide[2], guide[1]]), **SIZES)
    torch.testing.assert_close(several["guide 1 offset"], found["guide offset"][2], rtol=1e-3, atol=1e-3)
    assert several["guide 2 agreement"] < several["guide 1 agreement"]


@pytest.mark.parametrize("mm", [(8.0, 0.0), (0.0, -12.0), (-8.0, 8.0)])
def test_a_guide_that_is_displaced_has_that_offset(scans, mm):
    likelihood, guide = scans
    aligned = scan_statistics(likelihood, guide, **SIZES)
    assert float(aligned["guide offset"].max()) < 0.4 * SIZE
    aside = np.stack([moved(g, (mm[0] / SIZE, mm[1] / SIZE, 0), order=1) for g in guide.numpy()])
    found = scan_statistics(likelihood, torch.as_tensor(aside), **SIZES)
    assert float(found["guide offset"].mean()) == pytest.approx(np.hypot(*mm), abs=2.5)
    assert (found["guide agreement"] < aligned["guide agreement"]).all()


def test_a_note_names_what_lies_outside_of_the_range(scans):
    likelihood, guide = scans
    seen = statistics_range([scan_statistics(likelihood, guide, **SIZES)])
    assert seen["n"] == 6
    card = Card("any", data={"statistics": seen})
    assert scan_notes(card, scan_statistics(likelihood, guide, **SIZES)) == []
    assert scan_notes(Card("any"), scan_statistics(likelihood, guide, **SIZES)) == []
    assert scan_notes(Card("any", data="of a friend"), scan_statistics(likelihood, guide, **SIZES)) == []
    (note,) = scan_notes(card, {"counts per voxel": torch.tensor([1e3, 2e4])})
    assert note.startswith("outside of what the network was trained on: the counts per voxel that is seen is 2e+04")
    (note,) = scan_notes(card, {"guide offset": torch.tensor(31.0)})
    assert "distance by which the guide would have to move to fit the activity best is 31 mm" in note
    several = Card("any", data={"statistics": {"guide 2 offset": [0.0, 1.0]}})
    assert "(guide 2) is 9 mm" in scan_notes(several, {"guide 2 offset": torch.tensor(9.0)})[0]
    somebody_else = scan_statistics(likelihood, guide.roll(1, 0), **SIZES)
    assert scan_notes(card, {"guide agreement": somebody_else["guide agreement"]})


def test_a_guide_3_mm_aside_gets_a_note_of_the_weights_that_come_with_the_library():
    _, card = pretrained("fbsem-net-brain-pet")
    source = sims.RecipeSource(sims.load_recipe("brain-pet"))
    for index in sims.SimulatedDataset(source, "test").numbers[:2]:
        simulated = source.simulations(index)[0]
        counts, given = torch.from_numpy(simulated.scan.counts), simulated.model()
        background = torch.from_numpy(given.background).clamp(min=1e-3 * float(counts.mean()))
        f = recon.PoissonLikelihood(counts, projectors.AcquisitionModel(given.projector, given.factors, background))
        guide = source.draw(index).image("guide", source.simulator.grid).astype(np.float32)
        sizes = {"voxel_size": source.simulator.grid.voxel_size}
        assert scan_notes(card, scan_statistics(f, torch.as_tensor(guide), **sizes)) == []
        aside = torch.as_tensor(moved(guide, (0, 3.0 / 3.6, 0), order=1))
        assert any("guide would have to move" in n for n in scan_notes(card, scan_statistics(f, aside, **sizes)))
