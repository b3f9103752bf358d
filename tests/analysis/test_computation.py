from __future__ import annotations

import odd_kernels as kernels
import pytest
from odd_kernels import legalised
from tvm import tirx
from tvm.ir import assert_structural_equal
from tvm.relax import op

from smartmem_tvm.analysis.computation import (
    OpaqueReason,
    fresh_axes,
    read_stages,
    replace_in_stage,
    substitute_in_stage,
)
from smartmem_tvm.analysis.layout_class import inline_copies


def convolution():
    return legalised(lambda x, w: op.nn.conv2d(x, w, padding=(1, 1)), (1, 3, 8, 8), (4, 3, 3, 3))


def test_a_contraction_is_one_stage_with_an_initial_value():
    (stage,) = read_stages(legalised(op.matmul, (4, 9), (9, 5)))
    assert [(int(axis.extent), axis.reduced) for axis in stage.axes] == [
        (4, False),
        (5, False),
        (9, True),
    ]
    assert stage.is_reduction
    assert [int(axis.extent) for axis in stage.spatial] == [4, 5]
    (store,) = stage.stores
    assert float(stage.initial[0]) == 0
    assert stage.is_pointwise(store)
    # What it reads of its own result is no load.
    assert sorted(load.source.name for load in stage.loads()) == ["x0", "x1"]


def test_what_a_convolution_pads_is_a_stage_of_its_own_until_it_is_put_into_the_loads():
    func = convolution()
    stages = read_stages(func)
    assert [stage.is_reduction for stage in stages] == [False, True]
    (inlined,) = inline_copies(stages, set(func.params))
    sources = {load.source for load in inlined.loads()}
    assert sources == set(func.params[:2])
    assert inline_copies(stages, {stages[0].stores[0].buffer, *func.params})[0] is stages[0]


def test_a_split_stores_three_tensors_in_three_stages():
    stages = read_stages(legalised(lambda x: op.split(x, 3, 1), (4, 9)))
    assert len(stages) == 3
    assert all(stage.is_pointwise(store) for stage in stages for store in stage.stores)


def test_several_stores_of_one_block_keep_what_they_compute_together():
    (stage,) = read_stages(kernels.tuple_reduction())
    assert len(stage.stores) == len(stage.initial) == 2
    largest, smallest = (store.value for store in stage.stores)
    assert isinstance(largest, tirx.Max)  # not the variable that the block binds it to
    assert isinstance(smallest, tirx.Min)


def test_a_tensor_without_dimensions_has_no_axes():
    (stage,) = read_stages(legalised(op.exp, ()))
    assert stage.axes == ()
    assert stage.is_pointwise(stage.stores[0])
    (total,) = read_stages(legalised(op.sum, (4, 9)))
    assert [axis.reduced for axis in total.axes] == [True, True]


def test_a_store_elsewhere_is_not_pointwise():
    (stage,) = read_stages(kernels.scatter)
    assert not stage.is_pointwise(stage.stores[0])


def test_symbolic_extents():
    n = tirx.Var("n", "int64")
    stages = read_stages(legalised(lambda x: op.nn.softmax(x, -1), (n, 8)))
    assert not isinstance(stages, OpaqueReason)
    assert all(stage.axes[0].extent.same_as(stages[0].axes[0].extent) for stage in stages)


@pytest.mark.parametrize("func", [kernels.scan, kernels.extern_call, kernels.tiled])
def test_what_has_another_form_is_refused(func):
    assert isinstance(read_stages(func), OpaqueReason)


def test_replacing_loads_reaches_indices_and_conditions():
    func = legalised(lambda x, i: op.take(x, i, 0), (4, 9), ((3,), "int64"))
    (stage,) = read_stages(func)
    ids = func.params[1]
    two = tirx.const(2, "int64")
    replaced = replace_in_stage(stage, {ids: lambda _indices: two})
    (load,) = [load for load in replaced.loads() if load.source.same_as(func.params[0])]
    assert_structural_equal(load.indices[0], two)
    assert ids not in {load.source for load in replaced.loads()}


def test_substituting_renames_axes_and_buffers():
    (stage,) = read_stages(legalised(op.matmul, (4, 9), (9, 5)))
    axes, renamed = fresh_axes(stage.axes)
    new = tirx.decl_buffer([4, 5], "float32", "D", layout=None)
    other = substitute_in_stage(stage, {**renamed, stage.stores[0].buffer: new})
    assert other.stores[0].buffer.same_as(new)
    for index, axis in zip(other.stores[0].indices, axes, strict=False):
        assert index.same_as(axis.var)
    assert {load.source.name for load in other.loads()} == {"x0", "x1"}
