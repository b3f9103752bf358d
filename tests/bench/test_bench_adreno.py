"""The mends of TVM's Adreno pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.bench.arrays import read_arrays
from smartmem_tvm.bench.prepare import INPUTS, REFERENCE, Prepare
from smartmem_tvm.bench.runners.adreno_faults import keep_plain, mended_pipeline, split_by_scopes
from smartmem_tvm.bench.runners.base import Case
from smartmem_tvm.bench.runners.upstream_tvm import Adreno
from smartmem_tvm.checking import output_errors

ADRENO = tvm.target.Target("qcom/adreno-opencl-texture", host="llvm")


def convolution(channels, groups):
    """A 3×3 convolution of a 8×8 image."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor((1, channels, 8, 8), "float32"))
    w = relax.Var("w", R.Tensor((channels, channels // groups, 3, 3), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            out = builder.emit_output(builder.emit(relax.op.nn.conv2d(x, w, groups=groups)))
        builder.emit_func_output(out)
    return builder.get()


@pytest.mark.parametrize(
    ("channels", "groups", "plain"),
    [(16, 1, False), (16, 4, False), (16, 2, False), (16, 8, True), (16, 16, True), (24, 4, True)],
)
def test_grouped_convolutions_stay_plain(channels, groups, plain):
    before = convolution(channels, groups)
    after = keep_plain(before)
    if plain:
        assert "R.call_tir" in after["main"].script()
        assert "conv2d(" not in after["main"].script().replace("nn.conv2d(", "")
    else:
        tvm.ir.assert_structural_equal(after, before)


def test_without_it_depthwise_convolutions_fail():
    """Once TVM compiles these, keep_plain can go."""
    with ADRENO, pytest.raises(tvm.error.InternalError, match="Divide by zero"):
        relax.get_default_pipeline(ADRENO)(convolution(16, 16))
    with ADRENO:
        mended_pipeline(ADRENO)(convolution(16, 16))


def splits(axis):
    """A packed convolution, and the first half of its output along an axis."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor((1, 16, 4, 4), "float32"))
    w = relax.Var("w", R.Tensor((16, 16, 1, 1), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            value = builder.emit(relax.op.nn.conv2d(x, w))
            parts = builder.emit(relax.op.split(value, 2, axis))
            out = builder.emit_output(builder.emit(parts[0]))
        builder.emit_func_output(out)
    return builder.get()


def test_splits_along_the_channels_alone_stay_operators():
    assert "R.split(" in keep_plain(splits(1))["main"].script()
    for axis in (2, 3):
        assert "R.split(" not in keep_plain(splits(axis))["main"].script()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "convnext",  # depthwise convolutions, shared sums, sums into textures
        "yolov8",  # SiLU reads its input twice; the largest of negative numbers
        "regnet",  # squeeze and excitation: means over two axes, broadcast epilogues
        "cswin",  # splits of the last axis
        "biformer",  # top-k
    ],
)
def test_models_with_textures_are_right(name, tmp_path, opencl_device):
    Prepare().prepare(Case(tmp_path, tmp_path, f"zoo:{name}/micro"))
    reference = read_arrays(tmp_path / REFERENCE)
    case = Case(
        tmp_path,
        tmp_path,
        inputs=read_arrays(tmp_path / INPUTS),
        output_names=tuple(reference),
    )
    runner = Adreno()
    assert runner.prepare(case).details["image_arguments"] > 0
    runner.load(case)
    assert max(output_errors(runner.outputs(), reference).values()) < 1e-3


def packed_graph(kind):
    """Packed convolutions around an operator that TVM's rules get wrong or leave unscheduled."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", R.Tensor((1, 16, 4, 4), "float32"))
    w = relax.Var("w", R.Tensor((16, 16, 1, 1), "float32"))
    with builder.function("main", [x, w]):
        with builder.dataflow():
            value = builder.emit(relax.op.nn.conv2d(x, w))
            if kind == "pooling":
                value = builder.emit(
                    relax.op.nn.max_pool2d(value, (3, 3), strides=(1, 1), padding=(1, 1, 1, 1))
                )
            elif kind == "silu":
                value = builder.emit(relax.op.nn.silu(value))
            else:
                mean = builder.emit(relax.op.mean(value, axis=[2, 3], keepdims=True))
                gate = builder.emit(relax.op.sigmoid(builder.emit(relax.op.nn.conv2d(mean, w))))
                value = builder.emit(relax.op.multiply(value, gate))
            out = builder.emit_output(builder.emit(relax.op.nn.conv2d(value, w)))
        builder.emit_func_output(out)
    return builder.get()


def reference_of(kind, x, w):
    matrix = w[:, :, 0, 0]
    value = np.einsum("oi,nihw->nohw", matrix, x)
    if kind == "pooling":
        padded = np.pad(value, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
        value = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3)).max((-1, -2))
    elif kind == "silu":
        value = value / (1 + np.exp(-value))
    else:
        mean = value.mean((2, 3), keepdims=True)
        value = value / (1 + np.exp(-np.einsum("oi,nihw->nohw", matrix, mean)))
    return np.einsum("oi,nihw->nohw", matrix, value)


@pytest.mark.parametrize("kind", ["pooling", "silu", "squeeze_and_excitation"])
def test_packed_operators_are_right(kind, opencl_device):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 16, 4, 4), np.float32) - 2
    w = rng.standard_normal((16, 16, 1, 1), np.float32)
    with ADRENO:
        lowered = mended_pipeline(ADRENO)(packed_graph(kind))
    executable = tvm.compile(
        lowered, ADRENO, relax_pipeline=tvm.transform.Sequential([]), tir_pipeline="smartmem"
    )
    # The device once for each memory space.
    spaces = len(lowered.global_infos["vdevice"])
    machine = relax.VirtualMachine(executable, [opencl_device] * spaces)
    result = machine["main"](*(tvm.runtime.tensor(array, opencl_device) for array in (x, w)))
    np.testing.assert_allclose(result.numpy(), reference_of(kind, x, w), rtol=1e-4, atol=1e-4)


@I.ir_module
class Shared:
    I.module_global_infos(
        {
            "vdevice": [
                I.vdevice({"kind": "opencl"}, 0, "global"),
                I.vdevice({"kind": "opencl"}, 0, "global.texture-weight"),
            ]
        }
    )

    @T.prim_func(private=True, s_tir=True)
    def add(A: T.Buffer((4, 4), "float32"), B: T.Buffer((4, 4), "float32")):
        for i, j in T.grid(4, 4):
            with T.sblock("add"):
                vi, vj = T.axis.remap("SS", [i, j])
                B[vi, vj] = A[vi, vj] + T.float32(1)

    @R.function
    def main(x: R.Tensor((4, 4), "float32", "opencl:0:global")):
        cls = Shared
        with R.dataflow():
            a = R.call_tir(cls.add, (x,), R.Tensor((4, 4), "float32", "opencl:1:global"))
            b = R.call_tir(cls.add, (a,), R.Tensor((4, 4), "float32", "opencl:0:global"))
            c = R.call_tir(cls.add, (b,), R.Tensor((4, 4), "float32", "opencl:0:global"))
            R.output(c)
        return c


def test_calls_with_other_scopes_have_other_functions():
    after = split_by_scopes(Shared)
    calls = []
    relax.analysis.post_order_visit(
        after["main"], lambda e: calls.append(e) if isinstance(e, relax.Call) else None
    )
    names = [call.args[0].name_hint for call in calls]
    scopes = [
        (call.args[1].fields[0].ty.vdevice.memory_scope, call.ty.vdevice.memory_scope)
        for call in calls
    ]
    # The same scopes, the same function; other scopes, another.
    assert len(set(names)) == len(set(scopes)) > 1
    assert len(set(zip(names, scopes, strict=True))) == len(set(names))
    for name in set(names):
        tvm.ir.assert_structural_equal(after[name].body, Shared["add"].body, True)
