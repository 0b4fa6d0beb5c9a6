"""Put the best trainings of `emrecon benchmark learned` in the place of the weights that come with the library.

    emrecon benchmark learned --out DIR
    python benchmarks/ship_learned.py --from DIR

Of the seeds of each network the one of the least validation error is taken; test scans choose nothing. The card states
what the guide alone and MAP-RDP have on the same test scans, and whether the task is accepted.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from emrecon import unrolled
from emrecon.evaluation.learned.sections import acceptance
from emrecon.evaluation.learned.units import CONTROLS, REFERENCE, SHIPPED, SIZES, TASKS
from emrecon.evaluation.records import read_record
from emrecon.evaluation.running import CLAIM
from emrecon.evaluation.tasks import task_named
from emrecon.projectors.core.texts import read_json
from emrecon.unrolled.methods import PRESETS

FOLDER = Path(__file__).resolve().parents[1] / "unrolled" / "training"
MOST = 2_000_000  # bytes of all weights together


def main() -> None:
    """Write the weights that the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="folder", type=Path, required=True, help="folder of `emrecon benchmark learned`")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where weights go (default: into the library)")
    options = parser.parse_args()
    about = read_json(options.folder / CLAIM, "what a benchmark's folder holds")
    if about != {"suite": "learned", "size": "full"}:
        raise SystemExit(f"{options.folder} does not hold the full benchmark `learned`, but {about}")
    for task in TASKS:
        own = options.folder / "units" / task
        controls, reference = {name: seeds_of(own, name) for name in CONTROLS}, [numbers(own / REFERENCE)]
        control = min(controls.values(), key=lambda parts: mean([one["nrmse"] for one in parts]))
        said = acceptance({**controls, REFERENCE: reference}, SIZES["full"].budget.steps)
        print(f"{task}: {said}")
        for name in SHIPPED:
            ship(own, task, name, control, reference, said, options.out)
    size = sum(path.stat().st_size for path in options.out.glob("pretrained_*.safetensors"))
    print(f"{size / 1e6:.2f} MB in all" + (f", more than {MOST / 1e6:g} MB" if size > MOST else ""))


def numbers(folder: Path) -> dict[str, Any]:
    """Return the numbers of a finished unit; raises SystemExit where it is not done."""
    record = read_record(folder)
    if record is None or record.numbers is None:
        raise SystemExit(f"{folder} is not done; run `emrecon benchmark learned` to its end")
    return dict(record.numbers)


def seeds_of(own: Path, name: str) -> list[dict[str, Any]]:
    """Return the numbers of all trainings of a network."""
    folders = sorted((own / name).glob("seed-*"))
    if not folders:
        raise SystemExit(f"{own / name} holds no trainings")
    return [numbers(folder) for folder in folders]


def ship(own: Path, task: str, name: str, control: Any, reference: Any, said: str, out: Path) -> None:
    """Write the best training of a network under the name that the library has for it."""
    found = seeds_of(own, name)
    best = int(np.argmin([one["metrics"]["validation nrmse"] for one in found]))
    network, card = unrolled.load_network(own / name / f"seed-{best}" / "weights.safetensors", PRESETS)
    test = found[best]
    metrics = dict(card.metrics) | {
        "test nrmse": mean(test["nrmse"]),
        "test ssim": mean(test["ssim"]),
        "test nrmse with another's guide": mean(test["another's guide"]),
        "test nrmse of the guide alone": mean([one["nrmse"] for one in control]),
        "test nrmse of MAP-RDP": mean([one["nrmse"] for one in reference]),
    }
    kind = task.rpartition("-")[2].upper()
    notes = (
        f"{test['title']} for slices of brain {kind} with MR, trained by `emrecon benchmark learned`; as evidence its "
        f"task is {said.partition(':')[0].lower()}. Not for patients. Apache-2.0."
    )
    path = out / f"pretrained_{name}-{task}.safetensors"
    data = {**card.data, "level": 1.0, "training": {**card.data["training"], "simulation": recipe_of(card.data, task)}}
    written = unrolled.save_weights(path, network, replace(card, data=data, metrics=metrics, notes=notes))
    print(f"{path.name}: seed {best}, {written.parameters} parameters, test NRMSE {metrics['test nrmse']:.3f}")


def mean(values: Any) -> float:
    """Return the mean of numbers, to four digits."""
    return float(f"{np.mean(values):.4g}")


def recipe_of(data: Any, task: str) -> dict[str, Any]:
    """Return the recipe of the library that a card's scans are of; raises SystemExit where it has changed since."""
    here, there = task_named(task).base.model_dump(mode="json"), data["training"]["simulation"]
    changed = [key for key in here if key not in ("outputs", "batch", "n") and there.get(key) != here[key]]
    if changed:
        raise SystemExit(f"the recipe {here['name']} has changed since the training: {', '.join(changed)}")
    return here


if __name__ == "__main__":
    main()
