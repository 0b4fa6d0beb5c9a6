"""Every writer on a disk that is full: one error that names the file and the reason, and nothing left behind."""

import errno
from pathlib import Path

import numpy as np
import pytest
from cli_cases import emrecon
from fuzz_seeds import CAMERA, GRID, SINOGRAM, counts
from limits import limited

from emrecon import formats
from emrecon.projectors import Scan
from emrecon.projectors.core.files import is_about_writing


def weights(folder):
    torch = pytest.importorskip("torch")
    from emrecon.unrolled.training.weights import Card, save_weights

    save_weights(folder / "out.safetensors", torch.nn.Linear(9, 9), Card("net"))


def picture(folder):
    from emrecon import figures

    figures.save(figures.orthoviews(counts(GRID.shape), GRID), folder / "out.png")


def options(folder):
    from emrecon.cli.reconstruct.config import write_config
    from emrecon.cli.reconstruct.settings import DataTable, MethodTable, PhysicsTable, Settings

    data = DataTable(projections=Path("a.h5"))
    write_config(folder / "out.toml", Settings(data=data, physics=PhysicsTable(), method=MethodTable()))


def curves(folder):
    from emrecon.unrolled.training.records import plot_log, write_log

    if not (folder / "log.json").exists():
        write_log(folder, [{"step": 1, "loss": 1.0}])
    plot_log(folder)


WRITERS = {
    "nii": lambda folder: formats.write_image(folder / "out.nii", counts(GRID.shape), GRID),
    "nii.gz": lambda folder: formats.write_image(folder / "out.nii.gz", counts(GRID.shape), GRID),
    "hv": lambda folder: formats.write_image(folder / "out.hv", counts(GRID.shape), GRID),
    "hs": lambda folder: formats.write_scan(folder / "out.hs", Scan(counts(CAMERA.shape), CAMERA)),
    "hs of PET": lambda folder: formats.write_scan(folder / "out.hs", Scan(counts(SINOGRAM.shape), SINOGRAM)),
    "dicom": lambda folder: formats.write_dicom_pet(folder / "out", counts(GRID.shape), GRID, overwrite=True),
    "nm": lambda folder: formats.write_dicom_image(folder / "out.dcm", counts(GRID.shape), GRID),
    "pt": lambda folder: formats.write_dicom_image(folder / "out", counts(GRID.shape), GRID, kind="PT"),
    "ct": lambda folder: formats.write_dicom_ct(folder / "out", counts(GRID.shape), GRID),
    "weights": weights,
    "picture": picture,
    "options": options,
    "curves": curves,
}


@pytest.mark.parametrize("name", WRITERS)
def test_the_file_and_the_reason_are_named_and_nothing_is_left(tmp_path, name):
    write = WRITERS[name]
    write(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    largest = max(len(content) for content in before.values())
    # UIDs, of which a file of DICOM has several, are not all of one length
    last = largest - (64 if name in ("dicom", "nm", "pt", "ct") else 1)
    for n in (1, largest // 2, last):
        with limited("FSIZE", n), pytest.raises(OSError, match="cannot write") as caught:
            write(tmp_path)
        assert caught.value.errno == errno.EFBIG
        assert str(tmp_path / "out") in str(caught.value) or "curves.png" in str(caught.value)
        assert is_about_writing(caught.value)
        found = {path for path in tmp_path.rglob("*") if path.is_file()}
        assert found == set(before)
        if write is not WRITERS["dicom"]:  # whose identifiers are new every time
            assert {path: path.read_bytes() for path in found} == before


def test_sets_and_their_cards(tmp_path, monkeypatch):
    from toy_sets import Toy, write_dataset

    from emrecon.sims.datasets import card

    with limited("FSIZE", 2500), pytest.raises(OSError, match=r"cannot write the file.*shard-0000") as caught:
        write_dataset(Toy(), tmp_path, shard_size=20)
    assert is_about_writing(caught.value)
    write = card.write_card

    def full(folder, plan):
        with limited("FSIZE", 1000):
            write(folder, plan)

    monkeypatch.setattr("emrecon.sims.datasets.writing.write_card", full)
    with pytest.raises(OSError, match=r"cannot write the file.*examples\.png"):
        write_dataset(Toy(), tmp_path, shard_size=20)
    monkeypatch.undo()
    assert write_dataset(Toy(), tmp_path, shard_size=20).complete
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_few_open_files_are_enough(tmp_path):
    """A set of more shards than a process may open files."""
    from toy_sets import Dataset, Toy, write_dataset

    write_dataset(Toy(n=180, batch=4), tmp_path, shard_size=4)
    with limited("NOFILE", 64):
        data = Dataset(tmp_path)
        for k in np.random.default_rng(0).permutation(180):
            assert data[k]["counts"].shape == (6, 5)


@pytest.mark.parametrize(
    ("option", "name"),
    [("--out", "i.h5"), ("--out", "i.nii.gz"), ("--out", "i.hv"), ("--log", "l.csv"), ("--checkpoint", "c.npz")],
)
def test_the_command_ends_with_a_line_and_its_code(tmp_path, option, name):
    formats.write_scan(tmp_path / "scan.h5", Scan(counts(CAMERA.shape), CAMERA, radionuclide="Tc-99m"))
    words = ["reconstruct", tmp_path / "scan.h5", "--background", 1, "--iterations", 1, "--subsets", 2]
    words += [] if option == "--out" else ["--out", tmp_path / "i.nii"]
    emrecon(*words, option, tmp_path / name, check=0)  # also compiles what is needed
    for path in tmp_path.glob("[!s]*"):
        path.unlink()
    with limited("FSIZE", 20):
        said = emrecon(*words, option, tmp_path / name, check=4).stderr
    failed = tmp_path / name.replace(".hv", ".v")  # of the pair, the data
    assert said.startswith(f"emrecon: {failed}: cannot write the file, the file is larger than")
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["scan.h5"]
