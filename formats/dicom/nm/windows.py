"""Energy windows and the radionuclide of a file of nuclear medicine."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from emrecon.projectors import EnergyWindow, isotope
from emrecon.projectors.core.errors import FormatError
from emrecon.projectors.physics.nuclides import ELEMENTS

from ..attributes import items_of, private_of, text_of
from .given import Given
from .header import single_of, tag
from .notes import Notes

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_MOST = 100
_HIGHEST = 3000.0  # keV


def windows_of(path: Path, header: Dataset, used: np.ndarray, given: Given, notes: Notes) -> list[EnergyWindow | None]:
    """Return the energy windows of a file by their number from 0, None where the limits are not known.

    Args:
        used : the windows that frames have, from 0.

    Raises FormatError for windows of several ranges, impossible limits, and several windows without limits.
    """
    items = items_of(header, "EnergyWindowInformationSequence")
    n = int(used.max()) + 1
    if n > _MOST:
        raise FormatError(f"{path}: {tag('EnergyWindowVector')} goes up to {n}; damaged header?")
    if items and len(items) < n:
        raise FormatError(
            f"{path}: {tag('EnergyWindowVector')} goes up to {n}, but {tag('EnergyWindowInformationSequence')} has "
            f"{len(items)} items"
        )
    names = [text_of(items[i], "EnergyWindowName") if i < len(items) else None for i in range(n)]
    limits = _given_limits(given, n, used)
    if limits is None:
        limits = [_limits(path, items[i], i) if i < len(items) and i in used else None for i in range(n)]
    missing = [i for i in used if limits[i] is None]
    if missing and len(used) > 1:
        raise FormatError(
            f"{path}: the limits of energy window {missing[0] + 1} ({tag('EnergyWindowRangeSequence')}) are missing; "
            "pass energy_windows=LOWER:UPPER,... in keV, one for each window"
        )
    if missing:
        notes.add(path, "the limits of the energy window are missing; pass energy_window=LOWER,UPPER in keV")
    windows: list[EnergyWindow | None] = []
    for i, pair in enumerate(limits):
        windows.append(None if pair is None else EnergyWindow(*pair, _distinct(names, i)))
    return windows


def _distinct(names: list[str | None], i: int) -> str:
    """A name of a window that no other window of the file has."""
    name = names[i] or f"window {i + 1}"
    return f"{name} ({i + 1})" if names.count(names[i]) > 1 and names[i] else name


def _given_limits(given: Given, n: int, used: np.ndarray) -> list[tuple[float, float] | None] | None:
    one = given.numbers("energy_window", 2)
    listed = given.get("energy_windows", _pairs)
    if one is not None and listed is None:
        if len(used) > 1:
            raise FormatError(
                f"{given.path}: energy_window= is of one window, but the file has {len(used)}; pass energy_windows="
            )
        listed = [(float(one[0]), float(one[1]))] * n
    if listed is None:
        return None
    if len(listed) != n:
        raise FormatError(f"{given.path}: energy_windows= has {len(listed)} windows, but the file has {n}")
    for low, high in listed:
        if not 0 <= low < high:
            raise FormatError(f"{given.path}: an energy window of {low:g} to {high:g} keV; LOWER:UPPER is expected")
    return list(listed)


def _pairs(value: object) -> list[tuple[float, float]]:
    entries = re.split(r"[,;\s]+", value.strip()) if isinstance(value, str) else np.ravel(np.asarray(value, object))
    pairs = []
    if not isinstance(value, str) and np.asarray(value, object).ndim == 2:
        entries = [f"{low}:{high}" for low, high in np.asarray(value, object)]
    for entry in entries:
        low, colon, high = str(entry).partition(":")
        if not colon:
            raise ValueError("expected LOWER:UPPER of each window, with commas between them")
        pairs.append((float(low), float(high)))
    return pairs


def _limits(path: Path, item: Dataset, i: int) -> tuple[float, float] | None:
    ranges = []
    for part in items_of(item, "EnergyWindowRangeSequence"):
        pair = single_of(path, part, "EnergyWindowLowerLimit"), single_of(path, part, "EnergyWindowUpperLimit")
        if pair[0] is not None and pair[1] is not None and pair[1] > 0:
            ranges.append((pair[0], pair[1]))
    if not ranges:
        return None
    if len(set(ranges)) > 1:
        shown = ", ".join(f"{low:g}:{high:g}" for low, high in ranges)
        raise FormatError(
            f"{path}: energy window {i + 1} is the sum of {len(ranges)} ranges ({shown} keV), which have no one photon "
            "energy and response; pass energy_windows=LOWER:UPPER,... to read each window as one range"
        )
    low, high = ranges[0]
    if not 0 <= low < high <= _HIGHEST:
        raise FormatError(
            f"{path}: energy window {i + 1} is from {low:g} to {high:g} keV ({tag('EnergyWindowRangeSequence')}); "
            "damaged header? Pass energy_windows=LOWER:UPPER,..."
        )
    return low, high


# ---- the radionuclide ------------------------------------------------------------------------------------------------


def nuclide_of(
    path: Path, header: Dataset, windows: list[EnergyWindow | None], given: Given, notes: Notes
) -> str | None:
    """Return the radionuclide by our name, None where the file does not tell, or tells of several."""
    chosen = given.text("radionuclide")
    if chosen is not None:
        try:
            return isotope(chosen).name
        except ValueError as error:
            raise FormatError(f"{path}: radionuclide= {error}") from error
    found: list[str] = []
    texts: list[str] = []
    for item in items_of(header, "RadiopharmaceuticalInformationSequence"):
        name, said = _nuclide_of_item(item)
        texts += said
        if name is not None and name not in found:
            found.append(name)
    if len(found) > 1:
        notes.add(path, f"the file names several radionuclides, {', '.join(found)}; pass radionuclide= to choose one")
        return None
    if found:
        return found[0]
    private = private_of(header, 0x0011, "GEMS_GENIE_1", 0x0D)
    name = named_in(private)
    if name is not None:
        return name
    for item in items_of(header, "EnergyWindowInformationSequence"):
        name = named_in(text_of(item, "EnergyWindowName"))
        if name is not None:
            notes.add(path, f"the radionuclide is taken from the name of an energy window: {name}")
            return name
    shown = f", which says {texts[0][:40]!r}" if texts else ""
    notes.add(
        path,
        f"no known radionuclide in {tag('RadiopharmaceuticalInformationSequence')}{shown}; pass radionuclide=NAME",
    )
    return None


def _nuclide_of_item(item: Dataset) -> tuple[str | None, list[str]]:
    texts = []
    for code in items_of(item, "RadionuclideCodeSequence"):
        texts += [text for text in (text_of(code, "CodeMeaning"), text_of(code, "CodeValue")) if text]
        value = text_of(code, "CodeValue") or ""
        name = named_in(text_of(code, "CodeMeaning")) or _by_code(value)
        if name is not None:
            return name, texts
    drugs = [text_of(item, "Radiopharmaceutical")]
    drugs += [text_of(code, "CodeMeaning") for code in items_of(item, "RadiopharmaceuticalCodeSequence")]
    texts += [text for text in drugs if text]
    return next((name for drug in drugs if (name := named_in(drug)) is not None), None), texts


def _by_code(value: str) -> str | None:
    """The nuclide of a code of DICOM's context groups 18 and 4020, in SNOMED CT or as SNOMED RT had it."""
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    old = Code(value, "SRT", "") if re.fullmatch(r"[A-Z]-[0-9A-F]{5}", value) else None
    for group in (codes.cid18, codes.cid4020):
        for name in group.dir():
            known = getattr(group, name)
            if value == known.value or (old is not None and old == known):
                return named_in(known.meaning)
    return None


def named_in(text: str | None) -> str | None:
    """Return the radionuclide in a text such as "^99m^Technetium", "Tc99m MDP" or "Lu177-PSMA", None where none is."""
    plain = re.sub(r"[\^\[\]_]", " ", text or "")[:200]
    names = "|".join((*ELEMENTS, *ELEMENTS.values()))
    for pattern in (
        rf"(?<![A-Za-z0-9])(?P<mass>\d{{2,3}} ?m?)[ -]*(?P<element>{names})(?![a-z])",
        rf"(?<![A-Za-z])(?P<element>{names})[ -]*(?P<mass>\d{{2,3}} ?m?)(?![0-9A-Za-z])",
    ):
        for found in re.finditer(pattern, plain, re.IGNORECASE):
            with suppress(ValueError):
                return isotope(f"{found['element']}{found['mass'].replace(' ', '')}").name
    return None
