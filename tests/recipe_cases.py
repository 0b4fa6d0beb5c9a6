"""Recipes of small SPECT and PET sets."""

SMALL_SPECT = """\
name = "small"
n = 10
seed = 3
outputs = ["counts", "expected", "background", "factors", "truth", "mu", "ct", "labels", "lesions"]

[split]
train = 0.8
test = 0.2

[grid]
shape = [24, 24, 1]
voxel_size = [10.0, 10.0, 10.0]

[phantom]
kind = "spectnet-brain"

[spect]
views = 12
bins = [24, 1]
pixel_size = [10.0, 10.0]
radius = 150.0
response = [0.04, 2.0]

[counts]
total = [1e4, 1e5]
levels = [0.5, 1.0]
"""

SMALL_PET = """\
name = "small pet"
n = 6
outputs = ["counts", "background", "factors", "truth", "guide"]

[grid]
shape = [32, 32, 1]
voxel_size = [8.0, 8.0, 8.0]

[phantom]
kind = "brain"

[phantom.lesions]
both = 2

[pet]
resolution = 6.0
scatter_fraction = [0.2, 0.4]
randoms_fraction = [0.1, 0.3]

[pet.ring]
sides = 8
crystals_per_side = 8
radius = 200.0
rings = 1
ring_pitch = 8.0

[counts]
total = 2e5
"""
