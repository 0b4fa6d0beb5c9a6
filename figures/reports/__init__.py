"""Reports: a reconstruction on one page of HTML that needs nothing else, to be read, kept and printed.

`write_report("report.html", "image.nii.gz")` takes an image that `emrecon reconstruct` wrote, or any other image with a
record (`formats.read_provenance`): images, regions, acquisition with its orbit, physics, convergence, warnings and
provenance. No patient's name is in it unless one is given.
"""

from .reading import Run, patient_of, read_run
from .regions import RegionRow, region_rows
from .report import report_html, write_report

__all__ = [
    "Run",
    "read_run",
    "patient_of",
    "report_html",
    "write_report",
    "RegionRow",
    "region_rows",
]
