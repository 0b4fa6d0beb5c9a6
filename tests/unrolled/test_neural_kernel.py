"""Neural KEM, the deep image prior by optimisation transfer, and kernels that a network has learned."""

from itertools import islice

import numpy as np
import pytest
import torch
from dip_cases import MR, QUICK, F, one_thread, scan, small_network, take
from scipy.ndimage import gaussian_filter
from spect_cases import projector as spect_projector
from torch import nn

from emrecon.projectors import AcquisitionModel, Diagonal
from emrecon.recon import (
    Checkpoint,
    ListmodeLikelihood,
    PoissonLikelihood,
    em_step,
    kem,
    kem_step,
    kernel_matrix,
    nrmse,
    osem,
    run,
)
from emrecon.unrolled.methods.dip import Fit
from emrecon.unrolled.methods.neural_kernel import (
    Neighbours,
    NeuralKEM,
    deep_kernel,
    default_features,
    dip_ot,
    with_kernel,
)


@pytest.fixture(autouse=True, scope="module")
def threads():
    with one_thread():
        yield


K = kernel_matrix(MR, n_neighbours=8, window=5)


# ---- neural KEM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [None, K], ids=["identity", "kernel"])
@pytest.mark.parametrize("fit", [Fit("adam", 6, 3e-3), Fit("lbfgs", 1, max_iterations=4)])
def test_the_likelihood_never_gets_worse(kernel, fit):
    recon = NeuralKEM(small_network(), kernel=kernel, fit=fit, **QUICK)
    values = [float(F.value(it.image)) for it in islice(recon.iterates(F, guide=MR), 35)]
    assert np.diff(values).max() <= 1e-7 * abs(values[0])
    assert values[-1] < values[0] - 10


def test_the_target_is_a_step_of_kernel_em():
    alpha = torch.rand(MR.shape, generator=torch.Generator().manual_seed(0)) + 0.1
    torch.testing.assert_close(em_step(alpha, with_kernel(F, K)), kem_step(alpha, F, K))
    listed = ListmodeLikelihood(AcquisitionModel(F.model.projector, 1.0, 0.1), F.sensitivity)
    torch.testing.assert_close(with_kernel(listed, K).sensitivity, K.T(F.sensitivity))


def test_the_identity_for_a_kernel_is_dip_ot():
    options = {"fit": Fit("adam", 5, 1e-3), "n_iterations": 3, **QUICK}
    identity = NeuralKEM(small_network(), kernel=Diagonal(torch.ones(MR.shape)), **options)
    torch.testing.assert_close(identity(F, guide=MR), dip_ot(small_network(), **options)(F, guide=MR))


def test_the_image_is_the_kernel_of_the_coefficients():
    it = take(NeuralKEM(small_network(), kernel=K, fit=Fit("adam", 3), **QUICK).iterates(F, guide=MR), 2)
    assert torch.equal(it.image, K(it.state["coefficients"]))


@pytest.mark.parametrize("saved", [False, True])
def test_it_goes_on_bit_for_bit(saved, tmp_path):
    recon = NeuralKEM(small_network(), kernel=K, fit=Fit("adam", 5, 1e-3), n_subsets=2, **QUICK)
    whole = take(recon.iterates(F, guide=MR), 4)
    half = take(recon.iterates(F, guide=MR), 2)
    if saved:
        keep = Checkpoint(tmp_path / "at.npz")
        keep(half)
        half = keep.load(MR)
    again = take(recon.iterates(F, half, guide=MR), 2)
    assert again.iteration == whole.iteration == 4
    assert all(torch.equal(again.state[name], whole.state[name]) for name in ("coefficients", "weights", "moments"))


@pytest.mark.parametrize("kernel", [None, K], ids=["identity", "kernel"])
def test_counts_and_background_doubled_double_the_image(kernel):
    more = PoissonLikelihood(2 * F.data, AcquisitionModel(F.model.projector, 1.0, 2 * F.model.background))
    recon = NeuralKEM(small_network(), n_iterations=3, kernel=kernel, fit=Fit("adam", 5, 1e-3), **QUICK)
    torch.testing.assert_close(recon(more, guide=MR), 2 * recon(F, guide=MR), rtol=1e-4, atol=0)


def test_single_photons_in_three_dimensions_and_double_precision():
    projector = spect_projector("thin", "gaussian")
    data = torch.as_tensor(np.random.default_rng(0).poisson(3.0, projector.out_shape).astype(float))
    f = PoissonLikelihood(data, AcquisitionModel(projector, 1.0, 0.5))
    image = dip_ot(small_network(3), n_iterations=2, fit=Fit("adam", 5), **QUICK)(f)
    assert image.shape == projector.in_shape
    assert image.dtype == torch.float64


@pytest.mark.slow
def test_it_beats_filtered_osem():
    """Against the best pass and the best filter of OSEM, chosen by the truth; this one stops at a number."""
    first = {"initial_steps": 10, "initial_fit": Fit("adam", 60, 1e-2)}
    network, errors = small_network(width=8, depth=4), []
    transfer = dip_ot(network, n_iterations=20, fit=Fit("adam", 15, 3e-3), **first)
    for seed in (1, 2, 3):
        f, truth, mr = scan(seed=seed)
        passes = [it.image.numpy() for it in islice(osem(f, n_subsets=4), 12)]
        filtered = [gaussian_filter(x, (w, w, 0)) for x in passes for w in np.arange(0.5, 2, 0.1)]
        best = min(nrmse(x, truth.numpy()) for x in filtered)
        errors.append((nrmse(transfer(f, guide=mr).numpy(), truth.numpy()), best))
    made, best = np.mean(errors, 0)
    assert made < 0.97 * best


# ---- deep kernel -----------------------------------------------------------------------------------------------------


def frames(shape=(12, 10, 1), n=2, seed=0):
    rng = np.random.default_rng(seed)
    clean = np.kron(rng.uniform(1, 5, (n, *(-(-m // 4) for m in shape))), np.ones((1, 4, 4, 4)))
    clean = clean[:, : shape[0], : shape[1], : shape[2]]
    return (torch.as_tensor(rng.poisson(k * clean) / k, dtype=torch.float32) for k in (200, 5))


@pytest.mark.parametrize("shape", [(12, 10, 1), (7, 6, 5)])
@pytest.mark.parametrize("window", [5, None])
def test_rows_sum_to_one_and_the_transpose_is_exact(shape, window):
    z, low = frames(shape)
    mask = z[0] > 1.5
    network = small_network(2 if shape[2] == 1 else 3, channels=2, out=4)
    kernel = deep_kernel(z, low, network=network, n_neighbours=9, window=window, mask=mask, n_iterations=4)
    matrix = kernel.matrix
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-6)
    assert (matrix.data > 0).all()
    assert (kernel.n_neighbours == kernel_matrix(z, n_neighbours=9, window=window, mask=mask).n_neighbours).all()
    rng = torch.Generator().manual_seed(0)
    x, y = (torch.randn(shape, generator=rng, dtype=torch.float64) for _ in range(2))
    assert float((kernel(x) * y).sum()) == pytest.approx(float((x * kernel.T(y)).sum()), rel=1e-12, abs=1e-12)
    np.testing.assert_allclose(
        kernel.T(y).numpy().ravel(), matrix.toarray().T @ y.numpy().ravel(), rtol=1e-6, atol=1e-8
    )


def test_weights_are_those_of_the_definition():
    z, _ = frames((6, 5, 1))
    neighbours = Neighbours.of(kernel_matrix(z, n_neighbours=11, window=3))
    features = torch.randn(30, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = neighbours.weights(features)
    for i in (0, 7, 29):
        chosen = neighbours.index[i][neighbours.valid[i]]
        distance = (features[chosen] - features[i]).square().mean(1).sqrt()
        torch.testing.assert_close(weights[i][neighbours.valid[i]], (-distance).softmax(0), atol=1e-5, rtol=0)
    assert (weights[~neighbours.valid] == 0).all()
    images = torch.randn(2, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    matrix = neighbours.matrix(weights, (6, 5, 1)).matrix.toarray()
    expected = images.numpy() @ matrix.T
    np.testing.assert_allclose(neighbours.mixed(weights, images).numpy(), expected, atol=1e-5)


def test_gradients_of_the_weights():
    z, _ = frames((4, 3, 1))
    neighbours = Neighbours.of(kernel_matrix(z, n_neighbours=9, window=3))
    features = torch.randn(12, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(neighbours.weights, (features,))


def test_learning_lowers_the_loss_and_repeats():
    z, low = frames((16, 16, 1))
    network, losses = small_network(channels=2, out=8, width=8), []
    before = [p.clone() for p in network.parameters()]

    def note(it):
        losses.append(it.state["loss"])

    options = {"network": network, "n_neighbours": 20, "window": 5, "n_iterations": 60}
    first = deep_kernel(z, low, callbacks=[note], **options)
    assert losses[-1] < 0.9 * losses[0]
    assert len(losses) == 60
    np.testing.assert_allclose(deep_kernel(4 * z, 4 * low, **options).matrix.data, first.matrix.data, atol=1e-3)
    np.testing.assert_array_equal(first.matrix.data, deep_kernel(z, low, **options).matrix.data)
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before))


def test_it_serves_kernel_em_with_the_default_network():
    f, _, mr = scan(n=20)
    low = mr + 0.3 * torch.randn(mr.shape, generator=torch.Generator().manual_seed(0))
    kernel = deep_kernel(mr, low, n_neighbours=9, window=5, n_iterations=3)
    assert run(kem(f, kernel), 3).shape == mr.shape
    assert NeuralKEM(small_network(), kernel=kernel, n_iterations=1, fit=Fit("adam", 2), **QUICK)(f).shape == mr.shape
    assert default_features(3, 2, 0)(torch.rand(1, 2, 16, 16, 9)).shape == (1, 16, 16, 16, 9)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: dip_ot(small_network(), kernel=K), "no kernel"),
        (lambda: NeuralKEM(small_network(), kernel=Diagonal(np.ones((2, 2, 1))))(F), "does not fit images"),
        (lambda: NeuralKEM(small_network(), n_iterations=0), "at least one"),
        (lambda: deep_kernel(torch.ones(4, 4, 1), torch.ones(4, 3, 1)), "must both be"),
        (lambda: deep_kernel(torch.zeros(4, 4, 1), torch.ones(4, 4, 1)), "mean above 0"),
        (lambda: deep_kernel(torch.full((4, 4, 1), torch.nan), torch.ones(4, 4, 1)), "finite"),
        (lambda: deep_kernel(MR, MR, n_iterations=0), "at least 1"),
        (lambda: deep_kernel(MR, MR, network=nn.Conv2d(1, 4, 3)), "features of that size"),
    ],
)
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()
