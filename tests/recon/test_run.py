"""The loop around an algorithm: callbacks, endings, bars, logs, checkpoints and stopping rules."""

import csv
import io
import json
import os
import pickle
import zipfile
from itertools import islice

import numpy as np
import pytest
import torch
from bombs import zip_bomb
from limits import limited
from rich.console import Console
from spect_cases import projector

from emrecon.projectors import AcquisitionModel
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.core.files import is_about_writing
from emrecon.recon import Checkpoint, Iterate, Log, PoissonLikelihood, ProgressBar, RelativeChange, nrmse, osem, run

A = projector("thin", "gaussian")
MODEL = AcquisitionModel(A, background=0.5)
F = PoissonLikelihood(np.random.default_rng(0).poisson(3.0, A.out_shape), MODEL)


def counting(n=10):
    """Iterates 1, 2, ... whose images are full of their number."""
    for i in range(1, n + 1):
        yield Iterate(i, np.full((2, 2), float(i)))


class Recorder:
    """Notes what happens to it in a shared list; `answer` of an iterate is returned."""

    def __init__(self, events, name, answer=lambda iterate: None):
        self.events, self.name, self.answer = events, name, answer

    def __call__(self, iterate):
        self.events.append((self.name, iterate.iteration))
        return self.answer(iterate)

    def close(self):
        self.events.append((self.name, "closed"))


def raising(error):
    def callback(iterate):
        if iterate.iteration == 2:
            raise error

    return callback


def test_every_callback_sees_every_iterate_in_order():
    events = []
    image = run(
        counting(), 3, Recorder(events, "a"), lambda iterate: events.append(iterate.image[0, 0]), Recorder(events, "b")
    )
    assert image[0, 0] == 3
    seen = [event for i in (1, 2, 3) for event in (("a", i), float(i), ("b", i))]
    assert events == [*seen, ("a", "closed"), ("b", "closed")]


def test_no_iterate_too_many_is_asked_for():
    iterates = counting()
    run(iterates, 4)
    assert next(iterates).iteration == 5
    assert run(counting(2), 5)[0, 0] == 2


@pytest.mark.parametrize("true", [True, np.True_, np.array(True), torch.tensor(True)], ids=repr)
def test_true_ends_the_run_after_all_have_seen_it(true):
    events = []
    stop = Recorder(events, "a", lambda iterate: true if iterate.iteration == 2 else False)
    assert run(counting(), 9, stop, Recorder(events, "b"))[0, 0] == 2
    assert events == [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", "closed"), ("b", "closed")]


@pytest.mark.parametrize("answer", [None, False, 1, "yes", [True], np.array([True]), np.False_, torch.tensor(False)])
def test_other_answers_do_not(answer):
    assert run(counting(), 4, lambda iterate: answer)[0, 0] == 4


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit()], ids=repr)
def test_callbacks_are_closed_whatever_happens(error):
    events = []
    with pytest.raises(type(error)):
        run(counting(), 9, Recorder(events, "a"), raising(error))
    assert events == [("a", 1), ("a", 2), ("a", "closed")]


def test_callbacks_are_closed_when_the_algorithm_fails():
    def failing():
        yield from counting(1)
        raise RuntimeError("out of memory")

    events = []
    with pytest.raises(RuntimeError, match="out of memory"):
        run(failing(), 9, Recorder(events, "a"))
    assert events[-1] == ("a", "closed")


@pytest.mark.parametrize(
    ("iterates", "n", "message"),
    [(counting(), 0, "at least 1, got 0"), (counting(), -1, "at least 1"), (iter(()), 3, "no iterates")],
)
def test_runs_of_nothing_are_refused(iterates, n, message):
    events = []
    with pytest.raises(ValueError, match=message):
        run(iterates, n, Recorder(events, "a"))
    assert events == [("a", "closed")]


def test_a_bar_is_silent_without_a_terminal(capsys):
    output = io.StringIO()
    run(counting(), 3, ProgressBar(3, lambda image: pytest.fail("evaluated for nobody"), console=Console(file=output)))
    run(counting(), 3, ProgressBar(3))
    assert output.getvalue() == ""
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal():
    output = io.StringIO()
    console = Console(force_terminal=True, file=output, width=120)
    run(counting(), 3, ProgressBar(4, lambda image: image.sum(), console=console))
    text = output.getvalue()
    for fact in ("iteration", "3/4", "objective 12"):
        assert fact in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1, "the cursor must come back"


@pytest.mark.parametrize("suffix", [".csv", ".json"])
def test_logs_are_complete_after_every_iterate(tmp_path, suffix):
    path, objective = tmp_path / f"log{suffix}", F.value
    log = Log(path, objective)
    for iterate in islice(osem(F, A.ones_image(), 2), 4):
        log(iterate)
        text = path.read_text(encoding="utf-8")
        rows = json.loads(text) if suffix == ".json" else list(csv.DictReader(text.splitlines()))
        assert [int(row["iteration"]) for row in rows] == list(range(1, iterate.iteration + 1))
        assert float(rows[-1]["objective"]) == float(F.value(iterate.image))
        seconds = [float(row["seconds"]) for row in rows]
        assert seconds == sorted(seconds)
        assert 0 <= seconds[0] <= seconds[-1] < 100
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_logs_without_an_objective_and_with_one_per_item(tmp_path):
    run(counting(), 2, Log(tmp_path / "a.csv"), Log(str(tmp_path / "b.json"), lambda image: torch.tensor([1.0, 2.5])))
    assert (tmp_path / "a.csv").read_text().startswith("iteration,seconds\n1,")
    assert [row["objective"] for row in json.loads((tmp_path / "b.json").read_text())] == [3.5, 3.5]


@pytest.mark.parametrize("name", ["log.txt", "log", "log.csv.gz"])
def test_logs_of_other_kinds_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=rf"Log writes .csv or .json, not '{name}'"):
        Log(tmp_path / name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_checkpoints_bring_back_what_was_saved(tmp_path, library, dtype):
    image = np.random.default_rng(0).random((2, 3, 4)).astype(dtype)
    checkpoint = Checkpoint(tmp_path / "state", signature="osem 8 µ")
    assert checkpoint.load() is None
    checkpoint(Iterate(7, library(image)))
    saved = checkpoint.load()
    assert saved.iteration == 7
    assert saved.image.dtype == dtype
    np.testing.assert_array_equal(saved.image, image)
    assert [p.name for p in tmp_path.iterdir()] == ["state"]


def test_only_every_second_iterate_is_saved(tmp_path):
    checkpoint = Checkpoint(tmp_path / "state.npz", every=2)
    found = []
    run(counting(), 5, checkpoint, lambda iterate: found.append(getattr(checkpoint.load(), "iteration", 0)))
    assert found == [0, 2, 2, 4, 4]
    with pytest.raises(ValueError, match="every must be at least 1"):
        Checkpoint(tmp_path / "state.npz", every=0)


def test_checkpoints_of_another_run_are_refused(tmp_path):
    Checkpoint(tmp_path / "state.npz", signature="8 subsets")(Iterate(1, np.ones(3)))
    with pytest.raises(ValueError, match=r"belongs to another run .'8 subsets', not '4 subsets'"):
        Checkpoint(tmp_path / "state.npz", signature="4 subsets").load()


def test_damage_is_noticed(tmp_path):
    """Every byte changed, every length cut: either the exact image comes back or a ValueError."""
    path, image = tmp_path / "state.npz", np.random.default_rng(0).random((2, 3))
    checkpoint = Checkpoint(path)
    checkpoint(Iterate(3, image))
    whole = path.read_bytes()
    changed = [whole[:i] + bytes([whole[i] ^ 0x81]) + whole[i + 1 :] for i in range(len(whole))]
    refused = 0
    for content in (*changed, *(whole[:n] for n in range(0, len(whole), 7))):
        path.write_bytes(content)
        try:
            saved = checkpoint.load()
        except ValueError:
            refused += 1
        else:
            assert saved.iteration == 3
            np.testing.assert_array_equal(saved.image, image)
    assert refused > len(whole) / 2


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was opened",)


def test_pickles_are_not_opened(tmp_path):
    path = tmp_path / "state.npz"
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="is not a checkpoint"):
        Checkpoint(path).load()
    parts = {"iteration": np.int64(1), "signature": np.str_(""), "image": np.array([Trap()], object)}
    with path.open("wb") as stream:
        np.savez(stream, **parts)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        Checkpoint(path).load()


def test_other_files_are_not_checkpoints(tmp_path):
    np.save(tmp_path / "array.npy", np.ones(3))
    np.savez(tmp_path / "others.npz", image=np.ones(3))
    np.savez(tmp_path / "many.npz", image=np.ones(3), iteration=np.arange(3), signature="")
    (tmp_path / "empty.npz").touch()
    for name in ("array.npy", "others.npz", "many.npz", "empty.npz", "."):
        with pytest.raises(ValueError, match="is not a checkpoint"):
            Checkpoint(tmp_path / name).load()


@pytest.mark.parametrize("killed_at", [1, 4, 5, 6])
@pytest.mark.parametrize("every", [1, 2])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path, every, killed_at):
    expected = run(osem(F, A.ones_image(), 3), 8)
    checkpoint = Checkpoint(tmp_path / "state.npz", every)

    def kill(iterate):
        if iterate.iteration == killed_at:
            raise KeyboardInterrupt

    for callbacks in ((checkpoint, kill), (checkpoint,)):
        saved = checkpoint.load()
        start, done = (saved.image, saved.iteration) if saved else (A.ones_image(), 0)
        try:
            image = run(osem(F, start, 3, iteration=done), 8 - done, *callbacks)
        except KeyboardInterrupt:
            assert getattr(checkpoint.load(), "iteration", 0) == killed_at // every * every
    np.testing.assert_array_equal(image, expected)


@pytest.mark.parametrize("library", [np.asarray, torch.as_tensor])
def test_a_small_relative_change_ends_the_run(library):
    """The n-th change of 1, 2, 3, ... is 1 / n."""
    images = (Iterate(i.iteration, library(i.image)) for i in counting(50))
    assert float(run(images, 50, RelativeChange(0.0999))[0, 0]) == 12
    assert run(counting(), 10, RelativeChange(0.0))[0, 0] == 10


def test_nrmse():
    reference, image = np.array([3.0, 4.0, 0.0]), np.array([3.0, 4.0, 5.0])
    assert nrmse(image, reference) == pytest.approx(1)
    assert nrmse(image, reference, np.array([True, True, False])) == 0
    assert float(nrmse(torch.tensor(2 * reference), torch.tensor(reference))) == pytest.approx(1)
    with pytest.raises(ValueError, match="images of one shape"):
        nrmse(image, reference[:2])


def test_an_announced_image_is_not_made(tmp_path):
    path = tmp_path / "state.npz"
    Checkpoint(path)(Iterate(1, np.ones(3)))
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**40,)})
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name in ("image.npy", "state_x.npy"):
        with zipfile.ZipFile(path, "w") as archive:
            for part, data in (parts | {name: header.getvalue() + bytes(24)}).items():
                archive.writestr(part, data)
        with pytest.raises(FormatError, match=r"state\.npz is not a checkpoint.*announces float64 of shape"):
            Checkpoint(path).load()
    with pytest.raises(FormatError, match=r"announce 1\.34 GB"):
        Checkpoint(zip_bomb(path, "image.npy", bytes(2**21), 640)).load()


@pytest.mark.parametrize("changes", [{"iteration": -1}, {"iteration": 1.5}, {"image": "text"}, {"signature": 3}])
def test_checkpoints_of_other_kinds(tmp_path, changes):
    path = tmp_path / "state.npz"
    np.savez(path, **({"iteration": 1, "image": np.ones(3), "signature": ""} | changes))
    with pytest.raises(FormatError, match=r"state\.npz is not a checkpoint"):
        Checkpoint(path).load()


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_logs_that_are_none_are_not_gone_on_with(tmp_path, suffix):
    path = tmp_path / f"log{suffix}"
    columns, good = "iteration,seconds,objective\n", {"iteration": 1, "seconds": 2.0}
    texts = {
        ".csv": ("", "a,b\n1,2", f"{columns}x,1,1", f"{columns}1,2,3,4", f"{columns}1", f'"{"x" * 10**6}', "\xff"),
        ".json": (
            *("", "{", "[" * 10**5, "[1]", '{"a": 1}', '[{"iteration": 1e999, "seconds": 1}]'),
            json.dumps([good, {"iteration": 2}]),
            json.dumps([good | {"other": 3}]),
        ),
    }
    for text in texts[suffix]:
        path.write_text(text, encoding="latin-1")
        with pytest.raises(FormatError, match=rf"log\{suffix}"):
            Log(path, resume=True)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(FormatError, match="folder or a device"):
        Log(path, resume=True)


def test_a_full_disk_names_checkpoint_and_log(tmp_path):
    good = Iterate(1, np.ones(300))
    for write in (Checkpoint(tmp_path / "state.npz"), Log(tmp_path / "log.csv"), Log(tmp_path / "log.json")):
        write(good)
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        for n in (1, 20):
            with limited("FSIZE", n), pytest.raises(OSError, match=r"cannot write the file.*(state|log)\.") as caught:
                write(Iterate(2, np.ones(300)))
            assert is_about_writing(caught.value)
            assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
