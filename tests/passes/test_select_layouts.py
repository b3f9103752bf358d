"""Which layouts are chosen, what stays row by row, and what is recorded of it."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from relax_graphs import STAGE, apply, assert_same_values, const, graph, kernels
from tvm import relax
from tvm.relax import op

from smartmem_tvm.analysis.layouts import LAYOUTS
from smartmem_tvm.analysis.tensor_layouts import (
    ALONG_LANES,
    STRIDE_ONE,
    count_readings,
    read_tensor_layouts,
    unexplained,
)
from smartmem_tvm.analysis.transactions import Memory
from smartmem_tvm.devices import load_profile
from smartmem_tvm.passes import RewriteLayouts, SelectLayouts
from smartmem_tvm.passes._graph import read_graph
from smartmem_tvm.passes._layout_problem import ProblemBuilder
from smartmem_tvm.passes._layout_reasons import tensor_layouts
from smartmem_tvm.passes.select_layouts import _solve, annotate

RNG = np.random.default_rng(0)
PROFILES = ("cpu", "adreno-740")


def fused(body, *shapes):
    return apply(graph(body, *shapes), *STAGE)


def selected(mod, profile="cpu", solver="exact"):
    return SelectLayouts(load_profile(profile), solver)(mod)


def records(mod):
    return {tensor.name: tensor for tensor in read_tensor_layouts(mod)}


def readings_of(mod, reader):
    """Tensors that a kernel reads along its reduction, with how."""
    return {
        name: reading.how
        for name, tensor in records(mod).items()
        for reading in tensor.readings
        if reading.reader == reader and reading.reduced
    }


def weights(*shape):
    return const(RNG.standard_normal(shape))


def attention_of_products():
    q, k, v = (weights(96, 64) for _ in range(3))

    def body(x):
        heads = [op.reshape(op.matmul(x, w), (64, 2, 32)) for w in (q, k, v)]
        queries, keys, values = (op.permute_dims(head, [1, 0, 2]) for head in heads)
        scores = op.nn.softmax(op.matmul(queries, op.permute_dims(keys, [0, 2, 1])))
        return op.matmul(scores, values)

    return fused(body, (64, 96))


def convolutions():
    """NCHW, the second one pointwise."""
    first, second = weights(32, 16, 3, 3), weights(32, 32, 1, 1)

    def body(x):
        hidden = op.nn.relu(op.nn.conv2d(x, first, padding=1))
        return op.nn.conv2d(hidden, second)

    return fused(body, (1, 16, 20, 20))


@pytest.mark.parametrize("profile", PROFILES)
def test_a_transposed_weight_is_stored_for_its_reader(profile):
    kernel = weights(128, 96)
    mod = fused(lambda x: op.matmul(x, op.permute_dims(kernel)), (64, 96))
    plain = readings_of(selected(mod, profile, "none"), "gv")
    chosen = selected(mod, profile)
    assert set(readings_of(chosen, "gv").values()) <= STRIDE_ONE
    assert set(plain) == set(readings_of(chosen, "gv")) == {"x0", "gv.constant_1"}
    weight = records(chosen)["gv.constant_1"]
    assert weight.constant
    assert not weight.forced
    assert weight.next_best.extra >= 0
    assert weight.cost <= records(selected(mod, profile, "none"))["gv.constant_1"].cost


def test_keys_and_values_are_written_as_they_are_read():
    mod = attention_of_products()
    plain, chosen = (read_tensor_layouts(selected(mod, "cpu", s)) for s in ("none", "exact"))
    counts = count_readings(chosen)
    assert sum(counts.values()) == sum(count_readings(plain).values()) == 9
    assert sum(n for how, n in counts.items() if how in STRIDE_ONE) >= 8
    before, after = (sum(t.cost for t in found if not t.forced) for found in (plain, chosen))
    assert after < before


@pytest.mark.parametrize("solver", ["none", "exact", "greedy"])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("make", [attention_of_products, convolutions])
def test_what_is_not_read_with_stride_one_has_its_reason(make, profile, solver):
    found = read_tensor_layouts(selected(make(), profile, solver))
    assert sum(count_readings(found).values()) > 0
    assert unexplained(found) == []


@pytest.mark.parametrize("profile", PROFILES)
def test_between_convolutions_the_tensor_is_free_and_the_ends_are_not(profile):
    mod = convolutions()
    found = records(selected(mod, profile))
    plain = records(selected(mod, profile, "none"))
    assert found["x0"].row_by_row
    assert found["x0"].forced
    assert found["gv"].row_by_row
    assert found["gv"].forced
    (middle,) = [t for t in found.values() if not t.forced and not t.constant]
    assert middle.shape == (1, 32, 20, 20)
    assert len(middle.readings) == 1
    assert middle.cost < plain[middle.name].cost


def test_parameters_and_results_have_no_layout():
    mod = selected(attention_of_products())
    for func in kernels(mod):
        maps = func.attrs.get(LAYOUTS)
        if maps is None:
            continue
        for parameter, index_map in zip(func.params, maps, strict=True):
            if parameter.name in ("x0", "gv"):
                assert index_map is None
    assert records(mod)["x0"].reason == "it comes from outside of the dataflow block"
    assert records(mod)["gv"].reason == "it is used outside of the dataflow block"


def test_what_a_reshape_touches_stays():
    def body(x, w):
        return op.nn.softmax(op.reshape(op.matmul(x, w), (4, 16, 96)), axis=1)

    mod = graph(body, (64, 96), (96, 96))  # nothing eliminated: the reshape is a kernel
    found = records(selected(mod))
    reshaped = [t for t in found.values() if t.shape == (4, 16, 96) and t.name != "gv"]
    assert [(t.row_by_row, t.forced, t.bytes) for t in reshaped] == [(True, True, 0)]
    (before,) = [t for t in found.values() if t.shape == (64, 96) and t.name != "x0"]
    assert reshaped[0].reason == f"it is a view of '{before.name}'"
    assert before.forced
    assert "leaves every element in its place" in before.reason
    assert before.bytes == 64 * 96 * 4


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("solver", ["exact", "greedy"])
@pytest.mark.parametrize("make", [attention_of_products, convolutions])
def test_the_attribute_is_one_that_can_be_rewritten_to(make, solver, profile):
    mod = make()
    chosen = selected(mod, profile, solver)
    relax.analysis.well_formed(chosen)
    maps = [func.attrs.get(LAYOUTS) for func in kernels(chosen)]
    assert any(maps) or profile == "adreno-740"  # row by row all of them may be images
    for func, found in zip(kernels(chosen), maps, strict=True):
        for parameter, index_map in zip(func.params, found or (), strict=bool(found)):
            if index_map is not None:
                assert len(index_map.initial_indices) == len(parameter.shape)
    after = RewriteLayouts()(chosen)
    assert not any(LAYOUTS in func.attrs for func in kernels(after))
    assert_same_values(mod, after)
    assert read_tensor_layouts(after) == read_tensor_layouts(chosen)


def test_bytes_are_those_of_the_rewritten_buffers():
    chosen = selected(attention_of_products(), "adreno-740")
    after = RewriteLayouts()(chosen)
    sizes = {}
    for call in (b.value for block in after["main"].body.blocks for b in block.bindings):
        if isinstance(call, relax.Call):
            for argument in call.args[1].fields:
                if isinstance(argument, tvm.ir.Var):
                    sizes[argument.name] = int(np.prod([int(n) for n in argument.ty.shape])) * 4
    found = records(chosen)
    assert sizes
    assert {name: found[name].bytes for name in sizes} == sizes


def test_without_a_choice_all_is_plain_and_costs_are_still_told():
    mod = attention_of_products()
    plain = selected(mod, solver="none")
    assert not any(LAYOUTS in func.attrs for func in kernels(plain))
    found = read_tensor_layouts(plain)
    assert all(tensor.row_by_row for tensor in found)
    better = [t for t in found if t.next_best is not None and t.next_best.extra < 0]
    assert better
    assert all("the next best by itself would cost" in tensor.reason for tensor in better)


def test_the_next_best_is_what_the_tables_say():
    mod = attention_of_products()
    (block,) = mod["main"].body.blocks
    graph_read = read_graph(mod, block)
    builder = ProblemBuilder(mod, Memory.of(load_profile("cpu")))
    stated = builder.state(graph_read)
    values = _solve(stated.problem, "exact")
    annotate(stated, values)
    found = {tensor.name: tensor for tensor in tensor_layouts(graph_read, stated, builder)}
    assert len(stated.problem.sizes) == len(stated.tensors)  # no walk is a variable of its own
    for number, (buffer, layouts) in enumerate(stated.tensors.items()):
        costs = stated.problem.alternatives(number, values)
        tensor = found[buffer.name]
        assert tensor.layout == str(layouts[values[number]])
        others = [cost for n, cost in enumerate(costs) if n != values[number]]
        if others:
            assert tensor.next_best.extra == pytest.approx(min(others) - costs[values[number]], 0.1)
            assert tensor.next_best.extra >= 0


def test_a_constant_that_two_kernels_want_otherwise_is_stored_twice():
    tied = weights(64, 96)

    def body(x, y):
        return op.exp(op.matmul(x, tied)), op.matmul(op.exp(y), op.permute_dims(tied))

    mod = selected(fused(body, (1, 64), (512, 96)))
    found = [t for t in read_tensor_layouts(mod) if t.constant]
    assert len({t.layout for t in found}) == len(found)
    assert [t.copies for t in found] == [0, *(t.bytes for t in found[1:])]
    assert sum(len(t.readings) for t in found) == 2


def test_extents_that_are_open_have_no_bytes():
    n = tvm.tirx.Var("n", "int64")
    mod = fused(lambda x: op.exp(op.matmul(op.exp(x), weights(96, 64))), (n, 96))
    found = records(selected(mod))
    assert found["x0"].shape == ("n", 96)
    assert found["x0"].bytes is None


@pytest.mark.parametrize("target", [None, "opencl", "llvm"])
def test_a_target_that_no_profile_made_gets_cautious_figures(target):
    mod = attention_of_products()
    if target is None:
        chosen = SelectLayouts()(mod)
    else:
        with tvm.target.Target(target):
            chosen = SelectLayouts()(mod)
    assert any(func.attrs.get(LAYOUTS) for func in kernels(chosen))
    assert unexplained(read_tensor_layouts(chosen)) == []


def test_a_second_copy_says_whose_it_is_and_what_it_saves():
    square = weights(256, 256)

    def body(x, a):
        both_ways = op.matmul(op.exp(x), square)
        return op.matmul(a, both_ways), op.matmul(op.exp(a), op.permute_dims(both_ways))

    found = records(selected(fused(body, (256, 256), (256, 256))))
    (copy,) = [tensor for tensor in found.values() if tensor.copies]
    tensor = found[copy.name.removesuffix("_copy")]
    assert copy.copies == copy.bytes == tensor.bytes == 256 * 256 * 4
    assert tensor.copies == 0
    assert tensor.layout != copy.layout
    assert f"a second copy of '{tensor.name}'" in copy.reason
    assert copy.reason.endswith("% less")
    assert [len(t.readings) for t in (tensor, copy)] == [1, 1]
    assert {t.readings[0].how for t in (tensor, copy)} <= STRIDE_ONE


def test_what_will_be_an_image_is_written_by_whole_texels():
    """Weights lie for a product that writes its rows, not for one that reads along them."""
    weight = weights(64, 40)

    def body(x):
        return op.nn.softmax(op.matmul(op.nn.softmax(x), weight)) * const(2.0)

    mod = selected(fused(body, (17, 64)), "adreno-740")
    found = records(mod)
    tensors = [t for t in found.values() if not t.constant and not t.forced]
    assert tensors
    # 17 rows are no whole texels.
    assert all(t.layout in ("[0, 1]", "[1/4, 0, 1%4]") for t in tensors)
    (product,) = (t for t in found.values() if t.constant and t.shape == (64, 40))
    assert {reading.how for reading in product.readings} == {ALONG_LANES}
