"""Fine-tune a network that comes with emrecon on your own measured scans, of which nobody knows the truth.

Scans, attenuation maps and MR images come from files (here a few simulated ones stand in for them). Every scan becomes
a likelihood of its own by `spect_problem`; the network learns to explain one half of the counts from the other half, so
no noise-free images are needed. The weights are kept with a card that says what was done.
"""

import numpy as np
import torch
from common import options, save

from emrecon import formats, projectors, recon, sims, unrolled

RESPONSE = projectors.collimator("siemens-lehr").response(140.5)
FIRST = "fbsem-net-brain-spect"


def write_scans(folder, n):
    """Stand-ins for measured scans, whose MR has another contrast than FIRST knows; returns the truths, to compare."""
    source = sims.RecipeSource(sims.load_recipe("brain-spect").model_copy(update={"seed": 77}))
    folder.mkdir(parents=True, exist_ok=True)
    truths = []
    for i in range(n):
        simulated, grid = source.simulations(i)[0], source.simulator.grid
        mr = source.draw(i).image("guide", grid)
        mr = np.where(mr > 0.1 * mr.max(), 1.1 * mr.max() - mr, 0)  # bright fluid, dark white matter
        formats.write_scan(folder / f"scan{i}.h5", simulated.scan)
        formats.write_image(folder / f"mu{i}.nii.gz", simulated.mu, grid)
        formats.write_image(folder / f"mr{i}.nii.gz", mr, grid)
        truths.append(simulated.truth)
    return truths


def read_case(folder, i):
    """What the network is called with, for one scan: its likelihood, with its own map, and its MR in any unit."""
    scan, (mu, grid) = formats.read_scan(folder / f"scan{i}.h5"), formats.read_image(folder / f"mu{i}.nii.gz")
    problem = recon.spect_problem(scan, mu=mu, response=RESPONSE, grid=grid, subsets=1)
    likelihood = problem.parts[0].converted(lambda values: torch.as_tensor(np.array(values, np.float32)))
    return {"likelihood": likelihood, "guide": formats.read_image(folder / f"mr{i}.nii.gz")[0]}


def main():
    """Read the scans, train on all but the last, and look at the last."""
    choice = options(__doc__)
    n, steps = (2, 1) if choice.quick else (6, 60)
    folder = choice.out / "fine_tune"
    truths = write_scans(folder, n)
    cases = [read_case(folder, i) for i in range(n)]
    training, last = cases[:-1], cases[-1]

    network, card = unrolled.pretrained(FIRST)
    with torch.no_grad():
        before = network(**last)
    print(f"before: deviance {float(unrolled.data_fit(before, last['likelihood'])):.3f} of what is expected;", end=" ")
    print(unrolled.fit_note(card, before, last["likelihood"]) or "not more than in training")

    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    objective = unrolled.ThinnedNoise2Noise(p=0.5)
    settings = unrolled.Settings(steps=steps, validate_every=steps, clip=1.0, folder=folder / "training")
    for record in unrolled.train(network, lambda epoch: training, objective, optimiser, settings):
        print(f"step {record.step}: loss {record.loss:.4f}")
    with torch.no_grad():
        after = network.eval()(**last)

    own = unrolled.Card(
        card.architecture, card.arguments, data={"from": FIRST, "scans": len(training)}, scale=card.scale, notes="mine"
    )
    unrolled.save_weights(folder / "mine.safetensors", network, own)
    # on the command line: emrecon reconstruct SCAN --method fbsem-net --weights mine.safetensors --guide MR ...
    unrolled.load_network(folder / "mine.safetensors", {"fbsem-net": unrolled.fbsem_net})
    truth = truths[-1]
    print({name: f"NRMSE {recon.nrmse(x.numpy(), truth):.3f}" for name, x in (("before", before), ("after", after))})
    osem = recon.run(recon.osem(last["likelihood"], n_subsets=6), 4)
    save(
        choice.out / "fine_tune.png",
        {"truth": truth, "OSEM": osem.numpy(), "as it comes": before.numpy(), "fine-tuned": after.numpy()},
    )


if __name__ == "__main__":
    main()
