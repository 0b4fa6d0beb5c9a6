"""to be filled"""

if __name__ != "emrecon.formats":
    raise ImportError("this folder is a part of emrecon: `pip install .` first, then `import emrecon.formats`")
