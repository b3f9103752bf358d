from __future__ import annotations

import numpy as np
import pytest
import tvm
from relax_graphs import (
    HOST,
    apply,
    assert_same_values,
    calls,
    const,
    graph,
    host_outputs,
    legalised,
)
from tvm import relax, tirx
from tvm.ir import assert_structural_equal
from tvm.ir.expr import GenericConst
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.analysis.expressions import static
from smartmem_tvm.analysis.layouts import LAYOUTS, Layout, pack
from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.passes import (
    ConcatenateInPlace,
    EliminateLayoutTransforms,
    FuseOperators,
    MergeParallelOperators,
    RewriteLayouts,
)
from smartmem_tvm.passes._emit import rewrite_blocks
from smartmem_tvm.passes.rewrite_layouts import rewrite_function

STAGE = (EliminateLayoutTransforms, MergeParallelOperators, FuseOperators, ConcatenateInPlace)
from_func = tirx.IndexMap.from_func
INPLACE = tvm.ir.Op.get("relax.call_tir_inplace")


def vectors(order, dim, lanes):
    return Layout(order, (dim, lanes)).index_map()


def permuted(*order):
    return Layout(order).index_map()


def laid_out(mod, layouts):
    """The module with layouts of tensors by name, or by that of one reader: ``reader/tensor``."""
    found = set()

    def annotate(graph):
        for node in graph.kernels():
            for buffer in {*node.inputs(), *node.outputs}:
                for key in (buffer.name, f"{node.name}/{buffer.name}"):
                    if key in layouts:
                        found.add(key)
                        node.layouts[buffer] = layouts[key]

    mod = rewrite_blocks(mod, annotate, in_place=True)
    assert found == set(layouts), "a name is of no tensor"
    relax.analysis.well_formed(mod)
    return mod


def launches(mod):
    return [*calls(mod), *(v for v in values(mod) if v.op.same_as(INPLACE))]


def values(mod):
    bindings = [binding for block in mod["main"].body.blocks for binding in block.bindings]
    return [binding.value for binding in bindings if isinstance(binding.value, relax.Call)]


def constants(mod):
    """Shapes of the constants that kernels read, each once."""
    found = {}
    for call in launches(mod):
        for argument in call.args[1].fields:
            if isinstance(argument, GenericConst):
                found[argument] = tuple(int(d) for d in argument.ty.shape.values)
    return sorted(found.values())


def shapes(mod):
    """Shapes that kernels make, by the name of the variable."""
    found = {}
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            ty = binding.var.ty
            if isinstance(ty, relax.TensorType):
                found[binding.var.name] = [str(static(d) or d) for d in ty.shape.values]
    return found


def assert_no_attribute(mod):
    assert not any(LAYOUTS in func.attrs for func in mod.functions.values() if func.attrs)


def rewritten(annotated, **symbols):
    """Module in its layouts, which has the same values and as many kernels."""
    after = apply(annotated, RewriteLayouts)
    assert_no_attribute(after)
    assert len(launches(after)) == len(launches(annotated))
    assert_same_values(annotated, after, **symbols)
    assert_structural_equal(apply(after, RewriteLayouts), after, map_free_vars=True)
    raw = apply(annotated, RewriteLayouts(simplify=False))
    assert shapes(raw) == shapes(after)
    assert_same_values(annotated, raw, **symbols)
    return after


# ---- before and after ---------------------------------------------------------------------------


def long(*extents):
    return tuple(tirx.IntImm("int64", extent) for extent in extents)


@I.ir_module
class Products:
    """The sketch of the pass."""

    @T.prim_func(private=True, s_tir=True)
    def first(
        X: T.Buffer(long(5, 3), "float32"),
        W: T.Buffer(long(3, 4), "float32"),
        M: T.Buffer(long(5, 4), "float32"),
    ):
        T.func_attr(
            {LAYOUTS: [None, T.index_map(lambda k, n: (n, k)), T.index_map(lambda i, n: (n, i))]}
        )
        for i, n, k in T.grid(5, 4, 3):
            with T.sblock("product"):
                vi, vn, vk = T.axis.remap("SSR", [i, n, k])
                with T.init():
                    M[vi, vn] = T.float32(0)
                M[vi, vn] = M[vi, vn] + X[vi, vk] * W[vk, vn]

    @T.prim_func(private=True, s_tir=True)
    def second(
        M: T.Buffer(long(5, 4), "float32"),
        V: T.Buffer(long(4, 2), "float32"),
        Y: T.Buffer(long(5, 2), "float32"),
    ):
        T.func_attr({LAYOUTS: [T.index_map(lambda i, n: (n, i)), None, None]})
        for i, j, n in T.grid(5, 2, 4):
            with T.sblock("product"):
                vi, vj, vn = T.axis.remap("SSR", [i, j, n])
                with T.init():
                    Y[vi, vj] = T.float32(0)
                Y[vi, vj] = Y[vi, vj] + M[vi, vn] * V[vn, vj]

    @R.function
    def main(
        x: R.Tensor((5, 3), "float32"),
        w: R.Tensor((3, 4), "float32"),
        v: R.Tensor((4, 2), "float32"),
    ):
        cls = Products
        with R.dataflow():
            m = R.call_tir(cls.first, (x, w), out_ty=R.Tensor((5, 4), "float32"))
            o = R.call_tir(cls.second, (m, v), out_ty=R.Tensor((5, 2), "float32"))
            R.output(o)
        return o


@I.ir_module
class ProductsInLayouts:
    @T.prim_func(private=True, s_tir=True)
    def first(
        X: T.Buffer(long(5, 3), "float32"),
        W: T.Buffer(long(4, 3), "float32"),
        M: T.Buffer(long(4, 5), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for i, n, k in T.grid(5, 4, 3):
            with T.sblock("product"):
                vi, vn, vk = T.axis.remap("SSR", [i, n, k])
                with T.init():
                    M[vn, vi] = T.float32(0)
                M[vn, vi] = M[vn, vi] + X[vi, vk] * W[vn, vk]

    @T.prim_func(private=True, s_tir=True)
    def second(
        M: T.Buffer(long(4, 5), "float32"),
        V: T.Buffer(long(4, 2), "float32"),
        Y: T.Buffer(long(5, 2), "float32"),
    ):
        T.func_attr({"tirx.noalias": True})
        for i, j, n in T.grid(5, 2, 4):
            with T.sblock("product"):
                vi, vj, vn = T.axis.remap("SSR", [i, j, n])
                with T.init():
                    Y[vi, vj] = T.float32(0)
                Y[vi, vj] = Y[vi, vj] + M[vn, vi] * V[vn, vj]


W = np.random.default_rng(1).standard_normal((3, 4)).astype("float32")


def test_producer_consumer_and_constant_are_rewritten():
    before = relax.transform.BindParams("main", {"w": W})(Products)
    after = rewritten(before)
    for name in ("first", "second"):
        assert_structural_equal(after[name], ProductsInLayouts[name])
    first, _ = calls(after)
    np.testing.assert_array_equal(first.args[1][1].value.numpy(), W.T)
    x, v = (
        np.random.default_rng(2).random((5, 3), "f"),
        np.random.default_rng(3).random((4, 2), "f"),
    )
    (made,) = host_outputs(after, [x, v])
    np.testing.assert_allclose(made, x @ W @ v, rtol=1e-5, atol=1e-5)


@I.ir_module
class Sums:
    @T.prim_func(private=True, s_tir=True)
    def rows(X: T.Buffer(long(5, 7), "float32"), M: T.Buffer(long(5), "float32")):
        T.func_attr({LAYOUTS: [None, T.index_map(lambda i: (i // 4, i % 4))]})
        for i, k in T.grid(5, 7):
            with T.sblock("rows"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi] = T.float32(0)
                M[vi] = M[vi] + X[vi, vk]

    @T.prim_func(private=True, s_tir=True)
    def back(M: T.Buffer(long(5), "float32"), Y: T.Buffer(long(5), "float32")):
        T.func_attr({LAYOUTS: [T.index_map(lambda i: (i // 4, i % 4)), None]})
        for i in range(5):
            with T.sblock("back"):
                vi = T.axis.spatial(5, i)
                Y[vi] = M[4 - vi]

    @R.function
    def main(x: R.Tensor((5, 7), "float32")):
        cls = Sums
        with R.dataflow():
            m = R.call_tir(cls.rows, (x,), out_ty=R.Tensor((5,), "float32"))
            o = R.call_tir(cls.back, (m,), out_ty=R.Tensor((5,), "float32"))
            R.output(o)
        return o


@I.ir_module
class SumsInVectors:
    @T.prim_func(private=True, s_tir=True)
    def rows(X: T.Buffer(long(5, 7), "float32"), M: T.Buffer(long(2, 4), "float32")):
        T.func_attr({"tirx.noalias": True})
        for i, k in T.grid(5, 7):
            with T.sblock("rows"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    M[vi // 4, vi % 4] = T.float32(0)
                M[vi // 4, vi % 4] = M[vi // 4, vi % 4] + X[vi, vk]

    @T.prim_func(private=True, s_tir=True)
    def back(M: T.Buffer(long(2, 4), "float32"), Y: T.Buffer(long(5), "float32")):
        T.func_attr({"tirx.noalias": True})
        for i in range(5):
            with T.sblock("back"):
                vi = T.axis.spatial(5, i)
                Y[vi] = M[1 - (vi + 3) // 4, 3 - (vi + 3) % 4]


def test_vectors_are_padded():
    after = rewritten(Sums)
    for name in ("rows", "back"):
        assert_structural_equal(after[name], SumsInVectors[name])
    assert shapes(after)["m"] == ["2", "4"]


# ---- what may be laid out -----------------------------------------------------------------------


def eliminated(body, *inputs):
    """Module after elimination, merging, fusion and concatenation in place."""
    mod = apply(graph(body, *inputs), *STAGE)
    # The names of tensors are those of an ordinary module again.
    return relax.transform.CanonicalizeBindings()(mod)


def chain(x):
    """Of kernels that are not joined: y is lv, its sine lv1."""
    return op.cos(op.sin(op.exp(x)))


def random_const(*shape):
    return const(np.random.default_rng(sum(shape)).standard_normal(shape))


def convolution(x):
    first = op.nn.conv2d(x, random_const(6, 3, 3, 3), padding=(1, 1))
    return op.nn.max_pool2d(
        op.nn.conv2d(op.nn.relu(first), random_const(5, 6, 1, 1)), (2, 2), (2, 2)
    )


def gathered(x, i):
    """The indices are a tensor of the graph as well, of 32 bits."""
    return op.take(op.exp(x), op.add(i, i), 0)


def padded_and_rolled(x):
    y = op.exp(x)
    pad = op.nn.pad(y, [1, 0, 2, 1])
    return op.concat(
        [op.strided_slice(pad, [0], [2], [6]), op.strided_slice(pad, [0], [0], [2])], 0
    )


def statistics(x):
    """Rows of a softmax, whose mean is subtracted: reductions make their outputs directly."""
    y = op.nn.softmax(op.exp(x), 0)
    return op.subtract(y, op.max(op.mean(y, [1], True), [0], True))


LEGAL = {
    "permuted": (chain, [(5, 7, 3)], {"lv": permuted(2, 0, 1), "lv1": permuted(1, 2, 0)}),
    "vectors": (chain, [(8, 3)], {"lv": vectors((0, 1), 0, 4), "lv1": vectors((1, 0), 0, 2)}),
    "padded": (chain, [(7, 3)], {"lv": vectors((0, 1), 0, 4), "lv1": vectors((1, 0), 1, 2)}),
    "longer vectors than the extent": (chain, [(3, 2)], {"lv": vectors((1, 0), 0, 16)}),
    "extents of 1": (
        chain,
        [(1, 5, 1)],
        {"lv": vectors((2, 1, 0), 0, 4), "lv1": vectors((1, 0, 2), 2, 3)},
    ),
    "primes": (chain, [(13, 11)], {"lv": vectors((1, 0), 1, 3), "lv1": vectors((0, 1), 0, 16)}),
    "no dimensions": (chain, [()], {"lv": permuted()}),
    "fused and split": (
        chain,
        [(3, 7, 2)],
        {"lv": from_func(lambda i, j, k: ((i * 7 + j) // 5, k, (i * 7 + j) % 5))},
    ),
    "rotated": (chain, [(5, 4)], {"lv": from_func(lambda i, j: (j, (i + j) % 5))}),
    "with holes": (chain, [(5, 4)], {"lv": from_func(lambda i, j: (j * 2, i))}),
    "convolution": (
        convolution,
        [(1, 3, 8, 6)],
        {
            "lv": vectors((0, 1, 2, 3), 1, 4),
            "lv1": permuted(0, 2, 3, 1),
            "lv2": vectors((1, 0, 3, 2), 3, 16),
            "conv2d/constant": vectors((2, 3, 0, 1), 1, 4),
            "conv2d1/constant": vectors((2, 3, 1, 0), 0, 2),
        },
    ),
    "indices": (
        gathered,
        [(7, 5), ((2, 3), "int32")],
        {"lv": vectors((1, 0), 0, 4), "lv1": vectors((1, 0), 1, 2)},
    ),
    "indices through a general map": (
        gathered,
        [(7, 5), ((2, 1), "int32")],
        {
            "lv": from_func(lambda i, j: ((i * 5 + j) % 3, (i * 5 + j) // 3)),
            "lv1": from_func(lambda i, j: ((i + j) % 2,)),
        },
    ),
    "conditions": (
        padded_and_rolled,
        [(3, 4)],
        {"lv": vectors((0, 1), 1, 3), "lv1": vectors((1, 0), 0, 4), "lv3": permuted(1, 0)},
    ),
    "reductions": (
        statistics,
        [(5, 6)],
        {
            "lv": permuted(1, 0),
            "lv1": vectors((1, 0), 0, 4),
            "lv2": vectors((1, 0), 0, 2),
            "lv3": permuted(1, 0),
        },
    ),
    "float16": (
        lambda x: op.matmul(chain(x), const(np.eye(6), "float16")),
        [((5, 6), "float16")],
        {"lv1": vectors((1, 0), 0, 4), "constant": vectors((1, 0), 1, 4)},
    ),
    "booleans": (
        lambda x: op.where(op.logical_not(op.greater(x, const(0))), x, op.negative(x)),
        [(5, 7)],
        {"lv": vectors((0, 1), 0, 4), "lv1": permuted(1, 0)},
    ),
}


@pytest.mark.parametrize("name", LEGAL)
def test_values_are_the_same(name):
    body, inputs, layouts = LEGAL[name]
    annotated = laid_out(graph(body, *inputs), layouts)
    before = graph(body, *inputs)
    after = rewritten(annotated)
    assert_same_values(before, after)
    for tensor, index_map in layouts.items():
        if tensor in shapes(after):
            expected = index_map.map_shape(graph_shape(before, tensor))
            assert shapes(after)[tensor] == [str(int(extent)) for extent in expected]


def graph_shape(mod, tensor):
    return [int(extent) for extent in shapes(mod)[tensor]]


def test_numbers_are_numpys():
    layouts = LEGAL["convolution"][2] | {"lv": vectors((3, 2, 1, 0), 2, 3)}
    after = rewritten(laid_out(graph(convolution, (1, 3, 8, 6)), layouts))
    x = np.random.default_rng(0).standard_normal((1, 3, 8, 6)).astype("float32")
    w, v = random_const(6, 3, 3, 3).value.numpy(), random_const(5, 6, 1, 1).value.numpy()
    wide = np.pad(x[0], [(0, 0), (1, 1), (1, 1)])
    windows = np.lib.stride_tricks.sliding_window_view(wide, (3, 3), (1, 2))
    hidden = np.maximum(np.einsum("chwij,ocij->ohw", windows, w), 0)
    made = np.einsum("chw,oc->ohw", hidden, v[:, :, 0, 0])
    expected = made.reshape(5, 4, 2, 3, 2).max((2, 4))[None]
    np.testing.assert_allclose(host_outputs(after, [x])[0], expected, rtol=1e-5, atol=1e-5)


def test_one_tensor_is_read_through_two_views():
    """h · hᵀ, and h beside its transpose in one elementwise kernel."""

    def body(x, w):
        h = op.matmul(x, w)
        return op.matmul(h, op.permute_dims(h)), op.exp(op.add(h, op.permute_dims(h)))

    before = eliminated(body, (5, 3), (3, 5))
    (_, *readers) = calls(before)
    name = next(n for n, s in shapes(before).items() if n.startswith("lv"))
    assert all(len(reader.args[1].fields) == 1 for reader in readers)  # the tensor is one operand
    for index_map in (permuted(1, 0), vectors((1, 0), 0, 4), vectors((0, 1), 1, 3)):
        rewritten(laid_out(before, {name: index_map}))


def test_outputs_of_a_merged_kernel_have_their_own_layouts():
    def body(x, q, k, v):
        made = [op.matmul(x, w) for w in (q, k, v)]
        scores = op.nn.softmax(op.matmul(made[0], op.permute_dims(made[1])))
        return op.matmul(scores, made[2])

    before = eliminated(body, (5, 6), (6, 7), (6, 7), (6, 7))
    first = calls(before)[0]
    assert len(first.ty.fields) == 3
    inner = [name for name, shape in shapes(before).items() if shape == ["5", "7"]][:3]
    maps = [permuted(1, 0), vectors((0, 1), 0, 4), vectors((1, 0), 0, 2)]
    after = rewritten(laid_out(before, dict(zip(inner, maps, strict=True))))
    assert [shapes(after)[name] for name in inner] == [["7", "5"], ["2", "7", "4"], ["7", "3", "2"]]


def test_a_reduction_of_two_results():
    """The place of the largest element is found with its value."""

    def body(x):
        largest = op.argmax(op.exp(x), 1)
        return op.add(largest, largest)

    rewritten(
        laid_out(graph(body, (5, 7)), {"lv": vectors((1, 0), 1, 4), "lv1": vectors((0,), 0, 2)})
    )


def batch():
    return tirx.Var("n", "int64")


SYMBOLIC = {
    "permuted": permuted(2, 0, 1),
    "vectors of a static dimension": vectors((2, 0, 1), 1, 4),
    "vectors of the batch": vectors((1, 0, 2), 0, 4),
    "a general form beside the batch": from_func(
        lambda n, i, j: ((i * 3 + j) // 4, n, (i * 3 + j) % 4)
    ),
}


@pytest.mark.parametrize("name", SYMBOLIC)
@pytest.mark.parametrize("size", [1, 6])
def test_symbolic_batch(name, size):
    before = graph(chain, (batch(), 5, 3))
    after = rewritten(laid_out(before, {"lv": SYMBOLIC[name]}), n=size)
    assert_same_values(before, after, n=size)


def test_symbolic_batch_that_no_buffer_has_as_an_extent():
    """The kernel in the middle gets it as an argument."""
    before = graph(chain, (batch(), 5, 3))
    layouts = {"lv": vectors((0, 1, 2), 0, 4), "lv1": vectors((2, 1, 0), 0, 3)}
    after = rewritten(laid_out(before, layouts), n=6)
    _, middle, _ = calls(after)
    assert [str(argument) for argument in middle.args[1].fields] == ["lv", "n"]
    assert_same_values(before, after, n=6)


def test_symbolic_batch_in_a_reduction():
    def body(x, w):
        h = op.matmul(op.exp(x), w)
        return op.matmul(op.permute_dims(h, [0, 2, 1]), h)

    layouts = {"lv": vectors((0, 2, 1), 0, 3), "lv1": vectors((2, 1, 0), 0, 4)}
    before = graph(body, (batch(), 5, 3), (3, 6))
    after = rewritten(laid_out(before, layouts), n=5)
    assert_same_values(before, after, n=5)


# ---- in place -----------------------------------------------------------------------------------


@I.ir_module
class SideBySide:
    """Two kernels write the columns of one tensor, a third reads all."""

    @T.prim_func(private=True, s_tir=True)
    def left(X: T.Buffer(long(5, 4), "float32"), C: T.Buffer(long(5, 7), "float32")):
        for i, j in T.grid(5, 3):
            with T.sblock("left"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj] = T.exp(X[vi, vj])

    @T.prim_func(private=True, s_tir=True)
    def right(X: T.Buffer(long(5, 4), "float32"), C: T.Buffer(long(5, 7), "float32")):
        for i, j in T.grid(5, 4):
            with T.sblock("right"):
                vi, vj = T.axis.remap("SS", [i, j])
                C[vi, vj + 3] = T.sin(X[vi, vj])

    @T.prim_func(private=True, s_tir=True)
    def rows(C: T.Buffer(long(5, 7), "float32"), Y: T.Buffer(long(5), "float32")):
        for i, k in T.grid(5, 7):
            with T.sblock("rows"):
                vi, vk = T.axis.remap("SR", [i, k])
                with T.init():
                    Y[vi] = T.float32(0)
                Y[vi] = Y[vi] + C[vi, vk]

    @R.function
    def main(x: R.Tensor((5, 4), "float32")):
        cls = SideBySide
        with R.dataflow():
            a = R.call_tir(cls.left, (x,), out_ty=R.Tensor((5, 7), "float32"))
            b = R.call_tir_inplace(
                cls.right, (x, a), inplace_indices=[1], out_ty=R.Tensor((5, 7), "float32")
            )
            o = R.call_tir(cls.rows, (b,), out_ty=R.Tensor((5,), "float32"))
            R.output(o)
        return o


@pytest.mark.parametrize(
    "index_map",
    [
        permuted(1, 0),
        vectors((0, 1), 1, 4),
        from_func(lambda i, j: ((i * 7 + j) // 9, (i * 7 + j) % 9)),
    ],
)
def test_tensors_in_one_memory_lie_alike(index_map):
    after = rewritten(laid_out(SideBySide, {"a": index_map, "b": index_map}))
    assert shapes(after)["a"] == shapes(after)["b"] != ["5", "7"]
    x = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    expected = np.exp(x[:, :3]).sum(1) + np.sin(x).sum(1)
    np.testing.assert_allclose(host_outputs(after, [x])[0], expected, rtol=1e-5, atol=1e-5)


def test_the_attribute_of_a_kernel_in_place_is_of_both_tensors():
    """Written by hand: a parameter that is an operand and the result has one entry."""
    swap = permuted(1, 0)
    mod = by_hand(SideBySide, left=[None, swap], right=[None, swap], rows=[swap, None])
    assert shapes(rewritten(mod))["b"] == ["7", "5"]


@pytest.mark.parametrize(
    "layouts",
    [
        {"a": permuted(1, 0)},
        {"b": permuted(1, 0)},
        {"a": permuted(1, 0), "b": vectors((1, 0), 0, 4)},
    ],
)
def test_tensors_in_one_memory_that_would_lie_otherwise_are_refused(layouts):
    with pytest.raises(SmartMemError, match="'right' writes 'b' into the memory of 'a', but"):
        RewriteLayouts()(laid_out(SideBySide, layouts))


# ---- constants ----------------------------------------------------------------------------------

SHARED = random_const(5, 5)


def test_a_constant_lies_as_its_reader_wants():
    def body(x):
        return op.matmul(x, random_const(7, 5))

    index_map = vectors((1, 0), 0, 4)
    after = rewritten(laid_out(graph(body, (3, 7)), {"constant": index_map}))
    (call,) = calls(after)
    stored = call.args[1][1].value.numpy()
    np.testing.assert_array_equal(stored, pack(index_map, random_const(7, 5).value.numpy()))
    assert stored.shape == (5, 2, 4)
    assert not stored[:, 1, 3].any()  # the padding


def twice(x):
    """The first product reads it along its columns, the second along its rows."""
    first = op.matmul(x, SHARED)
    return op.matmul(op.exp(first), op.permute_dims(SHARED)), op.matmul(op.sin(first), SHARED)


def test_a_constant_in_one_layout_is_stored_once():
    before = eliminated(twice, (3, 5))
    readers = [call.args[0].name_hint for call in calls(before)]
    assert constants(before) == [(5, 5)]
    assert len(readers) == 3
    after = rewritten(laid_out(before, {"constant": vectors((1, 0), 0, 4)}))
    assert constants(after) == [(5, 2, 4)]
    # Equal maps, but of other variables.
    maps = [from_func(lambda i, j: (j, i)), from_func(lambda row, column: (column, row))]
    by_reader = {f"{reader}/constant": maps[n % 2] for n, reader in enumerate(set(readers))}
    assert constants(rewritten(laid_out(before, by_reader))) == [(5, 5)]


def test_a_constant_in_two_layouts_is_stored_twice():
    before = graph(twice, (3, 5))
    layouts = {"matmul/constant": vectors((1, 0), 0, 4), "transpose/constant": permuted(1, 0)}
    assert constants(rewritten(laid_out(before, layouts))) == [(5, 2, 4), (5, 5)]
    # One reader has it row by row.
    assert constants(rewritten(laid_out(before, {"transpose/constant": vectors((0, 1), 0, 2)})))


def test_a_constant_that_is_an_output_too_stays_as_it_is_there():
    def body(x):
        return op.matmul(x, SHARED), SHARED

    after = rewritten(laid_out(graph(body, (3, 5)), {"constant": vectors((1, 0), 1, 2)}))
    assert constants(after) == [(3, 5, 2)]
    made = host_outputs(after, [np.ones((3, 5), "float32")])
    np.testing.assert_array_equal(made[1], SHARED.value.numpy())


def test_a_constant_far_from_its_other_reader_is_stored_once():
    def body(x):
        first = op.matmul(x, SHARED)
        for number in range(80):
            first = op.add(first, const([float(number)] * 5))
        return op.matmul(first, SHARED)

    before = graph(body, (3, 5))
    after = rewritten(laid_out(before, {"matmul/constant": permuted(1, 0)}))
    products = {call.args[1][1] for call in calls(after) if "matmul" in call.args[0].name_hint}
    assert len(products) == 1


# ---- what must lie row by row -------------------------------------------------------------------


@I.ir_module
class Scanned:
    """A scan between elementwise kernels."""

    @T.prim_func(private=True, s_tir=True)
    def scan(X: T.Buffer(long(4, 5), "float32"), Y: T.Buffer(long(4, 5), "float32")):
        for r, t in T.grid(4, 5):
            with T.sblock("main"):
                vr = T.axis.spatial(4, r)
                vt = T.axis.opaque(5, t)
                Y[vr, vt] = X[vr, vt] + T.if_then_else(vt > 0, Y[vr, vt - 1], T.float32(0))

    @R.function
    def main(x: R.Tensor((4, 5), "float32")):
        cls = Scanned
        with R.dataflow():
            a = R.exp(x)
            b = R.sin(a)
            c = R.call_tir(cls.scan, (b,), out_ty=R.Tensor((4, 5), "float32"))
            d = R.cos(c)
            e = R.exp(d)
            R.output(e)
        return e


def test_neighbours_of_an_opaque_operator_may_be_laid_out():
    before = legalised(Scanned)
    after = rewritten(laid_out(before, {"a": vectors((1, 0), 0, 4), "d": permuted(1, 0)}))
    assert_structural_equal(after["scan"], before["scan"])


def two_exponentials(x):
    first = op.exp(x)
    return op.sin(first), op.cos(first)


REFUSED = {
    "a parameter": (
        lambda: graph(chain, (5, 7)),
        {"x0": permuted(1, 0)},
        r"tensor 'x0' of 'tir_exp' cannot lie as .*: it comes from outside of the dataflow block",
    ),
    "a result": (
        lambda: graph(chain, (5, 7)),
        {"gv": permuted(1, 0)},
        r"tensor 'gv' of 'tir_cos' cannot lie as .*: it is used outside of the dataflow block",
    ),
    "a part of a result": (
        lambda: graph(two_exponentials, (5, 7)),
        {"lv1": permuted(1, 0)},
        r"tensor 'lv1' of 'tir_sin' cannot lie as .*: it is used outside of the dataflow block",
    ),
    "what an opaque operator reads": (
        lambda: legalised(Scanned),
        {"b": permuted(1, 0)},
        r"tensor 'b' of 'tir_sin' cannot lie as .*: an opaque operator has it "
        r"\(axis 'vt' runs in order\)",
    ),
    "what an opaque operator makes": (
        lambda: legalised(Scanned),
        {"c": permuted(1, 0)},
        r"tensor 'c' of 'tir_cos' cannot lie as .*: an opaque operator has it",
    ),
    "two layouts": (
        lambda: graph(two_exponentials, (5, 7)),
        {
            "tir_exp/lv": permuted(1, 0),
            "tir_sin/lv": vectors((0, 1), 0, 4),
            "tir_cos/lv": permuted(1, 0),
        },
        r"tensor 'lv' is to lie as .*\(i1, i0\).*, but 'tir_sin' has it as .*% T.int64\(4\)",
    ),
    "a reader without it": (
        lambda: graph(two_exponentials, (5, 7)),
        {"tir_exp/lv": permuted(1, 0), "tir_sin/lv": permuted(1, 0)},
        r"tensor 'lv' is to lie as .*, but 'tir_cos' has it as None: give it one layout",
    ),
    "a writer without it": (
        lambda: graph(two_exponentials, (5, 7)),
        {"tir_cos/lv": permuted(1, 0), "tir_sin/lv": permuted(1, 0)},
        r"tensor 'lv' is to lie as .*, but 'tir_exp' has it as None: give it one layout",
    ),
    "one place for two elements": (
        lambda: graph(chain, (5, 7)),
        {"lv": from_func(lambda i, j: (i, j // 2))},
        r"tensor 'lv' of 'tir_exp': .*two elements of a tensor of shape \[5, 7\] into one place",
    ),
    "one place for two elements of a constant": (
        lambda: graph(lambda x: op.matmul(x, SHARED), (3, 5)),
        {"constant": from_func(lambda i, j: (i + j,))},
        r"tensor 'constant' of 'matmul': .*two elements .* into one place",
    ),
    "one place for two elements of each batch": (
        lambda: graph(chain, (batch(), 5, 7)),
        {"lv": from_func(lambda n, i, j: (n, i + j))},
        r"tensor 'lv' of 'tir_exp': .*two elements .* into one place",
    ),
    "a batch that is fused": (
        lambda: graph(chain, (batch(), 5)),
        {"lv": from_func(lambda n, i: (n * 5 + i,))},
        r"tensor 'lv' of 'tir_exp', of shape .*, cannot lie as .*: n is symbolic, so that it must",
    ),
    "places that start elsewhere": (
        lambda: graph(chain, (5, 7)),
        {"lv": from_func(lambda i, j: (j + 1, i))},
        r"tensor 'lv' of 'tir_exp', of shape .*: its places do not start at 0",
    ),
    "another number of dimensions": (
        lambda: graph(chain, (5, 7)),
        {"lv": permuted(0, 2, 1)},
        r"tensor 'lv' of 'tir_exp', of shape .*: the map is of 3 dimensions; give one for each",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_tensor_and_reason(name):
    make, layouts, message = REFUSED[name]
    with pytest.raises(SmartMemError, match=message):
        RewriteLayouts()(laid_out(make(), layouts))


def by_hand(mod, **maps):
    """The module with that attribute for functions."""
    mod = mod.clone()
    for name, entries in maps.items():
        mod.update_func(mod.get_global_var(name), mod[name].with_attr(LAYOUTS, entries))
    return mod


def test_a_function_that_cannot_be_rewritten_must_not_ask_for_it():
    mod = by_hand(legalised(Scanned), scan=[permuted(1, 0), None])
    message = "the tensors of function 'scan' cannot be laid out: axis 'vt' runs in order; leave"
    with pytest.raises(SmartMemError, match=message):
        RewriteLayouts()(mod)


def test_an_attribute_of_another_length_is_refused():
    mod = by_hand(graph(chain, (5, 7)), tir_exp=[permuted(1, 0)])
    with pytest.raises(SmartMemError, match="of function 'tir_exp' has 1 entries, but it has 2"):
        RewriteLayouts()(mod)


def test_row_by_row_may_be_said_of_every_tensor():
    mod = legalised(Scanned)
    entries = [permuted(0, 1), permuted(0, 1)]
    after = rewritten(by_hand(mod, scan=entries, tir_exp=entries, tir_sin=entries))
    assert_structural_equal(after, apply(mod, RewriteLayouts), map_free_vars=True)


def test_without_attributes_nothing_changes():
    mod = apply(eliminated(twice, (3, 5)), RewriteLayouts)
    assert_structural_equal(apply(mod, RewriteLayouts), mod, map_free_vars=True)


# ---- one function alone -------------------------------------------------------------------------


def run_function(func, arguments):
    built = tvm.compile(tvm.IRModule({"main": func.with_attr("global_symbol", "main")}), HOST)
    given = [a if isinstance(a, int) else tvm.runtime.tensor(a) for a in arguments]
    built["main"](*given)
    return [a if isinstance(a, int) else a.numpy() for a in given]


def check_function(func, arguments, maps):
    """Compare the function on arrays with the rewritten one on the arrays as they lie then."""
    expected = run_function(func, arguments)
    laid = rewrite_function(func, {func.params[n]: index_map for n, index_map in maps.items()})
    given = [pack(maps[n], a) if n in maps else a for n, a in enumerate(arguments)]
    made = run_function(laid, given)
    for n, array in enumerate(expected):
        if n in maps:
            there = pack(maps[n], np.ones(array.shape, bool))
            assert made[n].shape == there.shape
            np.testing.assert_allclose(made[n][there], pack(maps[n], array)[there], rtol=1e-5)
        else:
            np.testing.assert_allclose(made[n], array, rtol=1e-5)


def arrays(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype("float32") for shape in shapes]


FUNCTION_MAPS = {
    "none": {},
    "constant": {1: vectors((1, 0), 0, 4)},
    "all": {0: permuted(1, 0), 1: vectors((0, 1), 1, 4), 2: vectors((1, 0), 0, 2)},
    "general": {2: from_func(lambda i, n: ((i * 4 + n) // 3, (i * 4 + n) % 3))},
}


@pytest.mark.parametrize("name", FUNCTION_MAPS)
def test_a_function_alone(name):
    func = Products["first"].without_attr(LAYOUTS)
    check_function(func, arrays((5, 3), (3, 4), (5, 4)), FUNCTION_MAPS[name])


def test_a_function_alone_that_writes_in_place():
    index_map = vectors((1, 0), 1, 4)
    check_function(SideBySide["right"], arrays((5, 4), (5, 7)), {1: index_map})


def test_a_function_alone_with_a_symbolic_extent():
    (func,) = (
        mod[call.args[0]]
        for mod in [graph(lambda x: op.exp(x), (batch(), 5))]
        for call in calls(mod)
    )
    laid = rewrite_function(func, {func.params[1]: vectors((1, 0), 0, 4)})
    (x,) = arrays((6, 5))
    made = run_function(laid, [x, np.zeros((5, 2, 4), "float32")])[1]
    np.testing.assert_allclose(made.transpose(1, 2, 0).reshape(8, 5)[:6], np.exp(x), rtol=1e-5)


def test_a_function_alone_without_stages_is_refused():
    func = Scanned["scan"]
    with pytest.raises(SmartMemError, match="cannot be laid out: axis 'vt' runs in order"):
        rewrite_function(func, {func.params[0]: permuted(1, 0)})
    func = SideBySide["rows"]
    with pytest.raises(SmartMemError, match=r"tensor 'C': .* into one place"):
        rewrite_function(func, {func.params[0]: from_func(lambda i, j: (i, j // 2))})
