"""Top-k of short rows as one kernel, against NumPy; what stays for TVM."""

from __future__ import annotations

import numpy as np
import pytest
from relax_graphs import HOST, host_outputs, legalised
from tvm import relax, tirx
from tvm.relax import op

import smartmem_tvm
from smartmem_tvm.passes import LegaliseSorts
from smartmem_tvm.passes.legalise_sorts import LONGEST

TOPK = "relax.topk"


def module(shape, element="float32", **options):
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(list(shape), element))
    with builder.function("main", [x]):
        with builder.dataflow():
            made = builder.emit_output(op.topk(x, **options))
        builder.emit_func_output(made)
    return builder.get()


def is_left(mod):
    """Whether a call of topk is left."""
    return TOPK in mod.script() or "R.topk" in mod["main"].script()


def expected(data, k, axis, largest):
    """Values and positions, equal ones in their order."""
    order = np.argsort(-data if largest else data, axis=axis, kind="stable")
    order = np.take(order, np.arange(k if k > 0 else data.shape[axis]), axis)
    return np.take_along_axis(data, order, axis), order


def run(mod, data):
    with HOST:
        after = LegaliseSorts()(mod)
        relax.analysis.well_formed(after)
        assert not is_left(after)
        return host_outputs(legalised(after), [data])


@pytest.mark.parametrize("largest", [True, False], ids=["largest", "smallest"])
@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("k", [1, 3, 0, -1])
def test_values_and_indices(axis, k, largest):
    data = np.random.default_rng(0).standard_normal((4, 7, 5)).astype("float32")
    mod = module(data.shape, k=k, axis=axis, largest=largest)
    values, indices = run(mod, data)
    wanted_values, wanted_indices = expected(data, k, axis, largest)
    np.testing.assert_array_equal(values, wanted_values)
    np.testing.assert_array_equal(indices, wanted_indices)
    assert indices.dtype == np.int32


@pytest.mark.parametrize("largest", [True, False], ids=["largest", "smallest"])
def test_equal_elements_keep_their_order(largest):
    data = np.random.default_rng(0).integers(0, 3, (5, 12)).astype("float32")
    values, indices = run(module(data.shape, k=0, largest=largest), data)
    wanted_values, wanted_indices = expected(data, 0, -1, largest)
    np.testing.assert_array_equal(values, wanted_values)
    np.testing.assert_array_equal(indices, wanted_indices)


@pytest.mark.parametrize("kind", ["values", "indices"])
def test_one_of_the_two(kind):
    data = np.random.default_rng(0).standard_normal((3, 9)).astype("float32")
    (made,) = run(module(data.shape, k=4, ret_type=kind, dtype="int64"), data)
    wanted = dict(zip(("values", "indices"), expected(data, 4, -1, True), strict=True))[kind]
    np.testing.assert_array_equal(made, wanted)
    assert made.dtype == wanted.dtype


def test_integers():
    data = np.random.default_rng(0).integers(-9, 9, (3, 9)).astype("int32")
    values, _ = run(module(data.shape, "int32", k=2), data)
    np.testing.assert_array_equal(values, expected(data, 2, -1, True)[0])


def test_more_than_there_are():
    data = np.random.default_rng(0).standard_normal((3, 4)).astype("float32")
    mod = module(data.shape, k=9)
    values, _ = run(mod, data)
    np.testing.assert_array_equal(values, expected(data, 4, -1, True)[0])


@pytest.mark.parametrize(
    "shape",
    [(2, LONGEST + 1), (tirx.Var("n", "int64"), 8)],
    ids=["a long row", "a symbolic shape"],
)
def test_left_for_tvm(shape):
    mod = module(shape, k=2)
    after = LegaliseSorts()(mod)
    assert is_left(after)
    assert len(after.functions) == 1


def test_the_longest_row_is_still_ranked():
    assert not is_left(LegaliseSorts()(module((2, LONGEST), k=2)))


@pytest.mark.parametrize("largest", [True, False])
def test_nan_is_the_largest_and_leaves_no_place_empty(largest, opencl_device):
    x = relax.Var("x", relax.TensorType((2, 5), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            out = builder.emit_output(relax.op.topk(x, 5, -1, "indices", largest, "int64"))
        builder.emit_func_output(out)
    rows = np.array([[np.nan, 1, 2, np.nan, 0], [3, 1, 4, 1, 5]], "float32")
    (got,) = smartmem_tvm.compile(builder.get(), device="auto").run([rows]).values()
    want = [[0, 3, 2, 1, 4], [4, 2, 0, 1, 3]] if largest else [[4, 1, 2, 0, 3], [1, 3, 0, 2, 4]]
    np.testing.assert_array_equal(got, want)
