"""Tensors that several kernels write parts of: an image where each owns whole texels."""

from __future__ import annotations

import numpy as np
import pytest
from placed_textures import ADRENO, after, run
from tvm import relax
from tvm.script import tirx as T

from smartmem_tvm.analysis.tensor_layouts import read_tensor_layouts
from smartmem_tvm.analysis.texels import SCOPE

RNG = np.random.default_rng(0)
ROWS, COLUMNS = 6, 20


def matrix(rows, columns, kind=T.int64):
    return T.Buffer((kind(rows), kind(columns)))


# fmt: off


def columns_from(first, count, kind=T.int64):
    @T.prim_func(private=True, s_tir=True)
    def func(X: matrix(ROWS, count, kind), C: matrix(ROWS, COLUMNS, kind)):
        for i, j in T.grid(kind(ROWS), kind(count)):
            with T.sblock("part"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj + kind(first)] = X[vi, vj] * T.float32(2)

    return func


def rows_from(first, count):
    @T.prim_func(private=True, s_tir=True)
    def func(X: matrix(count, COLUMNS), C: matrix(ROWS, COLUMNS)):
        for i, j in T.grid(T.int64(count), T.int64(COLUMNS)):
            with T.sblock("part"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi + T.int64(first), vj] = X[vi, vj] * T.float32(2)

    return func


def both_ends(count, last):
    """One kernel makes two parts, of which the second is that many columns further."""
    @T.prim_func(private=True, s_tir=True)
    def func(X: matrix(ROWS, count), C: matrix(ROWS, COLUMNS)):
        for i, j in T.grid(T.int64(ROWS), T.int64(count)):
            with T.sblock("part"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = X[vi, vj] * T.float32(2)
                C[vi, vj + T.int64(last)] = X[vi, vj] * T.float32(2)

    return func


def what_is_there(first, count):
    """A kernel that adds what another has written."""
    @T.prim_func(private=True, s_tir=True)
    def func(X: matrix(ROWS, count), C: matrix(ROWS, COLUMNS)):
        for i, j in T.grid(T.int64(ROWS), T.int64(count)):
            with T.sblock("part"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj + T.int64(first)] = X[vi, vj] * T.float32(2) + C[vi, vj]

    return func


@T.prim_func(private=True, s_tir=True)
def squares(C: matrix(ROWS, COLUMNS), S: T.Buffer((T.int64(ROWS),))):
    for i, j in T.grid(T.int64(ROWS), T.int64(COLUMNS)):
        with T.sblock("sum"):
            vi, vj = T.axis.remap("SR", [i, j])
            with T.init():
                S[vi] = T.float32(0)
            S[vi] = S[vi] + C[vi, vj] * C[vi, vj]
# fmt: on


def chain(*parts):
    """Each part's kernel writes its own input into the memory of the one before."""
    builder = relax.BlockBuilder()
    inputs = []
    for number, (_, *shape) in enumerate(parts):
        inputs.append(relax.Var(f"x{number}", relax.TensorType(shape, "float32")))
    whole = relax.TensorType((ROWS, COLUMNS), "float32")
    with builder.function("main", inputs):
        with builder.dataflow():
            made = None
            for x, (func, *_) in zip(inputs, parts, strict=True):
                kernel = builder.add_func(func, "part")
                if made is None:
                    made = builder.emit(relax.call_tir(kernel, relax.Tuple([x]), whole))
                else:
                    call = relax.call_tir_inplace(kernel, relax.Tuple([x, made]), [1], [whole])
                    made = builder.emit(call)
            sums = builder.add_func(squares, "squares")
            ty = relax.TensorType((ROWS,), "float32")
            made = builder.emit_output(relax.call_tir(sums, relax.Tuple([made]), ty))
        builder.emit_func_output(made)
    return builder.get()


def halves(cut):
    rest = COLUMNS - cut
    return (columns_from(0, cut), ROWS, cut), (columns_from(cut, rest), ROWS, rest)


THREE = [(columns_from(at, width), ROWS, width) for at, width in ((0, 4), (4, 12), (16, 4))]
BY_ROWS = (rows_from(0, 1), 1, COLUMNS), (rows_from(1, 5), 5, COLUMNS)
BESIDE = (both_ends(8, 12), ROWS, 8), (columns_from(8, 4), ROWS, 4)
BESIDE_UNALIGNED = (both_ends(7, 13), ROWS, 7), (columns_from(7, 6), ROWS, 6)
READ_AGAIN = (columns_from(0, 8), ROWS, 8), (what_is_there(8, 12), ROWS, 12)
SHORT = (columns_from(0, 8, T.int32), ROWS, 8), (columns_from(8, 12, T.int32), ROWS, 12)


def placed(parts):
    """Scope of the parts' tensor, and why it is no image."""
    mod = after("layouts", chain(*parts), first="layouts")
    found = next(t for t in read_tensor_layouts(mod) if t.name.startswith("lv"))
    return found.scope, found.reason


def whole(parts, inputs):
    """The tensor that the parts make."""
    if parts is BY_ROWS:
        return 2 * np.concatenate(inputs, 0)
    if parts in (BESIDE, BESIDE_UNALIGNED):
        inputs = [*inputs, inputs[0]]
    return 2 * np.concatenate(inputs, 1)


def check_values(parts, device):
    inputs = [RNG.standard_normal(shape).astype("float32") for _, *shape in parts]
    expected = (whole(parts, inputs).astype(float) ** 2).sum(1)
    found = run(chain(*parts), inputs, device, ADRENO, "layouts")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.device
@pytest.mark.parametrize("parts", [halves(8), halves(12), THREE, BY_ROWS, BESIDE])
def test_parts_at_whole_texels_are_an_image(opencl_device, parts):
    scope, _ = placed(parts)
    assert scope == SCOPE
    check_values(parts, opencl_device)


@pytest.mark.device
@pytest.mark.parametrize(
    ("parts", "why"),
    [
        (halves(6), "which writes a part, does not own whole texels"),
        (halves(1), "which writes a part, does not own whole texels"),
        (BESIDE_UNALIGNED, "which writes a part, does not own whole texels"),
        (SHORT, "counts in int32"),
    ],
)
def test_other_parts_are_a_buffer(opencl_device, parts, why):
    scope, reason = placed(parts)
    assert scope == "global"
    assert why in reason
    check_values(parts, opencl_device)


def test_what_a_kernel_reads_and_writes_is_a_buffer():
    scope, reason = placed(READ_AGAIN)
    assert scope == "global"
    assert "block 'part' reads what it writes" in reason
