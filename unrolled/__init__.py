"""Networks inside the physics: learned priors, unrolled MAP-EM, deep image prior, and how they are trained."""

if __name__ != "emrecon.unrolled":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.unrolled`")
