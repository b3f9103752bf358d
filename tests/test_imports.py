"""Imports go one way: from the command line down to the device profiles, never back.

Every file is parsed, so imports inside functions count as well.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "smartmem_tvm"
# Folder of each package mapped by setup.py.
MAPPED = {name: f"{PACKAGE}.{name}" for name in ("passes", "schedules", "zoo")}

# A module may import layers below its own and its own layer's siblings as said in SAME_LAYER.
LAYERS = [
    {"errors", "upstream", "processes", "whole_files", "opencl_source"},
    {"runtime"},
    {"devices"},
    {"analysis"},
    {"passes", "schedules"},
    {"pipeline"},
    {"zoo", "frontend", "rpc", "probing", "linking", "parameters", "manifest"},
    {
        "execution",
        "artifact",
        "compiler",
        "checking",
        "testing",
        "oclgrind",
        "simulation",
        "traffic",
        "explaining",
        "tuning",
    },
    {"report"},
    {"bench"},
    {"cli"},
]
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}
# Ranks whose parts know nothing of one another.
SEPARATE = {RANK["passes"]}


def files():
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        found[path] = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder, package in MAPPED.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            inner = path.relative_to(ROOT / folder).with_suffix("").parts
            found[path] = ".".join((package, *inner))
    return found


def part_of(module):
    """The part of the package that a dotted name belongs to; None for the package itself."""
    names = module.split(".")
    return names[1] if len(names) > 1 and names[1] != "__init__" else None


def imported(tree, module, is_package):
    """Dotted names under the package that one module imports."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package[: len(package) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            # `from smartmem_tvm import runtime` names a part, or something of the package itself.
            names = [f"{base}.{alias.name}" if base == PACKAGE else base for alias in node.names]
        else:
            continue
        yield from (name for name in names if name == PACKAGE or name.startswith(f"{PACKAGE}."))


def violations(sources):
    """Sentences for each import that goes up or across; ``sources`` maps module to text."""
    found = []
    for module, text in sources.items():
        is_package = module.endswith(".__init__")
        own = part_of(module)
        if own is None:
            continue  # the package's __init__ is the public face of everything
        tree = ast.parse(text)
        for name in imported(tree, module.removesuffix(".__init__"), is_package):
            other = part_of(name)
            if other is None or other not in RANK or other == own:
                continue
            if RANK[other] > RANK[own]:
                found.append(f"{module} imports {name}: {own} is below {other}")
            elif RANK[other] == RANK[own] and RANK[own] in SEPARATE:
                found.append(f"{module} imports {name}: {own} and {other} are separate")
    return found


def test_every_part_has_a_layer():
    unknown = {part_of(module) for module in files().values()} - set(RANK) - {None}
    assert unknown == set(), "give each new part its place in LAYERS"


def test_imports_go_one_way():
    sources = {module: path.read_text(encoding="utf-8") for path, module in files().items()}
    assert len(sources) > 10
    assert violations(sources) == []


def test_analysis_devices_and_runtime_know_no_passes():
    lower = [RANK[part] for part in ("runtime", "devices", "analysis")]
    assert max(lower) < RANK["passes"] < RANK["pipeline"] < RANK["cli"]
    assert lower == sorted(lower)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("smartmem_tvm.analysis.kernels", "from smartmem_tvm.passes import Verify"),
        ("smartmem_tvm.devices.schema", "from ..pipeline import pipeline"),
        ("smartmem_tvm.devices.schema", "from .. import cli"),
        ("smartmem_tvm.runtime.__init__", "from ..devices import load_profile"),
        ("smartmem_tvm.passes.eliminate", "def f():\n    import smartmem_tvm.schedules.base"),
        ("smartmem_tvm.passes.__init__", "from smartmem_tvm import pipeline"),
    ],
)
def test_wrong_imports_are_found(module, text):
    assert len(violations({module: text})) == 1


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("smartmem_tvm.cli.main", "from .. import compiler\nfrom smartmem_tvm.errors import X"),
        ("smartmem_tvm.passes.eliminate", "from smartmem_tvm.analysis import list_kernels"),
        ("smartmem_tvm.devices.__init__", "from .schema import DeviceProfile\nimport tvm"),
    ],
)
def test_right_imports_pass(module, text):
    assert violations({module: text}) == []
