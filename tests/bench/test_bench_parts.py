"""The parts that key what a runner prepares are the code that it uses: no less, and no more."""

from __future__ import annotations

import pytest
from code_closure import Closure

from smartmem_tvm.bench import machine
from smartmem_tvm.bench.prepare import Prepare
from smartmem_tvm.bench.runners import OURS, PROBES, RUNNERS, load_class

# What opens and runs that which is prepared, and what says what went wrong.
NOT_PREPARED = ("errors", "runtime", "execution", "rpc", "bench.runners.base")
NOT_PREPARED += ("bench.runners.tvm_machine",)
# TVM finds this by a name.
REGISTERED = {"tvm-adreno": ("pipeline", "tir_pipeline")}


def used_by(*roots):
    closure = Closure(machine._code_files(), NOT_PREPARED)
    for module, name in roots:
        closure.add(module.removeprefix("smartmem_tvm."), name)
    return closure.modules


def is_of(module, parts):
    return any(module == part or module.startswith(f"{part}.") for part in parts)


@pytest.mark.parametrize("name", [name for name in RUNNERS if name != OURS])
def test_parts_of_a_runner(name):
    module, _, kind = RUNNERS[name][0].partition(":")
    roots = [(module, kind), *([REGISTERED[name]] if name in REGISTERED else [])]
    parts = load_class(RUNNERS[name][0]).PARTS
    own = module.removeprefix("smartmem_tvm.")
    used = used_by(*roots)
    assert own in used
    missing = {m for m in used if not is_of(m, (*parts, *Prepare.PARTS, own))}
    assert missing == set(), f"add these to the PARTS of {name}"
    unused = {part for part in parts if not any(is_of(m, [part]) for m in used)}
    assert unused == set(), (
        f"take these out of the PARTS of {name}: they are prepared anew for them"
    )


def test_parts_of_what_all_share():
    used = used_by(("bench.prepare", "Prepare"))
    assert {module for module in used if not is_of(module, Prepare.PARTS)} == set()
    assert {part for part in Prepare.PARTS if not any(is_of(m, [part]) for m in used)} == set()


def test_our_own_passes_leave_the_peers_alone():
    """The peer that takes longest is not compiled again when elimination or its analysis change."""
    parts = (*Prepare.PARTS, *load_class(RUNNERS["tvm"][0]).PARTS)
    for module in (
        "passes.fuse_operators",
        "analysis.index_simplify",
        "schedules.emit",
        "pipeline",
    ):
        assert module in machine._code_files().values()
        assert not is_of(module, parts)


def test_every_part_is_code():
    modules = set(machine._code_files().values())
    for name in (*RUNNERS, *PROBES):
        for part in filter(None, load_class({**RUNNERS, **PROBES}[name][0]).PARTS):
            assert any(is_of(module, [part]) for module in modules), (name, part)


SOURCES = {
    "__init__": "from .a import first",
    "a": """
from .b import second as other, unused
from . import c
SIZE = c.size
def first(x: unused) -> unused:
    from smartmem_tvm.d import last
    return other(x) + last + SIZE
def untouched():
    return unused
""",
    "b.__init__": "from .inner import second, unused",
    "b.inner": """
from ..e import register
def second(x):
    return x
def unused():
    from ..never import anything
    return anything
register("second")
""",
    "c": "from .never import anything\nsize = 1\ndef other():\n    return anything",
    "d": "from .rest import gone\nlast = gone",
    "e": "def register(name): ...",
    "never": "anything = 1",
    "rest": "gone = 2",
}


@pytest.fixture
def files(tmp_path):
    found = {}
    for name, text in SOURCES.items():
        path = tmp_path / f"{name}.py"
        path.write_text(text, "utf-8")
        found[path] = name
    return found


@pytest.mark.parametrize(
    ("ends", "root", "expected"),
    [
        ((), ("a", "first"), {"a", "b.inner", "c", "d", "e", "rest"}),
        ((), ("__init__", "first"), {"a", "b.inner", "c", "d", "e", "rest"}),
        (("rest", "b"), ("a", "first"), {"a", "c", "d"}),
        ((), ("a", "SIZE"), {"a", "c"}),
        ((), ("b.inner", "unused"), {"b.inner", "e", "never"}),
    ],
)
def test_closure(files, ends, root, expected):
    closure = Closure(files, ends)
    closure.add(*root)
    assert closure.modules == expected


def test_closure_of_nothing(files):
    with pytest.raises(LookupError, match="module a has no third"):
        Closure(files).add("a", "third")
