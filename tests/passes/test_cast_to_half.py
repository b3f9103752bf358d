"""float16 between kernels, float32 inside of them, and what stays float32 with its reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tvm
from relax_graphs import CALL_TIR, HOST, module
from tvm import relax
from tvm.relax import op
from tvm.script import ir as I
from tvm.script import relax as R

import smartmem_tvm
from smartmem_tvm.analysis.half_storage import read_choices
from smartmem_tvm.devices import load_profile
from smartmem_tvm.devices.schema import HalfStorage
from smartmem_tvm.passes import CastToHalf
from smartmem_tvm.pipeline import pipeline_stages

PROFILE = load_profile("adreno-740")
SQUARE = (32, 32)


def const(values):
    return relax.const(np.asarray(values), "float32")


def through(x):
    """The same values, from a kernel of their own: what reads them reads float16."""
    return bound(op.matmul(x, const(np.eye(32))))


def bound(value):
    """A variable, for a value with several readers."""
    return relax.BlockBuilder.current().emit(value)


def choices(body, *inputs, profile=PROFILE):
    """Storage and reason by operator; each operator once, or always the same."""
    mod = CastToHalf(profile)(module(body, *inputs))
    relax.analysis.well_formed(mod)
    found = {}
    for choice in read_choices(mod):
        found.setdefault(choice.operator, []).append((choice.stored, choice.reason))
    return found


def run(body, *arrays):
    """The result on the device."""
    mod = module(body, *(array.shape for array in arrays))
    (made,) = smartmem_tvm.compile(mod, "adreno-740", dtype="float16").run(list(arrays)).values()
    return made


def on_host(mod, *arrays):
    executable = tvm.compile(mod, HOST)
    machine = relax.VirtualMachine(executable, tvm.cpu())
    made = machine["main"](*(tvm.runtime.tensor(array) for array in arrays))
    return made.numpy()


@pytest.fixture
def half_device(opencl_info):
    if not opencl_info.fp16:
        pytest.skip("the device has no fp16")


def chain(m, n, k):
    return module(lambda a, b, c: op.matmul(op.nn.relu(op.matmul(a, b)), c), (m, k), (k, k), (k, n))


def test_contractions_read_half_and_what_lies_in_a_register_is_not_rounded():
    after = CastToHalf(PROFILE)(chain(4, 2, 8))

    @I.ir_module
    class Expected:
        @R.function
        def main(x0: R.Tensor((4, 8), "float32"), x1: R.Tensor((8, 8), "float32"), x2: R.Tensor((8, 2), "float32")) -> R.Tensor((4, 2), "float32"):  # fmt: skip  # noqa: E501
            with R.dataflow():
                x0_half = R.astype(x0, "float16")
                x1_half = R.astype(x1, "float16")
                lv = R.matmul(x0_half, x1_half, out_dtype="float32")
                lv1 = R.nn.relu(lv)
                lv1_half = R.astype(lv1, "float16")
                x2_half = R.astype(x2, "float16")
                gv = R.matmul(lv1_half, x2_half, out_dtype="float32")
                gv_1: R.Tensor((4, 2), "float32") = gv
                R.output(gv_1)
            return gv_1

    tvm.ir.assert_structural_equal(
        relax.transform.CanonicalizeBindings()(after.without_attr("smartmem.half")),
        relax.transform.CanonicalizeBindings()(Expected),
    )


def test_two_readers_get_half_and_compute_in_single():
    def body(x):
        y = through(x)
        ones = const(np.ones(32))
        return op.add(through(op.nn.layer_norm(y, ones, ones, [-1])), y)

    mod = CastToHalf(PROFILE)(module(body, SQUARE))
    calls = {}

    def visit(node):
        if isinstance(node, relax.Call) and node.op.same_as(CALL_TIR):
            calls[node.args[0].name_hint.rstrip("0123456789_")] = mod[node.args[0]]

    relax.analysis.post_order_visit(mod["main"], visit)
    dtypes = {n: [str(p.dtype) for p in f.params] for n, f in calls.items()}
    assert dtypes["layer_norm"] == ["float16", "float16", "float16", "float32"]
    assert dtypes["add"] == ["float32", "float16", "float32"]  # the sum is made in its register
    # Sums of the normalisation are float32: only its parameters are not.
    assert calls["layer_norm"].script().count("float16") == 3


def test_moves_move_half_and_choose_nothing_new():
    def body(x):
        a, b = bound(op.split(through(x), 2, axis=1))
        return through(op.concat([op.permute_dims(b, [1, 0]), op.permute_dims(a, [1, 0])], axis=0))

    found = choices(body, SQUARE)
    for name in ("split", "concat", "permute_dims"):
        assert {stored for stored, _ in found[name]} == {"float16"}
    assert found["matmul"][0][0] == "float16"


def branch(made):
    """Readers that no kernel can join: what they read has to lie in memory."""
    made = bound(made)
    return op.add(through(made), op.nn.softmax(made))


NEAR_MISSES = {
    "sum": (lambda x: op.sum(through(x), axis=[0], keepdims=True), "may exceed 65504"),
    "power": (lambda x: op.power(through(x), const(3.0)), "may exceed 65504"),
    "exp": (lambda x: op.exp(through(x)), "may exceed 65504"),
    "cumsum": (lambda x: op.cumsum(through(x), axis=1), "may exceed 65504"),
    "multiply": (lambda x: (lambda y: op.multiply(y, y))(through(x)), "may exceed 65504"),
    "subtract": (
        lambda x: op.subtract(op.sum(through(x), axis=[0], keepdims=True), x),
        "may exceed 65504",
    ),
}


@pytest.mark.parametrize("name", NEAR_MISSES)
def test_what_may_exceed_half_stays_single(name):
    make, reason = NEAR_MISSES[name]
    assert ("float32", reason) in choices(lambda x: branch(make(x)), SQUARE)[name]


@pytest.mark.parametrize(
    "name", ["nn.relu", "mean", "nn.softmax", "add", "divide"], ids=lambda name: name
)
def test_what_is_as_large_as_its_operands_is_half(name):
    make = {
        "nn.relu": lambda x: op.nn.relu(through(x)),
        "mean": lambda x: op.mean(through(x), axis=[0], keepdims=True),
        "nn.softmax": lambda x: op.nn.softmax(op.multiply(through(x), const(2.0))),
        "add": lambda x: op.add(through(x), const(np.full(32, 60000.0))),
        "divide": lambda x: op.divide(op.sum(through(x), axis=[0], keepdims=True), const(32.0)),
    }[name]
    found = choices(lambda x: branch(make(x)), SQUARE)
    assert "float16" in {stored for stored, _ in found[name]}, found[name]


def test_what_indices_come_from_stays_single():
    def body(x):
        scores = bound(op.multiply(through(x), const(0.5)))
        chosen = op.topk(scores, k=4, ret_type="indices", dtype="int32")
        return op.astype(chosen, "float32"), through(scores)

    found = choices(body, SQUARE)
    reason = "a sort, a choice of the largest or a cast to integers depends on it"
    assert found["multiply"] == [("float32", reason)]
    assert choices(lambda x: branch(op.multiply(through(x), const(0.5))), SQUARE)["multiply"] == [
        ("float16", "read by other kernels")
    ]


@pytest.mark.parametrize(
    ("values", "half"),
    [
        (np.arange(32) + 2000.0, True),
        (np.arange(32) * 7 + 4000.0, False),  # coordinates: float16 has even numbers only
        (np.full(32, 1e5), False),
        (np.full(32, 1e-9), False),
        (np.linspace(-1, 1, 32), True),
        (np.array([1e-9, *[1.0] * 31]), True),  # small beside the others
    ],
)
def test_constants_become_half_where_they_keep_their_meaning(values, half):
    weights = const(np.tile(values, (32, 1)))
    mod = CastToHalf(PROFILE)(module(lambda x: op.matmul(through(x), weights), SQUARE))
    stored = []

    def visit(node):
        if isinstance(node, tvm.ir.expr.GenericConst) and node.value.numpy().size > 1:
            stored.append(str(node.value.dtype))

    relax.analysis.post_order_visit(mod["main"], visit)
    assert sorted(stored) == (["float16"] * 2 if half else ["float16", "float32"])


def test_a_profile_keeps_operators():
    def body(x):
        return through(op.nn.softmax(through(x)))

    kept = replace(PROFILE, half=HalfStorage(("nn.softmax",)))
    found = choices(body, SQUARE, profile=kept)
    assert found["nn.softmax"] == [("float32", "the profile keeps the operator")]
    assert ("float32", "read by an operator that the profile keeps") in found["matmul"]
    assert choices(body, SQUARE)["nn.softmax"] == [("float16", "read by other kernels")]


def test_other_types_and_other_operators_stay():
    """What is not float32, and a PrimFunc that nothing is known of."""
    mod = module(lambda x, y: op.add(x, y), ((8,), "int32"), ((8,), "int32"))
    tvm.ir.assert_structural_equal(CastToHalf(PROFILE)(mod), mod)
    mod = module(lambda x, y: op.add(x, y), ((8,), "float16"), ((8,), "float16"))
    tvm.ir.assert_structural_equal(CastToHalf(PROFILE)(mod), mod)


def test_several_results_keep_their_types():
    def body(x):
        y = through(x)
        return y, op.reshape(y, [1024]), op.astype(op.argmax(y, axis=1), "float32")

    mod = CastToHalf(PROFILE)(module(body, SQUARE))
    assert {str(field.dtype) for field in mod["main"].ret_ty.fields} == {"float32"}
    relax.analysis.well_formed(mod)


def test_nothing_but_the_result_is_single_between_the_kernels_of_a_block():
    """An attention block with a mask, normalisations and a gated layer."""
    rng = np.random.default_rng(0)
    weights = [const(rng.normal(size=SQUARE) / 6) for _ in range(6)]
    ones, mask = const(np.ones(32)), const(np.triu(np.full(SQUARE, -3e38), 1))

    def body(x):
        x = bound(op.matmul(x, weights[5]))
        y = bound(op.nn.layer_norm(x, ones, ones, [-1]))
        q, k, v = (op.matmul(y, w) for w in weights[:3])
        scores = op.add(op.matmul(q, op.permute_dims(k, [1, 0])), mask)
        x = bound(op.add(x, op.matmul(op.nn.softmax(scores), v)))
        y = bound(op.matmul(op.nn.layer_norm(x, ones, ones, [-1]), weights[3]))
        return op.add(x, op.matmul(op.multiply(y, op.sigmoid(y)), weights[4]))

    mod = module(body, SQUARE)
    target = PROFILE.target()
    with target:
        for name, passes in pipeline_stages(target, "float16"):
            mod = tvm.transform.Sequential(passes)(mod)
            if name == "eliminate":
                break
    made = []

    def visit(node):
        if isinstance(node, relax.Call) and node.op.same_as(CALL_TIR):
            fields = node.ty.fields if isinstance(node.ty, tvm.ir.TupleType) else [node.ty]
            made.extend(str(field.dtype) for field in fields)

    relax.analysis.post_order_visit(mod["main"], visit)
    assert made.count("float32") == 1
    assert made.count("float16") >= 7


def test_host_agrees():
    """Every kind of flow at once, without the rest of the pipeline."""
    rng = np.random.default_rng(7)
    w = const(rng.normal(size=SQUARE) / 6)

    def body(x, y):
        a = bound(op.matmul(x, w))
        b = op.multiply(a, op.sigmoid(a))
        low, high = bound(op.split(op.add(b, y), 2, axis=1))
        c = op.concat([high, op.tanh(low)], axis=1)
        d = bound(op.nn.softmax(op.matmul(op.permute_dims(c, [1, 0]), w)))
        mean = op.mean(op.power(d, const(2.0)), axis=[1], keepdims=True)
        e = op.divide(d, op.sqrt(op.add(mean, const(1e-6))))
        return op.add(op.matmul(e, w), op.sum(d, axis=[0], keepdims=True))

    x, y = (rng.normal(size=SQUARE).astype("float32") for _ in range(2))
    mod = module(body, SQUARE, SQUARE)
    want, made = on_host(mod, x, y), on_host(CastToHalf(PROFILE)(mod), x, y)
    error = np.abs(made - want).max() / np.abs(want).max()
    assert 1e-6 < error < 4e-3


def test_layer_norm_of_large_values(half_device):
    rng = np.random.default_rng(1)
    x = (1e3 * rng.normal(size=(8, 4096))).astype("float32")
    ones, zeros = const(np.ones(4096)), const(np.zeros(4096))

    def norm(x):
        rows = op.nn.layer_norm(
            op.reshape(through(op.reshape(x, [1024, 32])), [8, 4096]), ones, zeros, [-1]
        )
        return op.reshape(through(op.reshape(rows, [1024, 32])), [8, 4096])

    made = run(norm, x)
    want = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    assert np.abs(made - want).max() < 4e-3


def test_softmax_of_large_logits(half_device):
    x = np.random.default_rng(2).uniform(-6e4, 6e4, SQUARE).astype("float32")
    x[0] = 6e4
    half = x.astype("float16").astype("float64")
    want = np.exp(half - half.max(1, keepdims=True))
    want /= want.sum(1, keepdims=True)
    made = run(lambda x: through(op.nn.softmax(through(x))), x)
    np.testing.assert_allclose(made, want, atol=1e-3)
    np.testing.assert_allclose(made[0], 1 / 32, rtol=1e-3)


def test_masked_scores_saturate(half_device):
    x = np.random.default_rng(3).normal(size=SQUARE).astype("float32")
    mask = np.triu(np.full(SQUARE, -3.4e38, "float32"), 1)
    mask[5] = -3.4e38  # a row of nothing: the mean, as in float32
    scores = (x + mask).astype("float64")
    want = np.exp(scores - scores.max(1, keepdims=True))
    want /= want.sum(1, keepdims=True)
    body = lambda x: through(op.nn.softmax(op.add(through(x), const(mask))))  # noqa: E731
    made = run(body, x)
    np.testing.assert_allclose(made, want, atol=2e-3)
    assert choices(body, SQUARE)["add"][0][1].startswith("masked: saturates")


def test_long_sums_and_squares_do_not_overflow(half_device):
    ones = np.ones((2, 70016), "float32")
    two = const(2 * np.eye(32))

    def wide(x):
        return op.reshape(op.matmul(op.reshape(x, [-1, 32]), two), [2, 70016])

    made = run(lambda x: op.mean(wide(x), axis=[1]), ones)
    np.testing.assert_array_equal(made, [2, 2])
    made = run(lambda x: op.sum(wide(x), axis=[1]), ones)
    np.testing.assert_array_equal(made, [140032, 140032])
    x = np.full(SQUARE, 300.0, "float32")  # 300 squared is 90000
    norm = lambda x: op.divide(  # noqa: E731
        x, op.sqrt(op.mean(op.power(x, const(2.0)), axis=[1], keepdims=True))
    )
    np.testing.assert_allclose(run(lambda x: through(norm(through(x))), x), 1, rtol=2e-3)
