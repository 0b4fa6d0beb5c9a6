"""The files of a training: in step with one another after a kill, named on a full disk, read with suspicion."""

import json
import os

import pytest
import torch
from bombs import zip_bomb
from limits import limited
from torch import nn

from emrecon.projectors.core.errors import FormatError
from emrecon.unrolled.training import loop
from emrecon.unrolled.training.loop import Settings, train
from emrecon.unrolled.training.losses import Supervised, mse
from emrecon.unrolled.training.records import (
    best_row,
    best_weights,
    plot_log,
    read_checkpoint,
    read_log,
    write_checkpoint,
)

DATA = [(torch.full((2, 1), float(k)), torch.full((2, 1), 2.0 * k)) for k in range(5)]


def run(folder, steps=8, errors=(3.0, 2.0, 2.5, 1.0), **options):
    """A training whose validation gives the errors in turn; the wanted weights after each record."""
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    settings = Settings(steps, 2, folder=folder, watch="error", save_seconds=0, **options)

    def validate(model):
        return {"error": errors[len(weights)]}

    weights = []
    for record in train(model, lambda epoch: DATA, Supervised(mse), optimiser, settings, validate=validate):
        weights.append(record.weights)
    return weights


@pytest.fixture(autouse=True)
def no_picture(monkeypatch, request):
    """A picture costs more than the training."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(loop, "plot_log", lambda folder: None)


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def contents(folder):
    """What the files say, without times."""
    rows = [row | {"seconds": 0, "samples_per_second": 0, "data_share": 0} for row in read_log(folder)]
    return rows, [line.split(",")[:3] for line in (folder / "log.csv").read_text().splitlines()]


@pytest.mark.parametrize("missing", ["log.json", "log.csv", "best.pt"])
@pytest.mark.parametrize("at", [2, 4, 8])
def test_a_kill_between_the_files_of_a_record(tmp_path, monkeypatch, at, missing):
    """Whatever was written last: the same lines, run again, leave what an undisturbed run leaves."""
    wanted = run(tmp_path / "whole")
    folder, write = tmp_path / "killed", loop.write_log

    def killed(path, rows):
        if rows[-1]["step"] == at:
            raise SystemExit
        write(path, rows)

    monkeypatch.setattr(loop, "write_log", killed)
    with pytest.raises(SystemExit):
        run(folder)
    monkeypatch.setattr(loop, "write_log", write)
    (folder / missing).unlink(missing_ok=True)
    run(folder, errors=(3.0, 2.0, 2.5, 1.0)[at // 2 :])
    assert contents(folder) == contents(tmp_path / "whole")
    assert same(best_weights(folder), wanted[3])
    assert best_row(folder)["step"] == 8


def test_the_best_weights_are_those_of_the_row(tmp_path, monkeypatch):
    """A kill after better weights were written, but before the checkpoint says so, and then a run of other luck."""
    wanted = run(tmp_path, steps=4)
    (tmp_path / "best.pt").write_bytes(b"newer weights that no row speaks of")
    assert run(tmp_path, steps=4) == []
    assert same(best_weights(tmp_path), wanted[1])


def test_checkpoints_of_0_2_0_go_on(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "old", steps=4)
    state = read_checkpoint(tmp_path / "old" / "checkpoint.pt")
    del state["best_weights"]
    torch.save(state, tmp_path / "old" / "checkpoint.pt")
    run(tmp_path / "old", errors=(2.5, 1.0))
    assert contents(tmp_path / "old") == contents(tmp_path / "whole")
    assert same(best_weights(tmp_path / "old"), best_weights(tmp_path / "whole"))


def test_a_full_disk_names_the_file_that_did_not_fit(tmp_path):
    for n in (1, 3000):
        with limited("FSIZE", n), pytest.raises(OSError, match=r"cannot write the file.*checkpoint\.pt"):
            run(tmp_path / "full")
        assert list((tmp_path / "full").iterdir()) == []
    run(tmp_path / "full")
    assert len(read_log(tmp_path / "full")) == 4


def changed(state, **changes):
    return state | changes


def test_checkpoints_that_are_damaged_or_hostile(tmp_path):
    run(tmp_path, steps=2)
    path = tmp_path / "checkpoint.pt"
    state, whole = read_checkpoint(path), path.read_bytes()
    for changes in (
        {"step": "two"},
        {"step": -1},
        {"rows": 3},
        {"rows": [{"step": "x"}]},
        {"rows": [{"step": 1, "loss": "low"}]},
        {"sums": [0.0]},
        {"seconds": None},
        {"best": [1]},
        {"model": {}},
        {"model": 3},
        {"optimiser": {"state": 3}},
    ):
        write_checkpoint(path, changed(state, **changes))
        with pytest.raises(FormatError, match=r"checkpoint\.pt is not a checkpoint of a training, or is damaged"):
            run(tmp_path)
    for huge in (torch.zeros(1).expand(2**40), torch.zeros(2**12, device="meta"), torch.zeros(3, 3).to_sparse()):
        torch.save({"w": huge}, path)
        with pytest.raises(FormatError, match=r"checkpoint\.pt"):
            read_checkpoint(path)
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            found = read_checkpoint(path)
        except FormatError:
            continue
        assert same(found["model"], state["model"])
    with pytest.raises(FormatError, match=r"announce 1\.34 GB"):
        read_checkpoint(zip_bomb(path, "archive/data/0", bytes(2**20), 1280))


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_log(tmp_path)
    with pytest.raises(FileNotFoundError):
        best_weights(tmp_path)
    os.mkfifo(tmp_path / "log.json")
    os.symlink("/dev/zero", tmp_path / "best.pt")
    os.mkfifo(tmp_path / "checkpoint.pt")
    for read in (read_log, best_weights, run):
        with pytest.raises(FormatError, match="folder or a device"):
            read(tmp_path)
    write_checkpoint(tmp_path / "weights.pt", {"weights": 3})
    os.replace(tmp_path / "weights.pt", tmp_path / "best.pt")
    with pytest.raises(FormatError, match="more than weights"):
        best_weights(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "", "[1]", "[" * 10**5, "9" * 10**5, '[{"step": "one"}]', '[{"step": 1, "loss": []}]', "\xff", "[{]"],
)
def test_logs_that_are_none(tmp_path, text):
    (tmp_path / "log.json").write_text(text, encoding="latin-1")
    with pytest.raises(FormatError, match=r"log\.json"):
        plot_log(tmp_path)


def test_a_picture_of_odd_names(tmp_path):
    rows = [{"step": 1, "loss": 1.0, "$x": 2.0}, {"step": 2, "loss": float("nan")}]
    (tmp_path / "log.json").write_text(json.dumps(rows))
    assert len(plot_log(tmp_path).axes) == 2
    with pytest.raises(FormatError, match="no best row"):
        best_row(tmp_path)
