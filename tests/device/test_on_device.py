"""The whole CUDA path on the emulated device: every public operation equals the CPU, and what crosses is counted."""

import logging
from itertools import islice

import numpy as np
import pytest
from device_cases import BATTERY, ENGINES, GUIDE, last, scan_of, scan_with_a_stray_count, scanner
from emulated_cupy import compiler, counting, emulated_device
from pet_cases import likelihoods_of_one_scan, listmode
from pet_cases import projector as pet_projector
from spect_cases import projector as spect_projector

from emrecon import recon
from emrecon.projectors.pet import launches as pet_launches
from emrecon.recon.likelihoods.unexplained import read_together

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler to run the kernels on the host"),
]
CASES = {f"{group}: {name}": case for group, make in BATTERY.items() for name, case in make().items()}


@pytest.fixture
def cupy():
    """The double in place of CuPy."""
    with emulated_device() as double:
        yield double


def flat(values):
    """The arrays in nested tuples and lists."""
    if isinstance(values, (tuple, list)):
        return [array for value in values for array in flat(value)]
    return [values]


@pytest.mark.parametrize("case", CASES)
def test_the_device_gives_what_the_cpu_gives(case, cupy):
    host, device = flat(CASES[case](lambda values: values)), flat(CASES[case](cupy.asarray))
    assert len(host) == len(device)
    for expected, found in zip(host, device):
        assert isinstance(found, cupy.ndarray) or case in ("measures: observer", "engines: lbfgsb of SciPy")
        found = found.get() if isinstance(found, cupy.ndarray) else found
        assert found.shape == np.shape(expected)
        assert found.dtype == np.asarray(expected).dtype
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(initial=1e-30))


PROJECTORS = {
    "SPECT": lambda: spect_projector("thin", "gaussian"),
    "SPECT, direct blur": lambda: spect_projector("planar", "direct"),
    "SPECT, measured response": lambda: spect_projector("planar", "measured"),
    "PET": lambda: pet_projector("TOF"),
    "events": lambda: listmode(True),
}


@pytest.mark.parametrize("name", PROJECTORS)
def test_a_projection_copies_nothing_and_waits_for_nothing(name, cupy):
    A = PROJECTORS[name]()
    x, y = (cupy.ones((2, *shape), np.float32) for shape in (A.in_shape, A.out_shape))
    A(x), A.T(y)  # tables go to the device
    with counting() as counts:
        A(x), A.T(y)
    assert counts.crossings == 0, str(counts)
    assert counts.launches


MOST = dict.fromkeys(("mlem", "osem", "map_em", "osem of events", "kem"), 1) | {"lbfgsb": 2, "pdhg": 2, "spdhg": 2}
MOST |= {"bsrem": 3, "osl": 3, "saga": 4, "svrg": 5, "svrg, steps found": 5}


@pytest.mark.parametrize("name", MOST)
def test_a_pass_of_an_engine_waits_a_fixed_number_of_times(name, cupy):
    """Whatever the number of subsets: EM once for all checks, gradient engines for each decision about a step."""
    sinogram, events, _, _ = likelihoods_of_one_scan(True)
    few, kernel = scan_of(scanner(), cupy.asarray), recon.kernel_matrix(GUIDE, n_neighbours=5, window=3)
    iterates = {
        **{name: make for name, make in ENGINES.items() if name != "osem"},
        "osem": lambda _: recon.osem(sinogram.converted(cupy.asarray), None, 2),
        "osem of events": lambda _: recon.osem(events.converted(cupy.asarray), None, 4),
        "kem": lambda f: recon.kem(f, kernel),
    }[name](few)
    next(islice(iterates, 2, 3))  # tables, sensitivities, and the first look at the start
    for _ in range(3):
        with counting() as counts:
            next(iterates)
        assert counts.to_device == 0, str(counts)
        assert counts.waits <= MOST[name], str(counts)


def test_what_is_wrong_is_said_at_the_end_of_the_pass(cupy, caplog):
    few, many = scan_with_a_stray_count(1.0), scan_with_a_stray_count(1e4)
    with caplog.at_level(logging.WARNING, "emrecon"):
        image = last(recon.osem(few.converted(cupy.asarray), None, 2), 3)
    assert caplog.text.count("1 of 189 bins hold 1 counts that the image cannot explain") == 1
    np.testing.assert_allclose(image.get(), last(recon.osem(few, None, 2), 3), rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="none are expected at all"):
        next(recon.osem(many.converted(cupy.asarray), None, 2))
    bad = cupy.ones(few.model.projector.in_shape)
    bad[0, 0, 0] = np.nan
    together = read_together()
    noted = together.__enter__()
    with read_together():
        few.converted(cupy.asarray).ratio(bad)  # nothing is read before the outer one ends
    with pytest.raises(ValueError, match="negative, NaN or infinite in"):
        noted.read()
    together.__exit__(None, None, None)


def test_events_that_do_not_fit_are_copied_in_parts(cupy, monkeypatch):
    monkeypatch.setattr(pet_launches, "_KEPT", 0)
    L = listmode(True)
    x = cupy.ones(L.in_shape, np.float32)
    L(x)
    with counting() as counts:
        found = L(x)
    assert counts.to_device == 1
    assert counts.bytes_to_device == 12 * L.out_shape[0]
    np.testing.assert_allclose(found.get(), L(x.get()), atol=1e-5)
