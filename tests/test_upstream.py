"""Each fault of TVM that has a workaround is still there: a failure here means one was mended.

Then remove the workaround (smartmem_tvm/upstream.py says which) and the test.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax, te, tirx, topi
from tvm.ir.expr import TensorLoad
from tvm.s_tir import dlight
from tvm.s_tir.meta_schedule import tune_context
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T
from tvm.tirx import compilation_pipeline
from tvm.tirx.build import split_host_device_mods
from tvm_ffi import structural_equal, structural_walk

from smartmem_tvm.analysis import foreign_local_read
from smartmem_tvm.analysis.index_maps import evaluate
from smartmem_tvm.pipeline import pipeline
from smartmem_tvm.schedules import ApplySchedules, dlight_rules
from smartmem_tvm.upstream import (
    DLIGHT_ERRORS,
    OPENCL_FUNCTIONS,
    _TextureAllocations,
    adreno_tir_pipeline,
    nonnegative_dividends,
    truncate_divisions,
    without_tensor_intrinsics,
)

sys.path.insert(0, str(Path(__file__).parent / "passes"))
from index_kernels import repeated_index
from texture_kernels import add_one, conv_relu_conv, two_texels

OPENCL = tvm.target.Target("opencl", host="llvm")
ADRENO = {"kind": "opencl", "keys": ["adreno", "opencl", "gpu"]}
MENDED = "TVM has mended this: see smartmem_tvm/upstream.py, fault"


def test_fault_1_adreno_entry_is_not_a_triple():
    registered = compilation_pipeline.PIPELINE_MAP["adreno"]()
    assert not isinstance(registered, tuple), f"{MENDED} 1"
    with pytest.raises(TypeError):
        tvm.tirx.build(add_one((1, 2, 2, 4)), target=OPENCL, pipeline="adreno")


def _built_by_upstream(mod):
    """Module with textures built by TVM's own passes."""
    triple = adreno_tir_pipeline()
    compilation_pipeline.register_tir_pipeline("test.upstream_texture", lambda: triple)
    try:
        return tvm.tirx.build(mod, target=OPENCL, pipeline="test.upstream_texture")
    finally:
        del compilation_pipeline.PIPELINE_MAP["test.upstream_texture"]


@pytest.mark.device
def test_fault_2_vectorised_texture_store_is_wrong(opencl_device):
    built = _built_by_upstream(add_one((1, 4, 4, 4)))
    a = np.random.default_rng(0).random((1, 4, 4, 4), "float32")
    source, result = (
        tvm.runtime.empty(a.shape, "float32", opencl_device, "global.texture") for _ in range(2)
    )
    source.copyfrom(a)
    built["main"](source, result)
    assert np.abs(result.numpy() - a - 1).max() > 0.1, f"{MENDED} 2"


def _degenerate_depthwise():
    data, kernel = te.placeholder((1, 4, 1, 1)), te.placeholder((4, 1, 3, 3))
    return te.create_prim_func(
        [data, kernel, topi.nn.relu(topi.nn.group_conv2d_nchw(data, kernel, 1, 1, 1, 4))]
    )


def test_fault_3_gemv_asserts_on_loops_of_extent_one():
    with OPENCL, pytest.raises(AssertionError):
        dlight.gpu.GEMV().apply(_degenerate_depthwise(), OPENCL, False)
    assert AssertionError in DLIGHT_ERRORS


def test_fault_4_unscheduled_function_builds_as_host_code():
    @I.ir_module
    class Unscheduled:
        @T.prim_func(s_tir=True)
        def main(A: T.Buffer((8,), "float32"), C: T.Buffer((8,), "float32")):
            for i in range(8):
                with T.sblock("c"):
                    vi = T.axis.remap("S", [i])
                    C[vi] = A[vi] + T.float32(1)

    built = tvm.tirx.build(Unscheduled, target=OPENCL)
    assert not built.imports, f"{MENDED} 4"


def test_fault_5_inner_texture_does_not_build():
    mod = tvm.tirx.transform.BindTarget(OPENCL)(conv_relu_conv(4, 2, 2))
    lower, _, _ = adreno_tir_pipeline()
    host, _ = split_host_device_mods(lower(mod))
    with pytest.raises(tvm.error.InternalError, match="tvm_stack_make_shape"):
        tirx.transform.LowerTVMBuiltin()(host)


def test_fault_6_lowering_twice_fails():
    @I.ir_module
    class Model:
        @R.function
        def main(x: R.Tensor((1, 8, 6, 6), "float32"), w: R.Tensor((8, 8, 3, 3), "float32")):
            with R.dataflow():
                y = R.nn.conv2d(x, w, padding=[1, 1])
                R.output(y)
            return y

    upstream = relax.get_default_pipeline(
        tvm.target.Target("qcom/adreno-opencl-texture", host="llvm")
    )
    lowered = upstream(Model)
    with pytest.raises(tvm.error.InternalError, match="output type of call_tir"):
        upstream(lowered)
    ours = pipeline(OPENCL)
    once = ours(Model)
    tvm.ir.assert_structural_equal(ours(once), once)


@I.ir_module
class IntoTexture:
    I.module_global_infos(
        {"vdevice": [I.vdevice(ADRENO, 0, "global"), I.vdevice(ADRENO, 0, "global.texture")]}
    )

    @T.prim_func(private=True, s_tir=True)
    def copy(
        A: T.Buffer((6, 5, 4), "float32"), C: T.Buffer((6, 5, 4), "float32", scope="global.texture")
    ):
        for i in T.thread_binding(6, thread="blockIdx.x"):
            for j in T.thread_binding(5, thread="threadIdx.x"):
                for k in T.vectorized(4):
                    with T.sblock("c"):
                        vi, vj, vk = T.axis.remap("SSS", [i, j, k])
                        C[vi, vj, vk] = A[vi, vj, vk]

    @R.function
    def main(x: R.Tensor((6, 5, 4), "float32", "opencl:0:global")):
        cls = IntoTexture
        with R.dataflow():
            y = R.call_tir(
                cls.copy, (x,), out_ty=R.Tensor((6, 5, 4), "float32", "opencl:1:global.texture")
            )
            R.output(y)
        return y


def test_fault_7_textures_are_planned_as_flat_bytes_without_the_adreno_key():
    texture = I.vdevice({"kind": "opencl"}, 0, "global.texture")
    with OPENCL:
        planned = tvm.transform.Sequential(
            [
                relax.transform.UpdateVDevice(texture, 1),
                relax.transform.ToNonDataflow(),
                relax.transform.CallTIRRewrite(),
                relax.transform.StaticPlanBlockMemory(),
                relax.transform.LowerAllocTensor(),
            ]
        )(IntoTexture)
    scopes = []

    def visit(node):
        alloc = tvm.ir.Op.get("relax.memory.alloc_storage")
        if isinstance(node, relax.Call) and node.op.same_as(alloc):
            scopes.append(str(node.args[2].value))

    relax.analysis.post_order_visit(planned["main"], visit)
    assert scopes == ["global.texture"], f"{MENDED} 7"


@I.ir_module
class GroupedPointwise:
    """A 1x1 convolution of 16 channels in four groups, with a bias."""

    @T.prim_func(s_tir=True)
    def main(
        X: T.Buffer((16, 7, 7), "float32"),
        W: T.Buffer((32, 4), "float32"),
        B: T.Buffer((32,), "float32"),
        Y: T.Buffer((32, 7, 7), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        P = T.sblock_alloc_buffer((32, 7, 7), "float32")
        for f, y, x, c in T.grid(32, 7, 7, 4):
            with T.sblock("convolution"):
                vf, vy, vx, vc = T.axis.remap("SSSR", [f, y, x, c])
                with T.init():
                    P[vf, vy, vx] = T.float32(0)
                P[vf, vy, vx] = P[vf, vy, vx] + X[vf // 8 * 4 + vc, vy, vx] * W[vf, vc]
        for f, y, x in T.grid(32, 7, 7):
            with T.sblock("bias"):
                vf, vy, vx = T.axis.remap("SSS", [f, y, x])
                Y[vf, vy, vx] = P[vf, vy, vx] + B[vf]


@I.ir_module
class UnitReduction:
    """One product plus a bias, as a reduction over one element."""

    @T.prim_func(s_tir=True)
    def main(
        X: T.Buffer((8, 1), "float32"),
        B: T.Buffer((8,), "float32"),
        Y: T.Buffer((8,), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        P = T.sblock_alloc_buffer((8,), "float32")
        for i, k in T.grid(8, 1):
            with T.sblock("sum"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    P[vi] = T.float32(0)
                P[vi] = P[vi] + X[vi, vk]
        for i in range(8):
            with T.sblock("bias"):
                vi = T.axis.spatial(8, i)
                Y[vi] = P[vi] + B[vi]


def test_fault_9_dlight_reduction_reads_what_other_work_items_hold():
    schedule = dlight.gpu.Reduction().apply(GroupedPointwise["main"], OPENCL, False)
    assert schedule is not None, f"{MENDED} 9"
    assert foreign_local_read(schedule.mod["main"]) is not None, f"{MENDED} 9"


def test_fault_10_dlight_adds_an_epilogue_to_the_initial_value_too():
    schedule = dlight.gpu.Fallback().apply(UnitReduction["main"], OPENCL, False)
    biases = []
    structural_walk(
        schedule.mod["main"].body,
        (TensorLoad, lambda load: biases.append(load) if load.source.name == "B" else None),
    )
    assert len(biases) == 2, f"{MENDED} 10"


X, Y = (tirx.Var(name, "int64") for name in "xy")
FLIP = (17 - X) % 6
OFFSET = ((2 * X + Y + 14) // 3 + 15) % 8
EXTENTS = {X: 12, Y: 4}
POINTS = dict(zip(EXTENTS, np.indices(list(EXTENTS.values())).reshape(2, -1), strict=True))


def loop_nest(index, extents=EXTENTS):
    """Function that reads a tensor at an index of its loops."""
    source = tirx.decl_buffer([1000], "float32", "A", layout=None)
    result = tirx.decl_buffer(list(extents.values()), "float32", "B", layout=None)
    body = tirx.BufferStore(result, tirx.BufferLoad(source, [index]), list(extents))
    for var, extent in reversed(extents.items()):
        zero = tirx.const(0, "int64")
        body = tirx.For(var, zero, tirx.const(extent, "int64"), tirx.ForKind.SERIAL, body)
    return tvm.IRModule({"main": tirx.PrimFunc([source, result], body)})


def index_in(mod):
    """Index of the only load of a function."""
    loads = []
    structural_walk(mod["main"].body, (TensorLoad, loads.append))
    (load,) = loads
    return load.indices[0]


def flattened(mod):
    return index_in(tirx.transform.FlattenBuffer()(mod))


@pytest.mark.parametrize("index", [FLIP, OFFSET], ids=["flip", "offset"])
def test_fault_11_iter_maps_lose_offsets(index):
    expected = evaluate(index, POINTS)
    wrong = evaluate(flattened(loop_nest(index)), POINTS)
    assert (wrong != expected).any(), f"{MENDED} 11"
    right = truncate_divisions()(loop_nest(nonnegative_dividends(index)))
    np.testing.assert_array_equal(evaluate(flattened(right), POINTS), expected)


def drawn_index(rng, depth=3):
    """Random index of x and y, not negative, with divisions inside of divisions."""
    total = tirx.const(int(rng.integers(0, 20)), "int64")
    for var in (X, Y):
        if rng.random() < 0.6:
            total += var * int(rng.choice([-4, -3, -1, 1, 1, 2, 4, 8]))
    if depth and rng.random() < 0.7:
        total += drawn_index(rng, depth - 1) * int(rng.choice([-2, -1, 1, 1, 3]))
    if rng.random() < 0.85:
        divide = tirx.floordiv if rng.random() < 0.5 else tirx.floormod
        total = divide(total, tirx.const(int(rng.choice([2, 3, 4, 6, 7, 8, 12])), "int64"))
    return total


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_workaround_of_fault_11_is_exact(seed):
    rng = np.random.default_rng(seed)
    changed = mended = 0
    for _ in range(4000 if seed else 400):
        index = drawn_index(rng)
        expected = evaluate(index, POINTS)
        index -= min(0, int(expected.min()))
        expected = evaluate(index, POINTS)
        better = nonnegative_dividends(index)
        np.testing.assert_array_equal(evaluate(better, POINTS), expected, str(index))
        truncated = truncate_divisions()(loop_nest(better))
        np.testing.assert_array_equal(evaluate(index_in(truncated), POINTS), expected, str(index))
        changed += not structural_equal(index_in(truncated), index)
        mended += bool((evaluate(flattened(loop_nest(index)), POINTS) != expected).any())
        got = evaluate(flattened(truncated), POINTS)
        np.testing.assert_array_equal(got, expected, str(index))
    assert changed > 100
    assert mended > 10


def test_dividends_without_offsets_stay():
    """They are what schedules split and vectorise; FlattenBuffer simplifies them right."""
    index = (X * 4 + Y) % 6 + (X * 4 + Y) // 8
    assert nonnegative_dividends(index).same_as(index)
    assert structural_equal(index_in(truncate_divisions()(loop_nest(index))), index)


def test_what_may_be_negative_is_not_truncated():
    """As the row above the first in a padded convolution: -1 // 2 is -1, not 0."""
    index = tirx.Max((X - 1) // 2, tirx.const(0, "int64"))
    found = index_in(truncate_divisions()(loop_nest(index)))
    np.testing.assert_array_equal(evaluate(found, POINTS), evaluate(index, POINTS))
    table = tirx.decl_buffer([12], "int64", "table", layout=None)
    index = (table[X] + 1) // 2
    assert nonnegative_dividends(index).same_as(index)
    found = []
    mod = truncate_divisions()(loop_nest(index))
    structural_walk(mod["main"].body, (tirx.FloorDiv, found.append))
    assert len(found) == 1


def test_a_subtracted_element_of_a_table_stays():
    """It has no bounds: a multiple of it might not fit its type."""
    table = tirx.decl_buffer([12], "int64", "table", layout=None)
    index = (X - table[X]) % 6
    assert nonnegative_dividends(index).same_as(index)


def test_fault_12_functions_without_a_rule_for_opencl():
    """In a process of its own: once registered, a rule stays."""
    program = "import sys, tvm; print([n for n in sys.argv[1:] if tvm.ir.Op.get('tirx.' + n)"
    program += ".get_attr('opencl.FLowerIntrinsic') is not None])"
    done = subprocess.run(
        [sys.executable, "-c", program, *OPENCL_FUNCTIONS],
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "[]", f"{MENDED} 12"


def bound(func, block):
    """Source of a function whose only loop but for one of four lanes is bound to work-items."""
    schedule = tvm.s_tir.Schedule(func)
    (loop,) = schedule.get_loops(schedule.get_sblock(block))
    items, lanes = schedule.split(loop, [None, 4])
    schedule.bind(items, "threadIdx.x")
    schedule.vectorize(lanes)
    return tvm.tirx.build(schedule.mod, target=OPENCL).imports[0].inspect_source()


def test_fault_13_gathered_bytes_are_one_number():
    a = te.placeholder((16,), "int8", "a")
    gathered = te.compute((16,), lambda i: a[15 - i], "gathered")
    assert "0x000000ff" in bound(te.create_prim_func([a, gathered]), "gathered"), f"{MENDED} 13"


def test_fault_14_maxima_start_at_a_finite_number():
    a = te.placeholder((4, 5), name="a")
    assert "inf" not in te.create_prim_func([a, topi.max(a, 1)]).script(), f"{MENDED} 14"


def test_fault_15_narrow_arithmetic_is_promoted():
    a, b = (te.placeholder((16,), "uint8", name) for name in "ab")
    half = te.compute((16,), lambda i: (a[i] + b[i]) >> tirx.const(1, "uint8"), "half")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([a, b, half]))
    schedule.bind(schedule.get_loops(schedule.get_sblock("half"))[0], "threadIdx.x")
    source = tvm.tirx.build(schedule.mod, target=OPENCL).imports[0].inspect_source()
    assert "convert_uchar" not in source, f"{MENDED} 15"


def test_fault_16_scatters():
    builder = relax.BlockBuilder()
    types = [([4, 5], "float32"), ([2, 1], "int64"), ([2, 5], "float32")]
    params = [relax.Var(f"x{n}", relax.TensorType(*ty)) for n, ty in enumerate(types)]
    with builder.function("main", params):
        with builder.dataflow():
            made = builder.emit_output(relax.op.scatter_nd(*params))
        builder.emit_func_output(made)
    with OPENCL:
        legal = relax.transform.LegalizeOps()(builder.get())
    (scatter,) = (f for f in legal.functions.values() if isinstance(f, tirx.PrimFunc))
    assert "T_transpose" in scatter.script(), f"{MENDED} 16"
    assert "threadIdx" in scatter.script(), f"{MENDED} 16"


def test_texture_allocations_visit_each_statement_once():
    class Counting(_TextureAllocations):
        visits = 0

        def _attribute(self, stmt, mutator):
            self.visits += 1
            return super()._attribute(stmt, mutator)

    depth = 12
    body = tirx.Evaluate(tirx.const(0, "int32"))
    for _ in range(depth):
        body = tirx.AttrStmt(tirx.const(0, "int32"), "key", tirx.const(0, "int32"), body)
        body = tirx.SeqStmt([tirx.Evaluate(tirx.const(1, "int32")), body])
    counting = Counting()
    assert counting.run(body).same_as(body)
    assert counting.visits == depth


def test_fault_17_barriers_in_a_branch():
    """With a sub-group size, barriers of a cross-thread reduction stand where not all come by."""
    x = te.placeholder((300, 97), name="x")
    func = te.create_prim_func([x, topi.argmin(x, 0)])

    def source(warp):
        limits = {"max_num_threads": 256, "max_threads_per_block": 256}
        target = tvm.target.Target(
            {"kind": "opencl", "thread_warp_size": warp, **limits}, host="llvm"
        )
        with target:
            mod = ApplySchedules(dlight_rules())(tvm.IRModule({"main": func}))
        return tvm.compile(mod, target=target).mod.imports[0].inspect_source()

    in_branch = re.compile(r"if \(\(convert_int\(get_local_id\(0\)\)\) < \d+\) \{[^}]*barrier\(")
    assert in_branch.search(source(64))
    assert not in_branch.search(source(1))


def test_fault_18_equal_texts_of_texels():
    source = _built_by_upstream(two_texels()).imports[0].inspect_source()
    assert source.count("write_imagef") == 2
    assert len(re.findall(r"float4 v_\w* =", source)) == 1, f"{MENDED} 18"


def test_fault_19_intrinsics_of_other_targets():
    path = Path(tune_context.__file__)
    assert "import tvm.s_tir.tensor_intrin" in path.read_text(encoding="utf-8")
    name = "tvm.s_tir.tensor_intrin"
    there = name in sys.modules
    with without_tensor_intrinsics():
        assert name in sys.modules
    assert (name in sys.modules) == there


def test_fault_20_what_has_a_name_is_written_out_again():
    mod = tvm.IRModule({"main": repeated_index(8)})
    source = tvm.compile(mod, target=OPENCL, tir_pipeline="s_tir").mod.imports[0].inspect_source()
    assert source.count("% 13") > 8, f"{MENDED} 20"
