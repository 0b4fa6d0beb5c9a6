"""The collimator of the file is modelled where no option says otherwise, and what it is is printed."""

from dataclasses import replace
from pathlib import Path

import pytest
import typer
from nm_cases import scan, windowed

from emrecon.cli import options
from emrecon.cli.reconstruct.collimators import with_collimator
from emrecon.cli.reconstruct.settings import DataTable, PhysicsTable, Settings
from emrecon.projectors import BedScan


def settings(**physics):
    return Settings(data=DataTable(projections=Path("scan.dcm")), physics=PhysicsTable(**physics))


def of(name, maker="SIEMENS NM", make=scan):
    """A scan whose file names a collimator."""
    one = make()
    return replace(one, study=replace(one.study, collimator=name, manufacturer=maker, model=None))


@pytest.mark.parametrize("make", [scan, windowed])
def test_known(caplog, make):
    caplog.set_level("INFO")
    found = with_collimator(settings(), of("MELP", make=make))
    assert found.physics.collimator == "sy-me"
    assert "MELP of SIEMENS NM, is modelled as sy-me: holes 2.94 mm" in caplog.text
    assert "208.4 keV" in caplog.text
    bed = of("MELP", make=make)
    beds = BedScan((bed, replace(bed, geometry=replace(bed.geometry, axial_shift=50.0))))
    assert with_collimator(settings(), beds).physics.collimator == "sy-me"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (of("SMARTZOOM"), "SMARTZOOM of SIEMENS NM, is not known (unknown collimator 'SMARTZOOM' of SIEMENS NM"),
        (of("LEHR", maker=None), "LEHR, is not known (the collimators of an unknown camera are not known)"),
        (of("LEHR", maker="ACME"), "LEHR of ACME, is not known"),
    ],
)
def test_an_unknown_one_is_refused(source, words):
    with pytest.raises(typer.BadParameter) as error:
        with_collimator(settings(), source)
    assert words in str(error.value)
    assert "give --collimator NAME" in str(error.value)
    assert "--response" in str(error.value)
    assert "--collimator none" in str(error.value)
    assert error.value.param_hint == "--collimator"
    assert with_collimator(settings(collimator="none"), source).physics.collimator == "none"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (replace(of("MELP"), radionuclide=None), "the radionuclide is not known"),
        (replace(of("MELP"), energy_window=(300, 320)), "no photon line in the energy window"),
        (of(None), "the file names no collimator"),
    ],
)
def test_not_usable(caplog, source, words):
    assert with_collimator(settings(), source).physics.collimator is None
    assert words in caplog.text
    assert "so no resolution is modelled; give --collimator" in caplog.text


def test_options_win(caplog):
    for given in ({"collimator": "ge-megp"}, {"response": "0.02,1"}, {"collimator": "none"}):
        assert with_collimator(settings(**given), of("MELP")).physics == settings(**given).physics
    assert not caplog.text
    assert options.response("none", None, 0.0, None) is None
    with pytest.raises(typer.BadParameter, match="along with a collimator only"):
        options.response("none", None, 0.0, 3.0)
