"""Samples per second of the recipes, as `emrecon simulate` makes them: `speed_simulate.py [--n 20000]`."""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import RESULTS, machine, machine_line

from emrecon.cli.simulate import reconstruct
from emrecon.sims import RecipeSource, load_recipe, loader, recipe_names, source_of, write_dataset
from emrecon.sims.datasets.reading import Dataset


def main() -> None:
    """Write a whole set of the first recipe and read it, and time one batch of each of the others."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--n", type=int, default=20000, help="samples of the spectnet recipe")
    arguments.add_argument("--workers", type=int, default=2)
    arguments.add_argument("--only-spectnet", action="store_true")
    options = arguments.parse_args()
    about = machine()
    print(machine_line(about))
    results: dict[str, Any] = {"machine": about, "spectnet": whole_set(options.n, options.workers)}
    for name in recipe_names():
        if name != "spectnet" and not options.only_spectnet:
            results[name] = one_batch(name)
    (RESULTS / "speed_simulate.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def whole_set(n: int, workers: int) -> dict[str, float]:
    """Return how long it takes to write n samples of the spectnet recipe, and to read them."""
    folder = Path(tempfile.mkdtemp())
    try:
        written = write_dataset(RecipeSource(load_recipe("spectnet"), n), folder, workers=workers)
        minutes, megabytes = written.seconds / 60, written.n_bytes / 1e6
        print(f"spectnet: {n} samples in {minutes:.2f} minutes on {workers} workers, {n / written.seconds:.1f}/s")
        data = Dataset(folder, fields=["counts", "mu", "truth"])
        start, read = time.perf_counter(), 0
        for batch in loader(data, 160, shuffle=True):
            read += len(batch["truth"])
        rate = read / (time.perf_counter() - start)
        print(f"  {megabytes:.0f} MB; shuffled reading in one process {rate:.0f} samples/s")
        return {"n": n, "workers": workers, "minutes": minutes, "megabytes": megabytes, "read_per_second": rate}
    finally:
        shutil.rmtree(folder)


def one_batch(name: str) -> dict[str, float]:
    """Return the seconds of a sample of a recipe, made in this process on all cores, after one to warm up."""
    source = source_of(load_recipe(name), reconstruct=reconstruct)
    n = min(source.batch, 64)
    source.samples(range(n))
    start = time.perf_counter()
    source.samples(range(n, 2 * n))
    seconds = (time.perf_counter() - start) / n
    print(f"{name}: {seconds:.3f} s a sample")
    return {"seconds": seconds}


if __name__ == "__main__":
    main()
