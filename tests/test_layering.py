"""Who imports whom: imports must point downwards, keep private names in their room, and have no circles."""

import ast
import importlib
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALLOWED = {
    "projectors": set(),
    "formats": {"projectors"},
    "sims": {"projectors", "formats"},
    "recon": {"projectors"},
    "unrolled": {"projectors", "recon"},
    "figures": {"projectors", "recon", "formats"},
    "evaluation": {"projectors", "formats", "sims", "recon", "unrolled", "figures"},
    "cli": {"projectors", "formats", "sims", "recon", "unrolled", "figures", "evaluation"},
}
"""The packages that a package may import."""

STOREYS = {
    "projectors": ["core", "physics", "spect", "parallel", "pet", "scan"],
    "recon": [
        "likelihoods",
        "ranks",
        "metrics",
        "observers",
        "priors",
        "kernels",
        "engines",
        "uncertainty",
        "problem",
        "methods",
        "dosimetry",
    ],
    "unrolled": ["networks", "enhancement", "corrections", "direct", "methods", "training", "interop"],
    "formats": [
        "words",
        "machine",
        "records",
        "acquisition",
        "recording",
        "summary",
        "times",
        "hdf5",
        "interfile",
        "siemens",
        "dicom",
    ],
    "figures": ["sheets", "looks", "planes", "views", "projections", "curves", "orbits", "reports"],
    "sims": ["noise", "phantoms", "simulators", "datasets", "recipes"],
    "evaluation": [
        "sections",
        "machine",
        "kept",
        "records",
        "suite",
        "statistics",
        "tasks",
        "methods",
        "single",
        "scoring",
        "tuning",
        "deep",
        "classical",
        "trained",
        "own",
        "comparison",
        "comparison_sections",
        "figures",
        "bias_noise",
        "detection",
        "standards",
        "learned",
        "direct",
        "enhancement",
    ],
}
"""The rooms of a package and the files that rooms stand on, lowest first: each imports from those before it."""

SOURCES = [path for package in ALLOWED for path in sorted((ROOT / package).rglob("*.py"))]
LONGEST = 600  # lines


def module_of(path):
    """The dotted name of a source file, without `emrecon.`."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def room_of(module):
    """(package, room) of a module; the room is empty for the files of a package itself."""
    package, *inner = module.split(".")
    return package, inner[0] if inner and inner[0] in STOREYS.get(package, ()) else ""


@cache
def parsed(path):
    """The syntax tree of a source file: read once for all rules."""
    return ast.parse(path.read_text())


@cache
def imports(path):
    """Every (module of emrecon, name or None) that a file imports: lazily and for type checking, too."""
    own, found = module_of(path), []
    package = own if path.name == "__init__.py" else own.rpartition(".")[0]
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name.removeprefix("emrecon."), None) for alias in node.names if "emrecon." in alias.name]
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            elif node.module == "emrecon" or (node.module or "").startswith("emrecon."):
                base = node.module.removeprefix("emrecon").removeprefix(".")
            else:
                continue
            for alias in node.names:
                inner = f"{base}.{alias.name}".removeprefix(".")
                found.append((inner, None) if inner in MODULES else (base, alias.name))
    return tuple(found)


def circles(edges):
    """The strongly connected parts of a graph with more than one member (Tarjan 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges[node]:
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            found.extend([sorted(part)] if len(part) > 1 else [])

    for node in list(edges):
        if node not in index:
            visit(node)
    return found


def upward(path):
    """Imports of a file that point upwards, a line each."""
    package, room = room_of(module_of(path))
    for module, _ in imports(path):
        other, other_room = room_of(module)
        if other not in ALLOWED:
            continue
        if other != package:
            if other not in ALLOWED[package]:
                yield f"{module_of(path)} of {package} imports {module}"
        elif room and path.name != "__init__.py":
            order = STOREYS[package]
            if not other_room or order.index(other_room) > order.index(room):
                yield f"{module_of(path)} imports {module}, which stands above it"


def test_imports_point_downwards():
    found = [line for path in SOURCES for line in upward(path)]
    assert not found, "\n".join(found)


def test_private_names_stay_in_their_room():
    crossings = []
    for path in SOURCES:
        own = room_of(module_of(path))
        for module, name in imports(path):
            parts = [*module.split("."), *([name] if name else [])]
            private = [part for part in parts if part.startswith("_") and not part.startswith("__")]
            if private and room_of(module) != own:
                crossings.append(f"{module_of(path)} imports {'.'.join(parts)}")
    print(f"private imports across rooms and packages: {len(crossings)}")
    assert not crossings, "\n".join(crossings)


def test_no_circles():
    edges = defaultdict(set)
    for name, path in MODULES.items():
        for module, _ in imports(path):
            # what a package exports stands below it: its `__init__` reads the modules, and they never read it
            if module in MODULES and module != name:
                edges[name].add(module)
    found = circles(edges)
    print(f"import circles: {len(found)}")
    assert not found, found


def test_a_circle_would_be_found():
    assert circles(defaultdict(set, {"a": {"b"}, "b": {"c"}, "c": {"b"}})) == [["b", "c"]]


def needs_torch(path):
    """Whether a file belongs to the rooms that cannot be imported without torch."""
    if module_of(path).startswith("unrolled") or path.name == "autograd.py":
        return True
    # the suite trains networks, and is loaded when its units are asked for
    return (
        module_of(path).startswith(("evaluation.learned.", "evaluation.direct.", "evaluation.enhancement."))
        and path.name != "suite.py"
    )


def imported_at_once(path):
    """The packages that a file imports at its top."""
    top = [node for node in parsed(path).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
    return names | {
        (node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom) and not node.level
    }


def test_torch_is_imported_in_few_places_or_lazily():
    eager = [path for path in SOURCES if imported_at_once(path) & {"torch", "cupy", "cupyx"}]
    assert eager, "the rule sees no import of torch at all"
    assert [module_of(path) for path in eager if not needs_torch(path)] == []


def test_a_file_opens_with_one_sentence():
    assert [module_of(path) for path in SOURCES if not ast.get_docstring(parsed(path))] == []


def test_a_file_is_about_one_thing():
    assert [module_of(path) for path in SOURCES if len(path.read_text().splitlines()) > LONGEST] == []


def test_no_name_hides_a_module_or_differs_by_case_alone():
    found = []
    for package in (name for name, path in MODULES.items() if path.name == "__init__.py"):
        inside = {module.rpartition(".")[2] for module in MODULES if module.rpartition(".")[0] == package}
        names = list(getattr(importlib.import_module(f"emrecon.{package}"), "__all__", ()))
        found += [f"{package}.{name} has the name of a module" for name in sorted(inside & set(names))]
        found += [f"{package}.{name} is listed twice" for name, count in Counter(names).items() if count > 1]
        by_case = defaultdict(set)
        for one in names:
            by_case[one.lower().replace("_", "")].add(one)
        found += [f"{package}: {sorted(same)} are hard to tell apart" for same in by_case.values() if len(same) > 1]
    assert not found, "\n".join(found)
