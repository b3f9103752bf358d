"""The fates of a model's operators, from operators to kernels, and how its tensors lie."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tvm
from small_models import mlp
from tvm import relax
from tvm.relax import op

from smartmem_tvm.analysis.tensor_layouts import STRIDE_ONE, UNKNOWN, unexplained
from smartmem_tvm.devices import load_profile
from smartmem_tvm.explaining import explain
from smartmem_tvm.frontend import import_model

sys.path.insert(0, str(Path(__file__).parent / "passes"))
from relax_graphs import module

OPENCL = tvm.target.Target("opencl", host="llvm")
STAGES = ["simplify", "legalise", "eliminate", "layouts", "schedule", "verify"]


def explained(body, *shapes, disable=()):
    return explain(module(body, *shapes), OPENCL, disable=disable)


def fates(explanation):
    return Counter((fate.layout_class, fate.fate) for fate in explanation.fates)


def test_every_operator_has_a_fate_and_the_kernel_that_does_its_work():
    explanation = explain(import_model(mlp()).mod, OPENCL)
    assert fates(explanation) == {
        ("ILD", "kernel"): 2,
        ("ILI", "fused"): 2,
        ("fixed", "fused"): 1,
    }
    names = {kernel.func for kernel in explanation.kernels}
    assert len(names) == 2
    for fate in explanation.fates:
        assert set(fate.kernels) <= names
        assert fate.kernels  # also what became one of several outputs
        assert fate.reason == ""
    assert list(explanation.stages_s) == STAGES


def test_transforms_are_counted_and_what_is_kept_has_a_reason():
    def body(x, w):
        product = op.matmul(op.permute_dims(x), w)
        return product, op.permute_dims(op.reshape(x, (3, 3, 6)), [2, 0, 1])

    explanation = explained(body, (9, 6), (9, 8))
    found = explanation.layout_transforms
    assert (found["before"], found["eliminated"]) == (3, 2)
    (kept,) = found["kept"]
    assert kept["op"].endswith("(transpose1)")
    assert "a graph output" in kept["reason"]
    assert sum(kernel.layout_only for kernel in explanation.kernels) == 1


def test_a_split_is_one_operator_whatever_becomes_of_its_parts():
    def body(x, w):
        parts = op.split(op.matmul(x, w), 2, 1)
        return op.exp(relax.TupleGetItem(parts, 0)), op.sin(relax.TupleGetItem(parts, 1))

    explanation = explained(body, (6, 9), (9, 8))
    (split,) = [fate for fate in explanation.fates if fate.layout_class == "fixed"]
    assert split.fate == "eliminated"
    assert len(split.views) == 2
    assert explanation.layout_transforms == {"before": 1, "eliminated": 1, "kept": []}


def test_merged_operators_name_the_reason():
    explanation = explained(
        lambda x, q, k: (op.exp(op.matmul(x, q)), op.sin(op.matmul(x, k))), (6, 9), (9, 8), (9, 8)
    )
    (merged,) = [fate for fate in explanation.fates if fate.fate == "merged"]
    assert merged.reason == "both read 'x0' in the same way"
    (kernel,) = {kernel.func for kernel in explanation.kernels}
    assert all(fate.kernels == (kernel,) for fate in explanation.fates)


def test_divisions_before_and_after_simplification():
    def body(x):
        windows = op.reshape(x, (1, 2, 2, 2, 2, 3))
        return op.exp(op.reshape(op.permute_dims(windows, [0, 1, 3, 2, 4, 5]), (4, 4, 3)))

    found = explained(body, (1, 4, 4, 3)).index_divisions
    assert found["before"] > found["after"] > 0
    assert found["inner_loops"] == 0


def test_an_operator_that_nobody_needs_is_dead():
    from smartmem_tvm.analysis.layout_class import LayoutClass
    from smartmem_tvm.explaining import _Operator, _resolve

    (fate,) = _resolve([_Operator("lv", ("lv",), "add", LayoutClass.ILI, "")], [], {})
    assert (fate.fate, fate.kernels) == ("dead", ())


def test_an_opaque_operator_is_kept_with_its_reason():
    explanation = explained(lambda x: op.cumsum(op.exp(x), 1), (4, 9))
    opaque = [fate for fate in explanation.fates if fate.layout_class == "opaque"]
    assert opaque
    assert all(fate.fate == "kept" and fate.reason for fate in opaque)


@pytest.mark.parametrize("switch", ["eliminate", "merge", "fuse", "simplify"])
def test_each_mechanism_can_be_left_out(switch):
    def body(x, q, k):
        heads = [op.permute_dims(op.reshape(op.matmul(x, w), (6, 2, 4)), [1, 0, 2]) for w in (q, k)]
        return op.matmul(op.exp(heads[0]), op.permute_dims(heads[1], [0, 2, 1]))

    shapes = [(6, 9), (9, 8), (9, 8)]
    everything = explained(body, *shapes)
    without = explained(body, *shapes, disable=[switch])
    launches = [sum(k.calls for k in found.kernels) for found in (everything, without)]
    assert everything.layout_transforms["eliminated"] == 5
    assert launches[0] == 2
    assert launches[1] == 2 if switch == "simplify" else launches[1] > 2
    moving = sum(kernel.calls for kernel in without.kernels if kernel.layout_only)
    assert bool(moving) == (switch == "eliminate")
    fate = {"eliminate": "eliminated", "merge": "merged"}.get(switch)
    assert fate is None or fate not in {found.fate for found in without.fates}


def test_the_floor_counts_reductions_after_merging_and_opaque_operators():
    def body(x, q, k, v):
        products = [op.matmul(x, w) for w in (q, k, v)]
        scores = op.nn.softmax(op.matmul(products[0], op.permute_dims(products[1])))
        return op.cumsum(op.exp(op.matmul(scores, products[2])), 1)

    shapes = [(6, 9), (9, 8), (9, 8), (9, 8)]
    found = explained(body, *shapes)
    # q, k and v once; scores, softmax, product with v; the sum that runs.
    assert found.kernel_floor["ild"] == 4
    opaque = [fate for fate in found.fates if fate.layout_class == "opaque"]
    assert found.kernel_floor["opaque"] == len(opaque)
    assert found.kernel_floor["bound"] == 4 + len(opaque) + 2
    apart = explained(body, *shapes, disable=["merge"])
    assert apart.kernel_floor["ild"] == 6


def test_what_nothing_needs_raises_no_floor():
    from smartmem_tvm.analysis.layout_class import LayoutClass
    from smartmem_tvm.explaining import Explanation, _Operator, _resolve

    fates = _resolve([_Operator("lv", ("lv",), "sum", LayoutClass.ILD, "")], [], {})
    assert Explanation(tuple(fates), (), {}).kernel_floor == {"ild": 0, "opaque": 0, "bound": 2}


def test_a_concatenated_output_is_written_by_the_kernels_of_its_parts():
    def body(x, w, v):
        return op.concat([op.matmul(x, w), op.nn.relu(op.matmul(x, v))], 1)

    found = explained(body, (6, 9), (9, 8), (9, 7))
    assert sum(kernel.calls for kernel in found.kernels) == found.kernel_floor["ild"] == 2
    (whole,) = [fate for fate in found.fates if fate.layout_class == "fixed"]
    assert whole.fate == "fused"
    assert len(whole.kernels) == 2
    assert all(fate.kernels for fate in found.fates)


def test_the_progress_names_every_stage():
    seen = []
    explain(module(op.exp, (4, 9)), OPENCL, progress=seen.append)
    assert seen == STAGES
    assert np.isfinite(sum(explain(module(op.exp, (4, 9)), OPENCL).stages_s.values()))


def projections(x, q, k):
    heads = [op.permute_dims(op.reshape(op.matmul(x, w), (64, 2, 32)), [1, 0, 2]) for w in (q, k)]
    return op.nn.softmax(op.matmul(heads[0], op.permute_dims(heads[1], [0, 2, 1])))


def explained_on(profile, disable=()):
    shapes = [(64, 96), (96, 64), (96, 64)]
    target = load_profile(profile).target(None)
    return explain(module(projections, *shapes), target, disable=disable)


@pytest.mark.parametrize("profile", ["cpu", "adreno-740"])
def test_every_tensor_lies_somewhere_and_every_operand_is_read_somehow(profile):
    found = explained_on(profile)
    names = {kernel.func for kernel in found.kernels}
    assert {t.name for t in found.tensors if t.forced} == {"x0", "x1", "x2", "gv"}
    assert all(tensor.reason for tensor in found.tensors)
    assert {r.kernel for t in found.tensors for r in t.readings} == names
    assert sum(found.operand_readings.values()) == 3 + 2 + 1  # projections, scores, softmax
    assert found.operand_readings[UNKNOWN] == 0
    assert unexplained(found.tensors) == []
    sizes = [4 * int(np.prod(tensor.shape)) for tensor in found.tensors]
    assert found.tensor_bytes == {"total": sum(sizes), "copies": 0}


@pytest.mark.parametrize("profile", ["cpu", "adreno-740"])
def test_the_schedules_read_as_many_operands_as_the_cost_model(profile):
    found = explained_on(profile)
    assert sum(found.scheduled_readings.values()) == sum(found.operand_readings.values())
    for tensor in found.tensors:
        for reading in tensor.readings:
            assert bool(reading.scheduled) == reading.reduced
            assert reading.reason or not reading.reduced or reading.scheduled in STRIDE_ONE


def test_without_layouts_tensors_lie_row_by_row_and_say_what_that_costs():
    found, plain = explained_on("cpu"), explained_on("cpu", ["layouts"])
    assert all(tensor.row_by_row for tensor in plain.tensors)
    assert not all(tensor.row_by_row for tensor in found.tensors)
    costs = [sum(t.cost for t in e.tensors if not t.forced) for e in (plain, found)]
    assert costs[1] < costs[0]


def test_constants_are_tensors_too():
    found = explain(import_model(mlp()).mod, OPENCL)
    constants = [tensor for tensor in found.tensors if tensor.constant]
    assert {t.name.partition(".")[2] for t in constants} >= {"constant_1", "constant_2"}
    scheduled = [r for t in constants for r in t.readings if r.reduced]
    assert len(scheduled) == 2
    assert all(reading.scheduled for reading in scheduled)


def test_a_second_copy_is_read_by_a_kernel_and_counted():
    def body(x, a, w):
        both_ways = op.matmul(op.exp(x), w)
        return op.matmul(a, both_ways), op.matmul(op.exp(a), op.permute_dims(both_ways))

    target = load_profile("cpu").target(None)
    found = explain(module(body, (256, 256), (256, 256), (256, 256)), target)
    (copy,) = [tensor for tensor in found.tensors if tensor.copies]
    assert found.tensor_bytes["copies"] == copy.bytes == 256 * 256 * 4
    (reading,) = copy.readings
    assert reading.kernel
    assert reading.scheduled
