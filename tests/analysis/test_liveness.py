"""When allocated tensors are in use: under which names, through what, and until where."""

from __future__ import annotations

import pytest
import tvm
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

from smartmem_tvm.analysis.liveness import Image, image_of, read_liveness

HOST = tvm.target.Target("llvm")


@I.ir_module
class Kernels:
    @T.prim_func(private=True, s_tir=True)
    def f(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("copy"):
                vi = T.axis.spatial(8, i)
                b[vi] = a[vi] + T.float32(1)

    @T.prim_func(private=True, s_tir=True)
    def g(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32"), c: T.Buffer((8,), "float32")):
        for i in range(8):
            with T.sblock("add"):
                vi = T.axis.spatial(8, i)
                c[vi] = a[vi] + b[vi]


class Graph:
    """A function in the form after ``CallTIRRewrite``, written binding by binding."""

    def __init__(self):
        self.mod = Kernels.clone()
        self.vector = relax.TensorType((8,), "float32")
        self.x = relax.Var("x", self.vector)
        self.bindings = []
        self.builder = relax.BlockBuilder()

    def bind(self, name, value):
        value = self.builder.normalize(value)
        var = relax.Var(name, value.ty)
        self.bindings.append(relax.VarBinding(var, value))
        return var

    def allocate(self, name, shape=(8,), dtype="float32", scope="global", device=0):
        return self.bind(
            name, relax.op.builtin.alloc_tensor(relax.ShapeExpr(shape), dtype, device, scope)
        )

    def call(self, function, *arguments, ty=None):
        op = function
        if isinstance(function, str):
            op = (
                self.mod.get_global_var(function)
                if function in ("f", "g")
                else relax.ExternFunc(function)
            )
        ty = relax.TupleType([]) if ty is None else ty
        return self.bind("_", relax.Call(op, list(arguments), ty_args=[ty]))

    def liveness(self, result=None, **attrs):
        block = relax.BindingBlock(self.bindings)
        body = relax.SeqExpr([block], self.x if result is None else result)
        func = relax.Function([self.x], self.builder.normalize(body), is_pure=False)
        for key, value in attrs.items():
            func = func.with_attr(key, value)
        return read_liveness(func, self.mod)

    def spans(self, result=None):
        """First and last position of each tensor that may be placed."""
        return {
            allocation.var.name: (allocation.first, allocation.last)
            for allocation in self.liveness(result).allocations
        }

    def reasons(self, result=None):
        return {a.var.name: reason for a, reason in self.liveness(result).refused}


@pytest.fixture
def graph():
    return Graph()


def test_until_the_last_call_that_reads_it(graph):
    a = graph.allocate("a")
    graph.call("f", graph.x, a)
    b = graph.allocate("b")
    graph.call("f", a, b)
    c = graph.allocate("c")
    graph.call("g", a, b, c)
    assert graph.spans() == {"a": (0, 5), "b": (2, 5), "c": (4, 5)}


def test_what_is_written_and_never_read(graph):
    a = graph.allocate("a")
    graph.call("f", graph.x, a)
    graph.bind("other", a)
    graph.allocate("unused")
    assert graph.spans() == {"a": (0, 1), "unused": (3, 3)}


def test_under_every_name(graph):
    """Through a binding, a tuple in a tuple, its fields, and views of views."""
    a, b = graph.allocate("a"), graph.allocate("b")
    graph.call("g", graph.x, a, b)
    inner = graph.bind("inner", relax.Tuple([a, b]))
    outer = graph.bind("outer", relax.Tuple([inner, graph.x]))
    fields = graph.bind("fields", relax.TupleGetItem(outer, 0))
    second = graph.bind("second", relax.TupleGetItem(fields, 1))
    view = graph.bind("view", relax.op.reshape(second, (2, 4)))
    again = graph.bind("again", relax.op.memory.view(view, relax.ShapeExpr([8]), "float32", 0))
    c = graph.allocate("c")
    graph.call("f", again, c)
    # a ends where it was made: only the field that is b is read later
    assert graph.spans() == {"a": (0, 2), "b": (1, 10), "c": (9, 10)}


def test_written_in_place_it_is_one_tensor(graph):
    a = graph.allocate("a")
    graph.call("f", graph.x, a)
    part = graph.bind("part", a)
    graph.call("f", graph.x, part)
    whole = graph.bind("whole", part)
    b = graph.allocate("b")
    graph.call("f", whole, b)
    assert graph.spans() == {"a": (0, 6), "b": (5, 6)}


@pytest.mark.parametrize("inside", [False, True])
def test_results_are_refused(graph, inside):
    a, b = graph.allocate("a"), graph.allocate("b")
    graph.call("g", graph.x, a, b)
    view = graph.bind("view", relax.op.reshape(b, (2, 4)))
    result = graph.bind("result", relax.Tuple([view, graph.x])) if inside else view
    assert graph.reasons(result) == {"b": "a result of the function"}
    assert graph.spans(result) == {"a": (0, 2)}


def test_a_call_may_return_what_it_was_given(graph):
    """Of a PrimFunc and of a call without a result that is known not to be so."""
    a, b, c = (graph.allocate(name) for name in "abc")
    graph.call("g", a, b, c)
    kept = graph.call("somewhere.normalise", a, ty=graph.vector)
    graph.call("somewhere.write", b)
    number = graph.call("somewhere.count", c, ty=relax.ShapeType(ndim=1))
    d = graph.allocate("d")
    graph.call("f", kept, d)
    graph.call("somewhere.show", number)
    assert graph.spans() == {"a": (0, 8), "b": (1, 5), "c": (2, 6), "d": (7, 8)}
    assert graph.reasons(kept) == {"a": "a result of the function"}


def test_a_copy_that_may_be_none_is_read_and_is_an_alias(graph):
    a = graph.allocate("a")
    graph.call("f", graph.x, a)
    same = graph.bind("same", relax.op.memory.ensure_zero_offset(a))
    b = graph.allocate("b")
    graph.call("f", same, b)
    assert graph.spans() == {"a": (0, 4), "b": (3, 4)}


def test_branches_lie_within_their_conditional():
    @I.ir_module
    class Module:
        @T.prim_func(private=True, s_tir=True)
        def f(a: T.Buffer((8,), "float32"), b: T.Buffer((8,), "float32")):
            for i in range(8):
                with T.sblock("copy"):
                    vi = T.axis.spatial(8, i)
                    b[vi] = a[vi] + T.float32(1)

        @R.function
        def main(x: R.Tensor((8,), "float32"), yes: R.Tensor((), "bool")):
            cls = Module
            early = R.call_tir(cls.f, (x,), out_ty=R.Tensor((8,), "float32"))
            used = R.call_tir(cls.f, (early,), out_ty=R.Tensor((8,), "float32"))
            passed = R.call_tir(cls.f, (early,), out_ty=R.Tensor((8,), "float32"))
            if yes:
                one = R.call_tir(cls.f, (used,), out_ty=R.Tensor((8,), "float32"))
                made = R.call_tir(cls.f, (one,), out_ty=R.Tensor((8,), "float32"))
            else:
                made = passed
            late = R.call_tir(cls.f, (made,), out_ty=R.Tensor((8,), "float32"))
            last = R.call_tir(cls.f, (late,), out_ty=R.Tensor((8,), "float32"))
            return last

    passes = [relax.transform.RemovePurityChecking(), relax.transform.CallTIRRewrite()]
    mod = tvm.transform.Sequential(passes)(Module)
    found = read_liveness(mod["main"], mod)
    names = {}
    for binding in mod["main"].body.blocks[0].bindings:
        if isinstance(binding.value, relax.Var):
            names[binding.value.name] = binding.var.name
    spans = {names.get(a.var.name, "inside"): (a.first, a.last) for a in found.allocations}
    assert [reason for _, reason in found.refused] == [
        "a result of a branch",
        "a result of the function",
    ]
    first, end = spans["inside"]
    assert spans["used"][0] < spans["passed"][0] < first < end
    # Whichever branch is taken: `used` is there until both have ended, `passed` until it is read
    # as what the conditional made.
    assert end < spans["used"][1] < spans["late"][0]
    assert spans["used"][1] < spans["passed"][1]
    assert spans["late"][0] < spans["passed"][1] < spans["late"][1]
    assert spans["early"][1] < first


def test_sizes_and_their_bounds(graph):
    n = tvm.tirx.Var("n", "int64")
    m = tvm.tirx.Var("m", "int64")
    graph.x = relax.Var("x", relax.TensorType((n, m), "float32"))
    graph.allocate("constant", (3, 5), "float16")
    graph.allocate("open", (n, 6), "float32")
    graph.allocate("bounded", (m * 2 + 1, 6), "float32")
    graph.allocate("both", (m, n, 2), "int8")
    found = {a.var.name: a for a in graph.liveness(tir_var_upper_bound={"m": 9}).allocations}
    assert (found["constant"].bytes, found["constant"].factor) == (30, None)
    assert (found["bounded"].bytes, found["bounded"].factor) == (19 * 6 * 4, None)
    assert found["open"].bytes == 24
    assert found["open"].factor.same_as(n)
    assert found["both"].bytes == 18
    assert found["both"].factor.same_as(n)


@pytest.mark.parametrize(
    ("scope", "shape", "image"),
    [
        ("global.texture", (6, 5, 4), Image(1, 6, 5, "float16")),
        ("global.texture", (2, 3, 6, 5, 4), Image(6, 6, 5, "float16")),
        ("global.texture-weight", (2, 3, 6, 4), Image(1, 2, 18, "float16")),
        ("global.texture-nhwc", (2, 3, 6, 5, 4), Image(2, 3, 30, "float16")),
        ("global.image2d", (6, 5, 4), Image(1, 6, 5, "float16")),
    ],
)
def test_extents_of_images(graph, scope, shape, image):
    graph.allocate("a", shape, "float16", scope)
    (found,) = graph.liveness().allocations
    assert found.image == image
    assert image.bytes == found.bytes


def test_an_image_of_open_extents_is_refused(graph):
    n = tvm.tirx.Var("n", "int64")
    graph.x = relax.Var("x", relax.TensorType((n,), "float32"))
    graph.allocate("a", (n, 5, 4), "float16", "global.texture")
    assert graph.reasons() == {"a": "an image whose extents are known only at run time"}
    assert image_of("global.texture", [n, 5, 4], "float16") is None
