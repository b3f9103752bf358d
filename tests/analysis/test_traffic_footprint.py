"""Footprints: equal to enumeration, the same before and after the schedule, right by hand."""

from __future__ import annotations

import pytest
import tvm
from brute_force import Unpredictable, brute_force, depends_on_data
from tvm import tirx

from smartmem_tvm import SmartMemError, zoo
from smartmem_tvm.analysis.footprint import footprint_of, footprint_of_launch
from smartmem_tvm.analysis.launches import find_launches
from smartmem_tvm.analysis.traffic import compulsory, footprint
from smartmem_tvm.frontend import import_model
from smartmem_tvm.pipeline import as_target, pipeline_stages


def staged(name):
    """The module before the schedule and after it."""
    target = as_target("cpu")
    mod, before = import_model(name).mod, None
    with target:
        for stage, passes in pipeline_stages(target):
            if stage == "schedule":
                before = mod
            if stage == "lower":
                return before, mod
            mod = tvm.transform.Sequential(passes)(mod)
    raise LookupError("lower")


def compare(name):
    """Check every function of a model; how many were enumerated and how many compared."""
    before, after = staged(name)
    names = {other.name_hint for other in after.get_global_vars()}
    enumerated = same = 0
    for gv, func in before.functions.items():
        if not isinstance(func, tirx.PrimFunc) or find_launches(func):
            continue
        found = footprint_of(func.body)
        try:
            expected = brute_force(func.body)
        except Unpredictable:
            pass
        else:
            assert found.exact
            assert (found.read, found.written) == expected, gv.name_hint
            enumerated += 1
        if gv.name_hint not in names:  # a reshape that became a view
            continue
        scheduled = after[gv.name_hint]
        launches = find_launches(scheduled)
        if len(launches) == 1:
            assert footprint_of_launch(scheduled, launches, 0) == found
            same += 1
    return enumerated, same


@pytest.mark.parametrize("name", ["vit", "sd-textencoder", "pythia"])
def test_footprint_equals_enumeration(name):
    enumerated, same = compare(f"zoo:{name}/micro")
    assert enumerated >= 5
    assert same >= 5


@pytest.mark.slow
@pytest.mark.parametrize("name", [entry["name"] for entry in zoo.list_models()])
def test_footprint_equals_enumeration_on_the_whole_zoo(name):
    enumerated, same = compare(f"zoo:{name}/micro")
    assert enumerated >= 5
    assert same >= 5


def parse(params, body):
    lines = "\n".join(f"    {line}" for line in body.strip("\n").splitlines())
    return tvm.script.from_source(f"@T.prim_func(s_tir=True)\ndef main({params}):\n{lines}\n")


PADDED = """
P = T.sblock_alloc_buffer((4, 10, 10), "float32")
for c, h, w in T.grid(4, 10, 10):
    with T.sblock("pad"):
        vc, vh, vw = T.axis.remap("SSS", [c, h, w])
        P[vc, vh, vw] = T.if_then_else(
            1 <= vh and vh < 9 and 1 <= vw and vw < 9, X[vc, vh - 1, vw - 1], T.float32(0)
        )
for o, h, w, c in T.grid(5, 4, 4, 4):
    with T.sblock("conv"):
        vo, vh, vw, vc = T.axis.remap("SSSR", [o, h, w, c])
        with T.init():
            Y[vo, vh, vw] = T.float32(0)
        Y[vo, vh, vw] = Y[vo, vh, vw] + P[vc, vh * 2 + 1, vw * 2 + 1] * W[vo, vc]
"""


def test_only_what_is_wanted_of_an_intermediate_is_read():
    func = parse(
        'X: T.Buffer((4, 8, 8), "float32"), W: T.Buffer((5, 4), "float32"), '
        'Y: T.Buffer((5, 4, 4), "float32")',
        PADDED,
    )
    found = footprint_of(func.body)
    # A 1×1 convolution of stride 2 reads a quarter of its input, through the padding.
    assert found.read == 4 * (4 * 4 * 4 + 5 * 4)
    assert found.written == 4 * 5 * 4 * 4
    assert found.exact
    assert (found.read, found.written) == brute_force(func.body)


TILED = """
P = T.sblock_alloc_buffer((20,), "float32")
for o, i in T.grid(3, 8):
    with T.sblock("scaled"):
        v = T.axis.spatial(20, o * 8 + i)
        T.where(o * 8 + i < 20)
        P[v] = X[v] * T.float32(2)
for i in T.grid(10):
    with T.sblock("evens"):
        v = T.axis.spatial(10, i)
        Y[v] = P[v * 2]
"""


def test_tiles_that_pass_the_end_are_not_wanted_there():
    func = parse('X: T.Buffer((20,), "float32"), Y: T.Buffer((10,), "float32")', TILED)
    found = footprint_of(func.body)
    assert (found.read, found.written) == (4 * 10, 4 * 10)
    assert (found.read, found.written) == brute_force(func.body)


@pytest.mark.parametrize(
    "body,elements",
    [
        ("C[v] = A[v // 9 * 9]", 8),  # one element of each row
        ("C[v] = A[v % 9 + v // 9]", 16),  # 0…8 + 0…7
        ("C[v] = A[v // 9 * 2 + v % 9 // 3]", 17),
        ("C[v] = T.if_then_else(v % 2 == 0, A[v], T.float32(0))", 36),
        ("C[v] = T.if_then_else(v < 10, A[v], A[71 - v])", 62),
    ],
)
def test_elements_by_hand(body, elements):
    func = parse(
        'A: T.Buffer((100,), "float32"), C: T.Buffer((72,), "float32")',
        'for i in range(72):\n    with T.sblock("b"):\n        v = T.axis.spatial(72, i)\n'
        f"        {body}",
    )
    found = footprint_of(func.body)
    assert (found.read // 4, found.written // 4) == (elements, 72)
    assert (found.read, found.written) == brute_force(func.body)


@pytest.mark.parametrize("table,read", [(1000, 64 * 4 + 64 * 8), (10, 10 * 4 + 64 * 8)])
def test_gather_is_bounded_and_says_so(table, read):
    func = parse(
        f'A: T.Buffer(({table},), "float32"), I: T.Buffer((64,), "int64"), '
        'C: T.Buffer((64,), "float32")',
        'for i in range(64):\n    with T.sblock("b"):\n        v = T.axis.spatial(64, i)\n'
        "        C[v] = A[I[v]]",
    )
    found = footprint_of(func.body)
    assert (found.read, found.exact) == (read, False)
    assert depends_on_data(func.body)


def test_update_in_place_reads_what_it_overwrites():
    func = parse(
        'A: T.Buffer((64,), "float32")',
        'for i in range(32):\n    with T.sblock("b"):\n        v = T.axis.spatial(32, i)\n'
        "        A[v * 2] = A[v * 2] + T.float32(1)",
    )
    found = footprint_of(func.body)
    assert (found.read, found.written) == (128, 128)


def test_compulsory_counts_each_tensor_once():
    imported = import_model("zoo:vit/micro")
    found = compulsory(imported.mod)
    assert found.inputs == sum(4 * _product(spec.shape) for spec in imported.inputs)
    assert found.outputs == sum(4 * _product(spec.shape) for spec in imported.outputs)
    half = compulsory(imported.mod, dtype="float16")
    assert (half.inputs, half.outputs) == (found.inputs, found.outputs)
    assert found.parameters // 2 <= half.parameters < found.parameters
    assert found.total == found.inputs + found.parameters + found.outputs


def test_footprint_is_no_less_than_what_is_written():
    _, scheduled = staged("zoo:vit/micro")
    found = footprint(scheduled)
    assert found.total == sum(kernel.calls * kernel.bytes for kernel in found.kernels)


def test_unknown_entry_is_named():
    with pytest.raises(SmartMemError, match="no function 'absent'"):
        footprint(tvm.IRModule(), entry="absent")


def _product(shape):
    result = 1
    for extent in shape:
        result *= extent
    return result
