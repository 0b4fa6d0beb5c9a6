"""Pictures of images, scans and reconstructions, of publication quality: PNG, SVG, PDF and animated GIF.

The core, by what one wants to see:

- an image: `orthoviews` through a point, a `montage` of many slices, `maximum_projection`, `rotating_projection`;
- an image over a CT, and the outlines of masks: `under=Layer(ct, ct_grid, CT)` and `masks=` of these;
- two images: `comparison`, `difference_map`, `line_profile`, `joint_histogram`;
- a reconstruction: `convergence`; an acquisition: `orbit`, `energy_windows`.

Each returns a figure of matplotlib, which `save` writes; a `Look` says unit, colours and window. Images are (x, y, z)
on LPS grids; slices are drawn in mm, so voxels of any proportions have their true ones. Nothing is written on a picture
that the caller did not give. No display is needed, and no state of matplotlib's is changed.
"""

if __name__ != "emrecon.figures":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.figures`")

from .comparing import comparison, difference_map, joint_histogram, line_profile, profile
from .control import attenuation_control
from .curves import convergence, energy_windows
from .looks import COLOURS, CT, DIFFERENCE, Look, parse_window
from .orbits import orbit, orbit_words
from .planar_views import planar
from .planes import Layer, index_at, indices_at
from .projections import maximum_projection, rotating_projection
from .reports import Run, patient_of, read_run, region_rows, report_html, write_report
from .sheets import SUFFIXES, frame_files, picture_kind, save, save_frames
from .views import montage, orthoviews, side_by_side

__all__ = [
    # images
    "orthoviews",
    "montage",
    "maximum_projection",
    "rotating_projection",
    "side_by_side",
    "attenuation_control",
    "planar",
    "Layer",
    # how they look
    "Look",
    "CT",
    "DIFFERENCE",
    "COLOURS",
    "parse_window",
    # two images
    "comparison",
    "difference_map",
    "line_profile",
    "profile",
    "joint_histogram",
    # reconstructions and acquisitions
    "convergence",
    "energy_windows",
    "orbit",
    "orbit_words",
    # reports
    "write_report",
    "report_html",
    "read_run",
    "Run",
    "patient_of",
    "region_rows",
    # files
    "save",
    "save_frames",
    "frame_files",
    "picture_kind",
    "SUFFIXES",
    "index_at",
    "indices_at",
]
