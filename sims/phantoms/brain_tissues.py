"""Materials of the parts of a head, and how magnetic resonance images show them."""

TISSUES = {
    "skin": "muscle", "skull": "bone-cortical", "csf": "water", "grey": "muscle", "white": "muscle",
    "ventricles": "water", "cerebellum": "muscle", "cerebellar white": "muscle", "brainstem": "muscle",
    "caudate": "muscle", "putamen": "muscle", "thalamus": "muscle",
}  # fmt: skip
"""Material by the name of a region of `random_folded_brain`."""

CONTRASTS = {
    "t1": {
        "skin": 0.85, "skull": 0.10, "csf": 0.22, "grey": 0.65, "white": 1.0, "ventricles": 0.18, "cerebellum": 0.65,
        "cerebellar white": 0.97, "brainstem": 0.93, "caudate": 0.68, "putamen": 0.72, "thalamus": 0.78,
    },
    "t2": {
        "skin": 0.55, "skull": 0.08, "csf": 1.0, "grey": 0.62, "white": 0.42, "ventricles": 1.0, "cerebellum": 0.60,
        "cerebellar white": 0.44, "brainstem": 0.46, "caudate": 0.58, "putamen": 0.52, "thalamus": 0.50,
    },
    "pd": {
        "skin": 0.80, "skull": 0.12, "csf": 0.72, "grey": 0.95, "white": 0.76, "ventricles": 0.72, "cerebellum": 0.93,
        "cerebellar white": 0.78, "brainstem": 0.79, "caudate": 0.92, "putamen": 0.90, "thalamus": 0.86,
    },
}  # fmt: skip
"""Intensity by tissue of images weighted by T1, T2 and proton density, our choice of typical values."""
