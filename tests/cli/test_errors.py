"""What the command says when something goes wrong: one line, an exit code, and no results lost."""

import contextlib
import errno
import io
import os
import signal
import sys

import numpy as np
import pytest
from cli_cases import RING, emrecon

from emrecon import formats
from emrecon.cli import info as info_command
from emrecon.cli import printing
from emrecon.cli.main import main
from emrecon.cli.outputs import OutputError, check_outputs
from emrecon.projectors import ImageGrid, PETSinogram, Scan, SPECTGeometry
from emrecon.recon import ArgumentError, ProgressBar, RelativeChange, pet_problem

GRID = ImageGrid((8, 8, 4), 8.0)
CAMERA = SPECTGeometry.circular(8, 60, (8, 4), 8.0)


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """A tiny scan as Interfile whose data file has another name, and an image on its grid."""
    folder = tmp_path_factory.mktemp("scan")
    counts = np.random.default_rng(0).poisson(5.0, CAMERA.shape).astype(np.float32)
    formats.write_scan(folder / "scan.hs", Scan(counts, CAMERA, radionuclide="Tc-99m"))
    (folder / "scan.s").rename(folder / "counts.dat")
    header = (folder / "scan.hs").read_text().replace("scan.s", "counts.dat")
    (folder / "scan.hs").write_text(header)
    formats.write_image(folder / "mu.hv", np.zeros(GRID.shape, np.float32), GRID)
    return folder


def describing(monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(info_command.formats, "describe", fail)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (RuntimeError("broke"), 1, ["RuntimeError", "broke"]),
        (KeyError("colour"), 1, ["KeyError", "colour"]),
        (IndexError("9"), 1, ["IndexError"]),
        (AttributeError("x"), 1, ["AttributeError"]),
        (RecursionError("too deep"), 1, ["RecursionError", "too deep"]),
        (AssertionError(), 1, ["AssertionError"]),
        (OverflowError("int too large"), 3, ["OverflowError", "int too large"]),
        (ZeroDivisionError("by zero"), 3, ["ZeroDivisionError"]),
        (FloatingPointError("diverged"), 1, ["diverged"]),
        (ImportError("no torch"), 1, ["no torch"]),
        (ValueError(), 3, ["ValueError"]),
        (ValueError("[bold]not [/] a style[/bold]"), 3, ["[bold]not [/] a style[/bold]"]),
        (OSError(errno.EACCES, "Permission denied", "a[/]b"), 3, ["a[/]b: Permission denied"]),
        (ValueError("red \x1b[31m ring \x07"), 3, [r"red \x1b[31m ring \x07"]),
        (MemoryError(), 1, ["not enough memory"]),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: tried 99 bytes"), 1, ["not enough memory", "99"]),
    ],
)
def test_every_error_is_a_line_and_a_code(monkeypatch, error, code, words):
    describing(monkeypatch, error)
    done = emrecon("info", "x.nii", check=code)
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("emrecon: ")
    assert "Traceback" not in done.stderr
    assert all(word in done.stderr for word in words), done.stderr


def test_a_traceback_is_there_for_those_who_ask(monkeypatch):
    describing(monkeypatch, RuntimeError("broke"))
    monkeypatch.setenv("EMRECON_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="broke"):
        emrecon("info", "x.nii")


def test_too_little_memory_says_for_what(monkeypatch):
    with pytest.raises(MemoryError) as caught:
        np.empty((10**6, 10**6, 10**6), np.float32)
    describing(monkeypatch, caught.value)
    said = emrecon("info", "x.nii", check=1).stderr
    assert "not enough memory" in said
    assert "(1000000, 1000000, 1000000)" in said


@pytest.mark.parametrize("text", ["x" * 10**6, "[" * 10**6, "wide " * 10**5])
def test_messages_are_cut(monkeypatch, text):
    describing(monkeypatch, ValueError(f"begins {text} ends"))
    said = emrecon("info", "x.nii", check=3).stderr
    assert len(said) < 3000
    assert said.startswith("emrecon: begins")
    assert said.endswith("ends\n")
    assert "characters are left out" in said


def test_options_from_a_file_are_cut_too(scan, tmp_path):
    (tmp_path / "c.toml").write_text(f'[method]\nmethod = "{"m" * 10**6}"\n')
    said = emrecon("reconstruct", scan / "scan.hs", "--config", tmp_path / "c.toml", check=2).stderr
    assert len(said) < 4000


@pytest.mark.parametrize("name", ["[bold]", "[/]", "a[red]b", "back\\[/]", ":dog:", "[link=file:x]"])
def test_names_of_files_are_shown_as_they_are(scan, tmp_path, name):
    folder = tmp_path / name  # "[/]" is a folder "[" with one called "]"
    folder.mkdir(parents=True)
    for part in ("scan.hs", "counts.dat"):
        (folder / part).write_bytes((scan / part).read_bytes())
    out = folder / "i.nii"
    common = ("--background", 1, "--iterations", 1, "--out", out)
    said = emrecon("reconstruct", folder / "scan.hs", *common, check=0).stdout
    assert f"wrote {out}\n" in said
    assert str(folder) in emrecon("info", folder / "nothing.nii", check=3).stderr
    assert repr(str(folder))[1:-1] in emrecon("simulate", folder / "nothing.toml", check=3).stderr


def interrupting(monkeypatch, action):
    monkeypatch.setattr(ProgressBar, "__call__", lambda self, iterate: action())


def stopped():
    raise KeyboardInterrupt


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(("action", "code"), [(stopped, 130), (lambda: os.kill(os.getpid(), signal.SIGTERM), 143)])
def test_whoever_stops_a_run_hears_where_it_can_go_on(scan, tmp_path, monkeypatch, action, code):
    interrupting(monkeypatch, action)
    before = signal.getsignal(signal.SIGTERM)
    common = ("reconstruct", scan / "scan.hs", "--background", 1, "--out", tmp_path / "i.nii")
    assert "with --checkpoint FILE" in emrecon(*common, check=code).stderr
    state = tmp_path / "state.npz"
    monkeypatch.setattr(ProgressBar, "__call__", lambda self, iterate: iterate.iteration == 2 and action())
    said = emrecon(*common, "--checkpoint", state, check=code).stderr.splitlines()[-1]
    assert said == f"emrecon: interrupted; the same command goes on from the checkpoint {state}"
    assert [path.name for path in tmp_path.iterdir()] == ["state.npz"]
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    assert "going on after iteration 1" in emrecon(*common, "--checkpoint", state, check=0).stdout


@pytest.mark.parametrize("command", ["simulate", "train", "demo"])
def test_whoever_stops_other_commands_hears_it_too(tmp_path, monkeypatch, command):
    out = tmp_path / "out"
    if command == "train":
        pytest.importorskip("torch")
        monkeypatch.setattr("emrecon.cli.train.claim", lambda *arguments: stopped())
    elif command == "simulate":
        monkeypatch.setattr("emrecon.cli.simulate.write_dataset", lambda *arguments, **options: stopped())
    else:
        monkeypatch.setattr("emrecon.cli.demo._demo_spect", lambda *arguments: stopped())
    name = {"simulate": ["spectnet"], "train": ["fbsem-pet"], "demo": []}[command]
    said = emrecon(command, *name, "--out", out, check=130).stderr.splitlines()[-1]
    assert said.startswith("emrecon: interrupted; ")
    assert str(out) in said


@contextlib.contextmanager
def nobody_reads():
    """A pipe whose reader has left, as `| head -1` does."""
    reader, writer = os.pipe()
    os.close(reader)
    with contextlib.suppress(OSError), open(writer, "w") as stream:
        yield stream


@contextlib.contextmanager
def full_disk():
    """A device that has no space left."""
    with contextlib.suppress(OSError), open("/dev/full", "w") as stream:
        yield stream


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full")
@pytest.mark.parametrize(("outlet", "code"), [(nobody_reads, 0), (full_disk, 4)])
@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_an_output_that_fails_loses_no_image(scan, tmp_path, monkeypatch, outlet, code, which):
    out = tmp_path / "i.nii"
    words = ["reconstruct", scan / "scan.hs", "--background", 1, "--iterations", 1, "--out", out]
    monkeypatch.setattr(sys, "argv", ["emrecon", *map(str, words)])
    error = io.StringIO()
    with outlet() as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(error):
        if which == "stderr":
            sys.stdout, sys.stderr = io.StringIO(), stream
        with contextlib.suppress(SystemExit):
            ended = 0
            try:
                main()
            except SystemExit as end:
                ended = end.code
    assert formats.read_image(out)[0].max() > 0
    assert ended == (code if which == "stdout" else 0)
    if code and which == "stdout":
        assert "standard output is incomplete" in error.getvalue()


def test_characters_that_the_terminal_cannot_show_stop_nothing(scan, tmp_path, monkeypatch):
    out = tmp_path / "größe-β.nii"
    words = ["reconstruct", scan / "scan.hs", "--background", 1, "--iterations", 1, "--out", out]
    monkeypatch.setattr(sys, "argv", ["emrecon", *map(str, words)])
    shown = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with contextlib.redirect_stdout(shown):
        main()
    shown.flush()
    assert rb"gr\xf6\xdfe-\u03b2.nii" in shown.buffer.getvalue()
    assert out.exists()


def hard_link(folder):
    os.link(folder / "counts.dat", folder / "link.png")
    return folder / "link.png"


def symbolic_link(folder):
    (folder / "soft.png").symlink_to(folder / "counts.dat")
    return folder / "soft.png"


OUTPUTS = ("--out", "--picture", "--log", "--checkpoint", "--write-config")


@pytest.mark.parametrize("option", OUTPUTS)
@pytest.mark.parametrize("inputs", [("scan.hs", "counts.dat"), ("mu.hv", "mu.v"), ("a.safetensors", "a.json")])
def test_no_output_replaces_an_input_or_a_file_that_it_names(scan, tmp_path, option, inputs):
    for name in inputs:
        whole = scan / name
        (tmp_path / name).write_bytes(whole.read_bytes() if whole.exists() else b"{}")
    suffix = {"--out": ".h5", "--log": ".json"}.get(option, ".x")
    for name in inputs:
        target = tmp_path / f"linked-{name}{suffix}"
        os.link(tmp_path / name, target)
        with pytest.raises(OutputError, match="would replace an input"):
            check_outputs({option: target}, [tmp_path / inputs[0]])


@pytest.mark.parametrize("link", [hard_link, symbolic_link])
@pytest.mark.parametrize("option", ["--picture", "--checkpoint"])
def test_links_to_inputs_are_inputs(scan, tmp_path, link, option):
    for name in ("scan.hs", "counts.dat"):
        (tmp_path / name).write_bytes((scan / name).read_bytes())
    before = (tmp_path / "counts.dat").read_bytes()
    done = emrecon("reconstruct", tmp_path / "scan.hs", option, link(tmp_path), "--out", tmp_path / "i.nii", check=4)
    assert "would replace an input" in done.stderr
    assert (tmp_path / "counts.dat").read_bytes() == before


def test_headers_that_name_headers_are_followed(tmp_path):
    (tmp_path / "all.hs").write_text("!INTERFILE :=\nnorm := part.hs\nname of data file := <none>\nx := /\n")
    (tmp_path / "part.hs").write_text("data := 'deep.dat'\nback := all.hs\n")
    (tmp_path / "deep.dat").write_bytes(b"\0")
    with pytest.raises(OutputError, match="would replace"):
        check_outputs({"--picture": tmp_path / "deep.dat"}, [tmp_path / "all.hs"])


@pytest.mark.skipif(os.name != "posix", reason="devices")
@pytest.mark.parametrize("option", OUTPUTS[1:])
def test_devices_and_folders_are_not_replaced(scan, tmp_path, option):
    pipe = tmp_path / ("pipe.csv" if option == "--log" else "pipe")
    os.mkfifo(pipe)
    folder = tmp_path / ("folder.csv" if option == "--log" else "folder")
    folder.mkdir()
    for path, words in ((pipe, "device or a pipe"), (folder, "it is a folder")):
        done = emrecon("reconstruct", scan / "scan.hs", option, path, "--out", tmp_path / "i.nii", check=4)
        assert words in done.stderr
        assert path.exists()


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
@pytest.mark.parametrize("option", ["--tolerance", "--voxel", "--energy", "--intrinsic", "--background", "--psf"])
def test_numbers_that_are_none_are_refused_by_name(scan, tmp_path, option, value):
    done = emrecon("reconstruct", scan / "scan.hs", option, value, "--out", tmp_path / "i.nii", check=2)
    assert option in done.stderr
    (tmp_path / "c.toml").write_text(
        f"[{'method' if option == '--tolerance' else 'physics'}]\n{option[2:]} = {value}\n"
    )
    done = emrecon("reconstruct", scan / "scan.hs", "--config", tmp_path / "c.toml", check=3)
    assert option[2:] in done.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_tolerance_is_a_number(value):
    with pytest.raises(ValueError, match="tolerance"):
        RelativeChange(value)


def test_quiet_keeps_notes_of_the_library_back(capsys):
    import logging

    with printing.log_shown():
        logging.getLogger("emrecon.x").warning("look [here]")
        with printing.quietly(True):
            logging.getLogger("emrecon.x").warning("not here")
    assert capsys.readouterr().err == "note: look [here]\n"


def test_training_writes_no_weights_among_its_samples(tmp_path, monkeypatch):
    from types import SimpleNamespace

    from emrecon.cli import train_shared

    plan = SimpleNamespace(folder=tmp_path)
    with pytest.raises(OutputError, match="holds the samples"):
        train_shared.check_folder(plan, tmp_path / "." / "x" / "..")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--response", "1e300,1"), "--response: a point 60 mm from the collimator would be 6e+301 mm wide"),
        (("--response", "0,200"), "the detector is 64 mm wide"),
        (("--response", "nan,1"), "--response"),
        (("--response", "-1,1"), "--response"),
        (("--collimator", "ge-lehr", "--intrinsic", "1e300"), "the detector is 64 mm wide"),
        (("--collimator", "ge-lehr", "--energy", "1e300"), "--energy: energy must be 1 to 20000 keV"),
        (("--mu-cylinder", "inf:0.1"), "--mu-cylinder"),
        (("--mu-cylinder", "30:inf"), "--mu-cylinder"),
        (("--subsets", 10**30), "--subsets"),
        (
            ("--subsets", 10**6, "--voxel", 4),
            "--subsets: subsets is 1000000, but the scan has only 8 views; use at most 8",
        ),
        (("--iterations", 10**30), "--iterations"),
        (("--header", "radius=[]"), "NAME=VALUE"),
        (("--header", "=3"), "NAME=VALUE"),
    ],
)
def test_values_beyond_sense_are_wrong_usage(scan, tmp_path, options, words):
    done = emrecon("reconstruct", scan / "scan.hs", *options, "--out", tmp_path / "i.nii", check=2)
    assert words in done.stderr
    assert "unexpected" not in done.stderr


def test_a_resolution_wider_than_the_image_is_refused():
    sinogram = PETSinogram(RING)
    with pytest.raises(ArgumentError, match="is wider than the image") as caught:
        pet_problem(Scan(np.ones(sinogram.shape, np.float32), sinogram), psf=1e300)
    assert caught.value.argument == "psf"


def test_a_size_of_files_that_does_not_fit_says_one_that_does(tmp_path):
    done = emrecon("simulate", "spectnet", "--shard-size", 3, "--out", tmp_path / "set", check=2)
    size = int(done.stderr.split("use ")[1].split(",")[0])
    assert "--shard-size" in done.stderr
    assert size >= 3
    assert not (tmp_path / "set").exists()


def test_every_option_that_names_a_file_to_read_is_an_input():
    from pathlib import Path
    from types import SimpleNamespace

    from emrecon.cli.reconstruct import running
    from emrecon.cli.reconstruct.settings import DataTable, MethodTable, PhysicsTable, Settings

    tables, paths = {}, set()
    for name, kind in (("data", DataTable), ("physics", PhysicsTable), ("method", MethodTable)):
        own = {key: Path(key) for key, field in kind.model_fields.items() if "Path" in str(field.annotation)}
        own |= {"guide": (own["guide"],)} if "guide" in own else {}
        tables[name] = kind(**own)
        paths |= {Path(key) for key in own}
    choice = SimpleNamespace(trained=SimpleNamespace(path=Path("weights")))
    source = Scan(np.ones(CAMERA.shape, np.float32), CAMERA)
    assert {"norm", "mu", "guide", "weights", "projections"} <= {path.name for path in paths}
    assert set(running._inputs(Settings(**tables), choice, source)) >= paths
