"""The command `emrecon`: demo, reconstruct, info."""

if __name__ != "emrecon.cli":
    raise ImportError(
        "this folder is a part of emrecon: `pip install .` first, then run `emrecon` or `import emrecon.cli`"
    )
