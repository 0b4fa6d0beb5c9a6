"""Bias and noise of methods: realisations of one scan, curves, point responses, spheres, and what a report shows."""

import numpy as np
import pytest
import torch

from emrecon import recon
from emrecon.evaluation import Lesion, Method, Options, Picture, Results, Table
from emrecon.evaluation.bias_noise import curve_of, point_responses, repeated, sections, units, with_truth
from emrecon.evaluation.records import Record, write_record
from emrecon.evaluation.tasks import Case
from emrecon.projectors import AcquisitionModel, ImageGrid, LinearResponse, SPECTGeometry, SPECTProjector

GRID = ImageGrid((12, 12, 2), 5.0)
A = SPECTProjector(GRID, SPECTGeometry.circular(8, 45, (12, 2), 5.0), None, LinearResponse(0.03, 2.0))


def truth():
    x, y, _ = np.broadcast_arrays(*GRID.coordinates())
    return ((x / 27) ** 2 + (y / 24) ** 2 < 1).astype(np.float32)


class Toy:
    """A task of one object."""

    name, title = "toy", "A toy"

    def cases(self, part, which, *, seed, level=1.0, change=None):
        image = torch.as_tensor(truth())[None]
        projector = A.with_attenuation(0.01 * image)
        factors = torch.full((1, *A.out_shape), 20.0 * level)
        model = AcquisitionModel(projector, factors, torch.full((1, *A.out_shape), 2.0 * level + 0.01 * seed))
        counts = np.random.default_rng((seed, 7)).poisson(model(image)).astype(np.float32)
        mask = torch.zeros(GRID.shape, dtype=torch.bool)
        mask[5:7, 5:7] = True
        lesion = Lesion(0, "hot", True, 10.0, 1.0, mask, ~mask)
        f = recon.PoissonLikelihood(torch.as_tensor(counts), model)
        about = ({"number": 0},)
        return Case(f, image, None, 0.01 * image, {"body": image > 0}, (lesion,), (), about, GRID)


def osem(case, fwhm=0.0):
    start = torch.ones_like(case.truth)
    for it in recon.osem(case.likelihood, start, 2):
        yield it.iteration, recon_filter(it.image, case.grid, fwhm)


def recon_filter(image, grid, fwhm):
    from emrecon.projectors import GaussianBlur

    return GaussianBlur(grid, fwhm)(image) if fwhm else image


METHOD = Method("osem", "OSEM", "classical", osem, {"fwhm": (0.0, 8.0)}, (2, 4))


def test_realisations_differ_and_share_their_object():
    case = repeated(Toy(), 0, 5)
    assert case.likelihood.data.shape == (5, *A.out_shape)
    assert not torch.equal(case.likelihood.data[0], case.likelihood.data[1])
    assert case.likelihood.model.background[:, 0, 0, 0].tolist() == pytest.approx([2 + 0.01 * i for i in range(5)])
    assert case.truth.shape == (5, *GRID.shape)
    assert [lesion.item for lesion in case.lesions] == list(range(5))
    alone = Toy().cases("test", [0], seed=3).likelihood
    one = recon.run(recon.osem(alone, torch.ones_like(case.truth[:1]), 2), 2)
    torch.testing.assert_close(METHOD.at(case, 2, fwhm=0.0)[3:4], one, rtol=1e-4, atol=1e-5)
    again = with_truth(case, case.truth[:2], 3, seed=1)
    assert again.likelihood.data.shape[0] == 6


def test_curves_say_that_filters_trade_noise_for_bias():
    case = repeated(Toy(), 0, 30)
    curve = curve_of("fwhm", ((w, METHOD.at(case, 4, fwhm=w)) for w in (0.0, 8.0)), case)
    sharp, soft = curve.points
    assert soft.noise < 0.7 * sharp.noise
    assert soft.bias > sharp.bias
    images = METHOD.at(case, 4, fwhm=0.0).numpy()
    inside = truth() > 0
    assert sharp.noise == pytest.approx(np.sqrt((images.std(0, ddof=1)[inside] ** 2).mean()), rel=1e-3)
    body = sharp.regions["body"]
    means = images[:, inside].mean(1)
    assert body["bias"] == pytest.approx(means.mean() - 1, abs=1e-4)
    assert body["low"] < body["bias"] < body["high"]
    assert body["noise"] == pytest.approx(means.std(ddof=1), rel=1e-3)


def test_point_responses_widen_by_the_filter():
    case = repeated(Toy(), 0, 1)
    sharp, soft = (point_responses(METHOD, case, {"fwhm": w}, 4, n_places=1)[0] for w in (0.0, 12.0))
    assert soft["widths"][0] > sharp["widths"][0] + 2
    assert soft["peak"] < sharp["peak"]
    assert soft["voxel"] == sharp["voxel"]


def test_a_unit_and_its_sections(tmp_path):
    (unit,) = units(Toy(), [METHOD], Options(size="quick"), chosen_by=lambda method: f"toy/{method.name}/settings")
    assert (unit.name, unit.needs) == ("toy/bias-noise/osem", ("toy/osem/settings",))
    chosen = {"settings": {"fwhm": 8.0}, "iteration": 3}
    (tmp_path / unit.needs[0]).mkdir(parents=True)
    write_record(tmp_path / unit.needs[0], Record(unit.needs[0], "", chosen))
    numbers = unit.run(tmp_path / unit.name)
    assert [p["at"] for p in numbers["curves"]["iterations"]] == [1, 2, 3]
    counts = numbers["curves"]["counts"]
    assert [p["at"] for p in counts] == [0.25, 0.5, 1.0, 2.0, 4.0]
    assert counts[0]["noise"] > 2 * counts[-1]["noise"]
    assert numbers["settings"] == {"fwhm": 8.0}
    recovered = [s["value"] for s in numbers["spheres"]]
    assert recovered == sorted(recovered)
    assert 0 < recovered[0] < recovered[-1] < 1.2
    (section,) = sections(Results({unit.name: numbers}, tmp_path))
    assert [type(part) for part in section.parts] == [Picture, Table, Table, Table]
    assert "toy" in section.title
