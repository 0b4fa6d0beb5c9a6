"""Simulated sets: the same bytes however they were made and whatever happened, and samples read back exactly."""

import errno
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from toy_sets import Toy, Where

from emrecon.projectors.core.errors import FormatError
from emrecon.sims.datasets import reading as datasets
from emrecon.sims.datasets import shards as _shards
from emrecon.sims.datasets.ranks import rank_and_size
from emrecon.sims.datasets.reading import Batches, Dataset, Field, SimulatedDataset, loader
from emrecon.sims.datasets.writing import write_dataset

pytestmark = pytest.mark.slow

HELPERS = Path(__file__).resolve().parent.parent
HELPERS_FIRST = {"PYTHONPATH": os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])])}
needs_fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")


def contents(folder):
    """Name and checksum of every file, hidden ones included."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}


def script(code, **options):
    """Start Python on some lines; what `toy_sets` exports is there.

    Where the tests themselves run in the background, SIGINT is ignored, and children inherit that: not these.
    """
    environment = os.environ | HELPERS_FIRST | {"EMRECON_NUM_THREADS": "1"}
    heard = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    lines = f"{heard}from toy_sets import *\nif __name__ == '__main__':\n    {code}"
    return subprocess.Popen([sys.executable, "-c", lines], env=environment, cwd="/", text=True, **options)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A complete set."""
    folder = tmp_path_factory.mktemp("toy") / "set"
    assert write_dataset(Toy(), folder, shard_size=8).complete
    return folder


def test_a_set_is_what_the_source_makes(made):
    data, source = Dataset(made), Toy()
    assert len(data) == 60
    for i, sample in enumerate(data):
        for name, values in source.samples([i]).items():
            assert sample[name].dtype == source.fields[name].dtype
            np.testing.assert_array_equal(sample[name], values[0])
    with h5py.File(made / "shard-00002.h5") as file:
        assert dict(file["counts"].attrs) == {"units": b"counts", "description": b"a sinogram", "first_sample": 16}
        assert file.attrs["n_samples"] == 8
        assert file["counts"].shuffle
        assert file["counts"].compression == "gzip"
    assert not [name for name in contents(made) if name.startswith(".")]


def test_any_number_of_workers_writes_the_same_bytes(made, tmp_path):
    told = []
    done = write_dataset(Toy(), tmp_path, shard_size=8, workers=3, progress=lambda *facts: told.append(facts))
    assert contents(tmp_path) == contents(made)
    assert (done.n_made, done.complete) == (60, True)
    assert [facts[0] for facts in told] == sorted(facts[0] for facts in told)
    assert told[0][:2] == (0, 60)
    assert told[-1][:2] == (60, 60)
    assert told[-1][3] == done.n_bytes == sum(path.stat().st_size for path in tmp_path.glob("*.h5"))


def test_any_executor_runs_the_shards(made, tmp_path):
    with ThreadPoolExecutor(3) as pool:
        assert write_dataset(Toy(), tmp_path, shard_size=8, executor=pool).complete
    assert contents(tmp_path) == contents(made)


def test_ranks_together_write_the_same(made, tmp_path):
    runs = [script(f"write_dataset(Toy(), {str(tmp_path)!r}, shard_size=8, rank={k}, n_ranks=2)") for k in range(2)]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert contents(tmp_path) == contents(made)


def test_a_rank_alone_says_what_is_missing(tmp_path):
    done = write_dataset(Toy(), tmp_path, shard_size=8, rank=1, n_ranks=2)
    assert done.missing == tuple(f"shard-{k:05d}.h5" for k in (0, 2, 4, 6))
    assert not done.complete
    assert done.n_samples == 28
    assert not (tmp_path / "card.json").exists()
    with pytest.raises(FileNotFoundError, match="4 of 8 shards are missing"):
        Dataset(tmp_path)


def test_torchrun_with_two_ranks_writes_the_same(made, tmp_path):
    pytest.importorskip("torch.distributed.run")
    code = (
        "import torch.distributed as d; from toy_sets import *; d.init_process_group('gloo');"
        "rank, n = rank_and_size(); assert n == 2 and rank == d.get_rank();"
        f"write_dataset(Toy(), {str(tmp_path / 'set')!r}, shard_size=8, rank=rank, n_ranks=n); d.barrier();"
        "data = SimulatedDataset(Toy()); numbers = [None, None];"
        "mine = [float(v) for batch in loader(data, 7, seed=3) for v in batch['dose']];"
        "d.all_gather_object(numbers, mine);"
        "assert sorted(sum(numbers, [])) == sorted(float(s['dose']) for s in data); d.destroy_process_group()"
    )
    (tmp_path / "job.py").write_text(code)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "job.py"]
    environment = os.environ | HELPERS_FIRST | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]
    assert contents(tmp_path / "set") == contents(made)


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_and_run_again(made, tmp_path, workers):
    code = f"write_dataset(Toy(seconds=0.04), {str(tmp_path)!r}, shard_size=8, workers={workers})"
    run = script(code)
    wait_for(lambda: len(list(tmp_path.glob("shard-*.h5"))) >= 2)
    run.send_signal(signal.SIGKILL)
    run.wait()
    children_end(tmp_path)
    there = contents(tmp_path)
    assert len(there) < len(contents(made))
    (tmp_path / ".0123456789ab-shard-00005.h5").write_bytes(b"what a killed run leaves")
    (tmp_path / ".0123456789ab-card.json").write_bytes(b"and this")
    done = write_dataset(Toy(), tmp_path, shard_size=8)
    assert done.n_made < 60
    assert contents(tmp_path) == contents(made)


def children_end(folder):
    """Workers of a killed process end by themselves: after a moment nothing is written any more."""
    time.sleep(0.3)
    before = contents(folder)
    time.sleep(0.5)
    assert contents(folder) == before


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("workers", [1, 2])
def test_control_c_leaves_whole_shards_only(made, tmp_path, tmp_path_factory, workers):
    meeting = str(tmp_path_factory.mktemp("meeting"))  # of workers that have learned to leave Control-C to the parent
    source = f"Together(seconds=0.1, meeting={meeting!r}, workers={workers})"
    code = f"write_dataset({source}, {str(tmp_path)!r}, shard_size=8, workers={workers})"
    run = script(code, stderr=subprocess.PIPE, start_new_session=True)
    wait_for(lambda: len(list(tmp_path.glob("shard-*.h5"))) >= 2, 60)
    os.killpg(run.pid, signal.SIGINT)  # as a terminal does: to the workers as well
    _, said = run.communicate(timeout=20)
    assert run.returncode == -signal.SIGINT
    assert said.count("Traceback") == 1, said
    whole = contents(made)
    there = contents(tmp_path)
    assert 3 <= len(there) < len(whole)
    assert all(there[name] == whole[name] for name in there)


def test_damaged_shards_are_made_again(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    truncated, empty, gone, foreign, changed = (tmp_path / f"shard-{k:05d}.h5" for k in range(5))
    truncated.write_bytes(truncated.read_bytes()[:-100])
    empty.write_bytes(b"")
    gone.unlink()
    foreign.write_bytes((made / "shard-00006.h5").read_bytes())
    with h5py.File(changed, "r") as file:
        place = file["activity"].id.get_chunk_info(0).byte_offset
    with changed.open("r+b") as stream:
        stream.seek(place)
        stream.write(b"\0" * 40)
    assert write_dataset(Toy(), tmp_path, shard_size=8).n_made == 5 * 8
    assert contents(tmp_path) == contents(made)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert write_dataset(Toy(), tmp_path, shard_size=8).n_made == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_a_folder_of_another_recipe_is_refused(made):
    with pytest.raises(FormatError, match=r"recipe\.seed is 0 in the folder, 1 in the recipe"):
        write_dataset(Toy(seed=1), made, shard_size=8)
    with pytest.raises(FormatError, match=r"shard_size is 8 in the folder, 4"):
        write_dataset(Toy(), made, shard_size=4)
    with pytest.raises(FormatError, match=r"n is 60 in the folder, 64.*and \d more"):
        write_dataset(Toy(n=64), made, shard_size=8)


def test_a_folder_with_foreign_files(tmp_path):
    (tmp_path / "shard-00000.h5").write_bytes(b"?")
    with pytest.raises(FormatError, match="no manifest"):
        write_dataset(Toy(), tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(FormatError, match="manifest"):
        write_dataset(Toy(), tmp_path)


def test_a_manifest_edited_by_hand_or_of_a_later_schema(made, tmp_path):
    manifest = json.loads((made / "manifest.json").read_text())
    for change, reason in [
        ({"n": 61}, "edited by hand"),
        ({"schema_version": 99}, "upgrade emrecon"),
        ({"emrecon_schema": "scan"}, "not the manifest"),
        ({"fields": 3}, "damaged or edited"),
    ]:
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(FormatError, match=reason):
            Dataset(tmp_path)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (70000, r"sample 13: counts overflows uint16 \(0 to 65535\)"),
        (-1, "sample 13: counts is negative"),
        (0.5, "sample 13: counts holds fractions"),
        (np.nan, "sample 13: counts holds NaN"),
        (np.inf, "sample 13: counts holds NaN or infinite"),
    ],
)
def test_values_that_a_field_cannot_hold(tmp_path, value, reason):
    with pytest.raises(ValueError, match=reason):
        write_dataset(Toy(fail_at=13, value=value), tmp_path, shard_size=4)
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "shard-00002.h5").exists()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64", "int64", "bool", "float16"])
def test_the_ends_of_every_dtype(dtype):
    field = Field((), dtype)
    integer = field.dtype[0] in "iu"
    low, high = (int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)) if integer else (0, 1)
    if dtype != "float16":
        kept = _shards._exact(np.array([low, high], dtype), field, "x", [0, 1])
        assert kept.tolist() == [low, high]
    for beyond in (float(2.0 ** (8 * np.dtype(dtype).itemsize)), 1e6 if dtype == "float16" else 2.0**64):
        with pytest.raises(ValueError, match="overflows"):
            _shards._exact(np.array([0.0, beyond]), field, "x", [0, 1])


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_names_the_samples(tmp_path, workers):
    with pytest.raises(RuntimeError, match="samples 20 to 23 could not be made: ArithmeticError: no such phantom"):
        write_dataset(Toy(fail_at=21), tmp_path, shard_size=4, workers=workers)
    assert not list(tmp_path.glob(".*"))


def test_workers_have_one_thread(tmp_path, monkeypatch):
    monkeypatch.setenv("EMRECON_NUM_THREADS", "3")
    write_dataset(Where(n=24), tmp_path, shard_size=8, workers=2)
    assert {float(sample["dose"]) for sample in Dataset(tmp_path)} == {1.0}


def test_a_worker_that_dies(tmp_path):
    with pytest.raises(RuntimeError, match=r"a worker process died; finished shards stay.*memory"):
        write_dataset(Where(fail_at=50), tmp_path, shard_size=8, workers=2)
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "shard-00006.h5").exists()


def test_sources_that_contradict_themselves(tmp_path):
    class Cut(Toy):
        split = {"train": 45, "test": 15}  # noqa: RUF012

    class Short(Toy):
        split = {"train": 40}  # noqa: RUF012

    class Drifting(Toy):
        def one(self, i):
            return super().one(i) | {"dose": time.perf_counter()}

    class Nameless(Toy):
        fields = {"a/b": Field((), "uint8")}  # noqa: RUF012

    class Secretive(Toy):
        def describe(self):
            return {"x": object()}

    class Wrong(Toy):
        def samples(self, indices):
            return {"counts": np.zeros(3)}

    for source, reason in [
        (Cut(), "cuts a phantom of 2 samples in two at the end of 'train'"),
        (Short(), "has 40 samples, the source 60"),
        (Drifting(), "sample 3 differs when it is made alone"),
        (Nameless(), "names without"),
        (Secretive(), "is not JSON"),
        (Wrong(), "without activity, dose"),
        (Toy(batch=0), "batch must be at least 1"),
    ]:
        with pytest.raises(ValueError, match=reason):
            write_dataset(source, tmp_path / type(source).__name__)
    with pytest.raises(ValueError, match="whole batches of 4"):
        write_dataset(Toy(), tmp_path, shard_size=6)
    with pytest.raises(ValueError, match="sent to other processes"):
        write_dataset(type("Local", (Toy,), {})(), tmp_path / "local", shard_size=8, workers=2)
    for shape, dtype in [((0, 3), "uint8"), ((3,), "complex64")]:
        with pytest.raises(ValueError, match="a field has"):
            Field(shape, dtype)


def test_a_disk_that_is_too_small_fails_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(OSError, match=r"60 samples.*need about.*uncompressed.*are free"):
        write_dataset(Toy(), tmp_path, shard_size=8)
    assert list(contents(tmp_path)) == ["manifest.json"]


def test_a_disk_that_fills_up_keeps_finished_shards(made, tmp_path, monkeypatch):
    write = Path.write_bytes

    def full(self, data):
        if self.name.endswith("shard-00003.h5"):
            write(self, data[:50])
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"no space left on the disk.*shard-00003") as caught:
        write_dataset(Toy(), tmp_path, shard_size=8)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(contents(tmp_path)) == ["manifest.json", *(f"shard-{k:05d}.h5" for k in range(3))]
    monkeypatch.undo()
    write_dataset(Toy(), tmp_path, shard_size=8)
    assert contents(tmp_path) == contents(made)


@pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")
def test_a_file_that_may_not_grow_in_a_worker(tmp_path):
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000));"
        f"write_dataset(Toy(), {str(tmp_path)!r}, shard_size=8, workers=2)"
    )
    run = script(code, stderr=subprocess.PIPE)
    _, said = run.communicate(timeout=60)
    assert "cannot write the file, the file is larger than" in said
    assert list(contents(tmp_path)) == ["manifest.json"]


def test_the_split_cuts_no_phantom(made):
    phantoms = [{number // 2 for number in Dataset(made, split).numbers} for split in ("train", "validation", "test")]
    assert sum(map(len, phantoms)) == len(set.union(*phantoms)) == 30
    assert len(Dataset(made, "train")) == 44
    first = Dataset(made, "validation")[0]
    np.testing.assert_array_equal(first["dose"], Toy().one(44)["dose"])
    truth = [{image["activity"].tobytes() for image in Dataset(made, split)} for split in ("train", "test")]
    assert not truth[0] & truth[1]


def test_simulated_samples_equal_those_of_the_files(made):
    for split in (None, "validation"):
        files, simulated = Dataset(made, split), SimulatedDataset(Toy(), split)
        assert len(files) == len(simulated)
        some = [3, 1, -1, 0, 7, 3]
        for a, b in zip(files.__getitems__(some), simulated.__getitems__(some)):
            for name in Toy.fields:
                assert a[name].dtype == b[name].dtype
                np.testing.assert_array_equal(a[name], b[name])


def test_any_choice_of_indices(made, monkeypatch):
    monkeypatch.setattr(datasets, "_OPEN_FILES", 2)
    data = Dataset(made, fields=["dose"])
    every = np.array([sample["dose"] for sample in data])
    random = np.random.default_rng(0)
    for n in (0, 1, 5, 60, 200):
        indices = random.integers(-60, 60, n)
        assert [float(sample["dose"]) for sample in data.__getitems__(indices)] == every[indices].tolist()
    assert set(data[np.int64(4)]) == {"dose"}


def test_errors_of_reading(made, tmp_path):
    data = Dataset(made)
    for wrong in (60, -61):
        with pytest.raises(IndexError, match="has no sample"):
            data[wrong]
    for wrong in (1.0, slice(3), "train"):
        with pytest.raises(TypeError, match="whole numbers"):
            data[wrong]
    for kind in (Dataset, SimulatedDataset):
        whole = made if kind is Dataset else Toy()
        with pytest.raises(ValueError, match="no split 'training'; choose from train, validation, test"):
            kind(whole, "training")
        with pytest.raises(ValueError, match="no field 'mu'; choose from counts, activity, dose"):
            kind(whole, fields=["mu"])
        with pytest.raises(TypeError, match="list of names"):
            kind(whole, fields="counts")
    with pytest.raises(FileNotFoundError, match=r"no manifest\.json"):
        Dataset(tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    shard = tmp_path / "shard-00001.h5"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(FormatError, match=r"shard-00001\.h5.*truncated or damaged"):
        Dataset(tmp_path)[9]
    shard.unlink()
    assert len(Dataset(tmp_path, "test")) == 6
    with pytest.raises(FileNotFoundError, match=r"1 of 6 shards are missing.*shard-00001"):
        Dataset(tmp_path, "train")


def test_threads_and_pickles(made):
    data = Dataset(made)
    expected = [float(sample["dose"]) for sample in data]
    with ThreadPoolExecutor(8) as pool:
        assert [float(sample["dose"]) for sample in pool.map(data.__getitem__, list(range(60)) * 5)] == expected * 5
    assert [float(sample["dose"]) for sample in pickle.loads(pickle.dumps(data))] == expected


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.parametrize(("method", "workers"), [pytest.param("fork", 2, marks=needs_fork), ("spawn", 1)])
def test_loader_workers(made, method, workers):
    pytest.importorskip("torch")
    data = Dataset(made, "train")
    data[0]  # a file is open before the fork
    here = list(loader(data, 8, seed=5))
    there = list(loader(data, 8, seed=5, workers=workers, multiprocessing_context=method))
    assert len(here) == len(there) == 6
    for a, b in zip(here, there):
        for name in Toy.fields:
            assert a[name].shape == b[name].shape
            assert (a[name] == b[name]).all()
    sources = loader(SimulatedDataset(Toy(), "train"), 8, seed=5)
    assert all((a["counts"] == b["counts"]).all() for a, b in zip(here, sources))
    assert str(here[0]["counts"].dtype) == "torch.uint16"


def test_loader_leaves_random_numbers_alone_and_goes_on(made):
    torch = pytest.importorskip("torch")
    data = Dataset(made)
    state = torch.get_rng_state()
    numbers = loader(data, 60, seed=1)
    first, second = ([batch["dose"] for batch in numbers] for _ in range(2))
    assert (torch.get_rng_state() == state).all()
    assert (first[0] != second[0]).any()
    assert (first[0].sort().values == second[0].sort().values).all()
    numbers.batch_sampler.set_epoch(0)
    assert (next(iter(numbers))["dose"] == first[0]).all()
    in_order = torch.cat([batch["dose"] for batch in loader(data, 7, shuffle=False)])
    assert in_order.tolist() == [float(sample["dose"]) for sample in data]
    with pytest.raises(ValueError, match="together"):
        loader(data, 4, rank=0)


@pytest.mark.parametrize("block", [1, 5])
@pytest.mark.parametrize("n_ranks", [1, 3])
@pytest.mark.parametrize("drop_last", [True, False])
def test_batches_share_an_epoch_out(block, n_ranks, drop_last):
    every = [Batches(61, 4, block=block, drop_last=drop_last, rank=k, n_ranks=n_ranks) for k in range(n_ranks)]
    shares = [list(batches) for batches in every]
    assert [len(share) for share in shares] == [len(batches) for batches in every]
    assert len({tuple(map(len, share)) for share in shares}) == 1, "ranks must take the same steps"
    numbers = [number for share in shares for batch in share for number in batch]
    if drop_last:
        assert len(numbers) == len(set(numbers)) > 61 - 4 * n_ranks
    else:
        assert set(numbers) == set(range(61))
        assert len(numbers) - 61 < n_ranks
    assert shares != [list(batches) for batches in every]
    again = [replace(batches, epoch=0) for batches in every]
    assert shares == [list(batches) for batches in again]
    if block == 5:
        together = np.mean(np.diff(numbers) == 1)
        assert 0.7 < together < 0.9


def test_batches_refuse_nonsense():
    with pytest.raises(ValueError, match="batch_size and block"):
        Batches(5, 0)
    with pytest.raises(ValueError, match="rank must be"):
        Batches(5, 1, rank=2, n_ranks=2)
    assert list(Batches(0, 4)) == []


def test_the_card_states_everything(made):
    card = json.loads((made / "card.json").read_text())
    assert card["recipe"] == Toy().describe()
    assert card["split"] == {"train": [0, 44], "validation": [44, 54], "test": [54, 60]}
    assert card["sizes"]["files"] == 8
    text = (made / "README.md").read_text()
    for line in (
        "| `counts` | 6 x 5 | uint16 | counts | a sinogram |",
        "| train | 44 | 0 to 43 | 22 |",
        "| `camera.radius` | 150.0 |",
        "| `seed` | 0 |",
    ):
        assert line in text
    assert (made / "examples.png").read_bytes()[:4] == b"\x89PNG"


def test_a_lost_card_is_written_again(made, tmp_path):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    (tmp_path / "card.json").unlink()
    write_dataset(Toy(), tmp_path, shard_size=8)
    assert contents(tmp_path) == contents(made)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_set(tmp_path):
    peaks = []
    for n in (64, 256):
        code = (
            f"import resource; write_dataset(Large(n={n}), {str(tmp_path / str(n))!r}, shard_size=32);"
            f"[s['image'].sum() for s in Dataset({str(tmp_path / str(n))!r})];"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        peaks.append(int(script(code, stdout=subprocess.PIPE).communicate(timeout=60)[0]))
    assert peaks[1] - peaks[0] < 30_000, "kB, where the samples are 48 MB more"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"RANK": "2", "WORLD_SIZE": "4", "SLURM_PROCID": "7", "SLURM_NTASKS": "9"}, (2, 4)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "3"}, (1, 3)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        (
            {"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_MIN": "2", "SLURM_ARRAY_TASK_COUNT": "3"}
            | {"SLURM_ARRAY_TASK_STEP": "2", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
            (5, 6),
        ),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2"}, (0, 2)),
        ({"PBS_ARRAY_INDEX": "3", "PBS_ARRAY_COUNT": "4"}, (3, 4)),
    ],
)
def test_rank_and_size(environment, expected):
    assert rank_and_size(environment) == expected


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"RANK": "1"}, "WORLD_SIZE must be a whole number, it is not set"),
        ({"RANK": "two", "WORLD_SIZE": "4"}, "RANK must be a whole number, it is 'two'"),
        ({"RANK": "4", "WORLD_SIZE": "4"}, "contradict"),
        ({"RANK": "-1", "WORLD_SIZE": "4"}, "RANK must be"),
        ({"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "3"}, "without gaps"),
        ({"PBS_ARRAY_INDEX": "3"}, "PBS_ARRAY_COUNT"),
    ],
)
def test_rank_and_size_refuses_nonsense(environment, reason):
    with pytest.raises(ValueError, match=reason):
        rank_and_size(environment)
