"""PETLINK files of the mMR, written word by word."""

import numpy as np

HEADER = """!INTERFILE:=
name of data file := events.l
data format:=CoincidenceList
number of rings:=64
%LM event and tag words format (bits):=32
%total listmode word counts:={words}
%axial compression:=1
%maximum ring difference:=60
%number of projections:=344
%number of views:=252
isotope name:=F-18
"""


def write(folder, words, **changes):
    """A header and its words."""
    np.asarray(words, np.uint32).astype("<u4").tofile(folder / "events.l")
    text = HEADER.format(words=len(words))
    for old, new in changes.values():
        assert old in text
        text = text.replace(old, new)
    path = folder / "scan.l.hdr"
    path.write_text(text)
    return path


def time_tag(ms):
    return 0x80000000 | ms


def event(plane, view, radial, prompt=True):
    return (plane * 252 + view) * 344 + radial | (prompt << 30)
