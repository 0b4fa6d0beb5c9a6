"""Collimators by the names that cameras write into their files: of a maker, a model, and in several spellings."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .collimation import ParallelHoleCollimator, collimator, collimators

_GRADES = {
    "elegp": r"ELE(GP)?|EEGP|ELGP|XLEGP|EXTENDED(RANGE)?LOWENERGY.*",
    "uhe": r"UHE(GP)?|ULTRAHIGHENERGY.*",
    "mlegp": r"MLEGP|MEDIUMLOWENERGY.*",
    "mhegp": r"MHEGP|MEDIUMHIGHENERGY.*",
    "lehrs": r"LEHRS",
    "lhrhs": r"LEHRHS|LHRHS",
    "leuhr": r"LEUHR|LEUR|LUHR|LOWENERGYULTRAHIGHRES.*",
    "lehr": r"LEHR|LOWENERGYHIGHRES.*",
    "lehs": r"LEHS|LOWENERGYHIGHSENS.*",
    "legp": r"LEGP|LOWENERGYGENERAL.*|LOWENERGYGP",
    "leap": r"LEAP|LOWENERGYALL.*|LOWENERGYAP",
    "cahr": r"CAHR|CHR|CARDIACHIGHRES.*",
    "me": r"ME(GP|LP|AP)?|MEDIUMENERGY.*",
    "he": r"HE(GP|AP)?|HIGHENERGY.*",
}
"""What a maker calls a kind of collimator, without spaces and signs."""

_SIEMENS = {"lehr": "sy-lehr", "leap": "sy-leap", "legp": "sy-leap", "me": "sy-me", "he": "sy-he"}
_ECAM = {
    "lehs": "se-lehs",
    "leap": "se-leap",
    "legp": "se-leap",
    "lehr": "se-lehr",
    "leuhr": "se-leur",
    "me": "se-me",
    "he": "se-he",
    "uhe": "se-uhe",
}
_INFINIA = {
    "lehr": "gi-lehr",
    "legp": "gi-legp",
    "leap": "gi-legp",
    "me": "gi-megp",
    "he": "gi-hegp",
    "elegp": "gi-eleg",
}
_GE_870 = {
    "lehrs": "g8-lhrs",
    "lehs": "g8-lehs",
    "leuhr": "g8-luhr",
    "lehr": "g8-lehr",
    "elegp": "g8-eleg",
    "me": "g8-megp",
    "he": "g8-hegp",
}
_ANYSCAN = {
    "lehs": "ma-lehs",
    "lehr": "ma-lehr",
    "leuhr": "ma-leuhr",
    "lhrhs": "ma-lhrhs",
    "legp": "ma-legp",
    "mlegp": "ma-mlegp",
    "me": "ma-megp",
    "mhegp": "ma-mhegp",
    "he": "ma-hegp",
}
_NUCLINE = {"legp": "me-legp", "lehr": "me-lehr", "leuhr": "me-leuhr", "me": "me-megp", "he": "me-hegp"}
_PRISM = {"leap": "pr-leap", "legp": "pr-leap", "lehr": "pr-lehr", "leuhr": "pr-leur", "me": "pr-me", "he": "pr-he"}
_BRIGHTVIEW = {
    "legp": "pb-legp",
    "leap": "pb-legp",
    "lehr": "pb-lehr",
    "cahr": "pb-cahr",
    "me": "pb-megp",
    "he": "pb-hegp",
}
_FAMILIES: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("SIEMENS", r"E[. ]?CAM", _ECAM),
    ("SIEMENS", r"SYMBIA|INTEVO|ENCORE|^$", _SIEMENS),
    ("GE|GENERAL ELECTRIC", r"870", _GE_870),
    ("GE|GENERAL ELECTRIC", r"VENTRI", {"lehr": "gt-lehr", "legp": "gt-legp"}),
    ("GE|GENERAL ELECTRIC", r"640|630|615|OPTIMA|BRIVO", {"lehr": "go-lehr", "legp": "go-legp"}),
    (
        "GE|GENERAL ELECTRIC",
        r"MILLENNIUM VG|MILLENIUM VG",
        {
            "legp": "gv-legp",
            "lehr": "gv-lehr",
            "elegp": "gv-eegp",
            "me": "gv-megp",
            "he": "gv-hegp",
        },
    ),
    ("GE|GENERAL ELECTRIC", r"MILLENNIUM M|MILLENIUM M", {"legp": "gm-legp", "lehr": "gm-lehr"}),
    ("GE|GENERAL ELECTRIC", r"INFINIA|HAWKEYE|670|DISCOVERY|^$", _INFINIA),
    ("MEDISO", r"NUCLINE|SPIRIT", _NUCLINE),
    ("MEDISO", r"ANYSCAN|^$", _ANYSCAN),
    ("PHILIPS|PICKER|MARCONI", r"PRISM|IRIX|AXIS", _PRISM),
    ("PHILIPS", r"BRIGHTVIEW|^$", _BRIGHTVIEW),
)
"""Makers and models as patterns, and the collimators of our table that they have."""


def collimator_named(name: str, manufacturer: str | None = None, model: str | None = None) -> ParallelHoleCollimator:
    """Return the collimator that a file calls `name`, such as "LEHR", "ME-GP", "Low Energy High Res" or "MELP".

    Args:
        name : in the file, or one that `collimator` knows.
        manufacturer, model : of the camera: the same name is another collimator with each.

    The result's `name` is that of our table.

    Raises ValueError, which names the file's collimator and how to give one, where maker, model or name are not known.
    """
    if name.strip().lower() in collimators():
        return collimator(name.strip())
    maker, kind = (manufacturer or "").upper(), (model or "").upper()
    family = next((own for who, what, own in _FAMILIES if re.match(who, maker) and re.search(what, kind)), None)
    if family is None:
        camera = " ".join(part for part in (manufacturer, model) if part) or "an unknown camera"
        raise ValueError(f"the collimators of {camera} are not known; {_ADVICE}")
    code = family.get(_grade_of(name) or "")
    if code is None:
        known = ", ".join(dict.fromkeys(family.values()))
        raise ValueError(f"unknown collimator {name!r} of {manufacturer} (known: {known}); {_ADVICE}")
    return collimator(code)


_ADVICE = "name one of `collimators()`, such as siemens-lehr or SIMIND's sy-lehr, or give a response"


def _grade_of(name: str) -> str | None:
    """What kind of collimator a text means, None where that is not known."""
    plain = re.sub(r"[^A-Z0-9]", "", name.upper())
    plain = re.sub(r"PAR(A|ALLEL)?(HOLES?)?$", "", plain)
    # a code of SIMIND, or of a camera, before the kind
    plain = re.sub(r"^(SY|SE|SI|GI|GE|G8|GV|MA|PB|PR)(?=[LMHEU])", "", plain)
    return next((grade for grade, pattern in _GRADES.items() if re.fullmatch(pattern, plain)), None)
