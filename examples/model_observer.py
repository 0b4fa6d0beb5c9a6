"""Whether a lesion is found: a model observer on images with and without it, and how sure its numbers are.

Three filters of the same OSEM images: the error falls by a third and more, and the lesion is seen no better, for a
filter that can be undone adds nothing. Every image is scored by an observer trained on all others.
"""

import matplotlib
import numpy as np
from common import options

from emrecon import projectors, recon, sims


def images_of(n_scans, n, level):
    """Return OSEM images (scans, n, n, 1) without and with a lesion, the truth of both, and the grid."""
    grid = projectors.ImageGrid((n, n, 1), 256 / n)
    camera = projectors.SPECTGeometry.circular(n_views=n, radius=150, n_bins=(n, 1), pixel_size=256 / n)
    response = projectors.collimator("siemens-lehr").response(140.5)
    simulator = sims.SPECTSimulator(grid, camera, response)
    body = sims.Region("body", sims.Ellipsoid((0, 0, 0), (100, 80, 80)), 1.0, "water")
    hot = sims.Region("lesion", sims.Ellipsoid((40, 20, 0), 8), 1.4, "water")
    found, truths = [], []
    for label, regions in enumerate([(body,), (body, hot)]):
        expected = simulator.expect(sims.Phantom(regions)).with_counts(level)
        batch = np.stack([sims.poisson(expected.total, seed) for seed in range(label, 2 * n_scans, 2)])
        model = projectors.AcquisitionModel(simulator.projector(expected.mu), expected.factors, expected.background)
        likelihood = recon.PoissonLikelihood(batch, model)
        found.append(recon.run(recon.osem(likelihood, n_subsets=8), 4))
        truths.append(expected.truth)
    return found, truths, grid


def main():
    """Simulate, reconstruct, observe, and draw channels, template and ROC curves."""
    choice = options(__doc__)
    n_scans, n = (30, 32) if choice.quick else (200, 64)
    found, truths, grid = images_of(n_scans, n, 4e4)
    size, voxel = 17 if choice.quick else 33, grid.voxel_size[0]
    x, y = (round((place - grid.origin[axis]) / voxel) for axis, place in enumerate((40, 20)))
    patch = (slice(None), *(slice(c - size // 2, c + size // 2 + 1) for c in (x, y)), 0)
    U = recon.laguerre_gauss_channels((size, size), width=24.0, n=5, voxel_size=voxel)
    observer = recon.ChannelisedHotelling(channels=U)

    drawn = []
    for name, width in (("OSEM", 0.0), ("OSEM, 8 mm", 8.0), ("OSEM, 20 mm", 20.0)):
        blur = projectors.GaussianBlur(grid, width) if width else lambda images: images
        absent, present = (blur(images) for images in found)
        scores = recon.leave_one_out(observer, absent[patch], present[patch])
        area = recon.leave_pair_out_area(observer, absent[patch], present[patch])
        exact = recon.snr_interval(absent[patch], present[patch], U)
        error = recon.nrmse(present, np.broadcast_to(truths[1], present.shape), dimensions=3).mean()
        print(f"{name:12} NRMSE {error:.3f}   area {area}   exact {exact.area}")
        drawn.append(
            (f"{name}: {area.value:.2f} ({area.low:.2f} to {area.high:.2f})", recon.roc_curve(*scores), present[0])
        )
    print(recon.normality(found[0][patch], U))
    picture(choice.out / "model_observer.png", drawn, U.reshape(size, size, -1))


def picture(path, drawn, channels):
    """Draw images above, channels below, and the ROC curves at the right."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplot_mosaic("abcRR;defRR", figsize=(9.5, 4.0), layout="constrained")
    for label, (title, _, image) in zip("abc", drawn):
        axes[label].imshow(image[..., 0].T, cmap="gray_r", vmin=0)
        axes[label].set_title(title.partition(":")[0], fontsize=9)
    for number, label in enumerate("def"):
        largest = abs(channels[..., number]).max()
        axes[label].imshow(channels[..., number].T, cmap="RdBu_r", vmin=-largest, vmax=largest)
        axes[label].set_title(f"channel {number + 1}", fontsize=9)
    for label in "abcdef":
        axes[label].set_axis_off()
    for title, curve, _ in drawn:
        axes["R"].plot(curve.false_positive, curve.true_positive, label=title)
    axes["R"].plot([0, 1], [0, 1], "k:", linewidth=0.8)
    axes["R"].set(xlabel="false positives", ylabel="lesions found", aspect="equal")
    axes["R"].legend(fontsize=8, loc="lower right")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=80)
    pyplot.close(figure)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
