"""Classes derived from blocks alone: every function here is called ``main``."""

from __future__ import annotations

import numpy as np
import odd_kernels as kernels
import pytest
from odd_kernels import legalised
from tvm import relax
from tvm.relax import op

from smartmem_tvm.analysis.layout_class import LayoutClass, classify


def indices(*values):
    return relax.const(np.array(values, "int64"), "int64")


CASES = {
    # kernel, class, dimensions of each input that are reduced
    "matmul": (
        lambda: legalised(op.matmul, (4, 9), (9, 5)),
        LayoutClass.ILD,
        [(1,), (0,)],
    ),
    "convolution with padding inside": (
        lambda: legalised(
            lambda x, w: op.nn.conv2d(x, w, padding=(1, 1)), (1, 3, 8, 8), (4, 3, 3, 3)
        ),
        LayoutClass.ILD,
        [(1, 2, 3), (1, 2, 3)],
    ),
    "depthwise convolution": (
        lambda: legalised(lambda x, w: op.nn.conv2d(x, w, groups=3), (1, 3, 8, 8), (3, 1, 3, 3)),
        LayoutClass.ILD,
        [(2, 3), (2, 3)],
    ),
    "softmax": (
        lambda: legalised(lambda x: op.nn.softmax(x, 1), (4, 8, 2)),
        LayoutClass.ILD,
        [(1,)],
    ),
    "layer norm": (
        lambda: legalised(lambda x, g, b: op.nn.layer_norm(x, g, b, [-1]), (4, 8), (8,), (8,)),
        LayoutClass.ILD,
        [(1,), (), ()],
    ),
    "mean of everything": (lambda: legalised(op.mean, (4, 9)), LayoutClass.ILD, [(0, 1)]),
    "argmax": (lambda: legalised(lambda x: op.argmax(x, 1), (4, 9)), LayoutClass.ILD, [(1,)]),
    "reduction of a tuple": (kernels.tuple_reduction, LayoutClass.ILD, [(1,), (), ()]),
    "argmax by hand": (lambda: kernels.argmax, LayoutClass.ILD, [(1,), (), ()]),
    "tensor expressions": (kernels.weighted_distance, LayoutClass.ILD, [(1,), (1,)]),
    "add of a row": (lambda: legalised(op.add, (4, 9), (9,)), LayoutClass.ILI, [(), ()]),
    "cast": (lambda: legalised(lambda x: op.astype(x, "float16"), (4,)), LayoutClass.ILI, [()]),
    "rotary embedding": (lambda: kernels.rotary, LayoutClass.ILI, [(), (), ()]),
    "pixel shuffle and scale": (lambda: kernels.scaled_pixel_shuffle, LayoutClass.ILI, [()]),
    "choice by data": (lambda: kernels.choice_by_data, LayoutClass.ILI, [(), ()]),
    "pixel shuffle": (lambda: kernels.pixel_shuffle, LayoutClass.FIXED, [()]),
    "transpose": (lambda: legalised(op.permute_dims, (4, 9)), LayoutClass.FIXED, [()]),
    "split": (lambda: legalised(lambda x: op.split(x, 3, 1), (4, 9)), LayoutClass.FIXED, [()]),
    "pad": (
        lambda: legalised(lambda x: op.nn.pad(x, [1, 1, 0, 2]), (4, 9)),
        LayoutClass.FIXED,
        [()],
    ),
    "concat": (
        lambda: legalised(lambda x, y: op.concat([x, y], 1), (4, 9), (4, 2)),
        LayoutClass.FIXED,
        [(), ()],
    ),
    "broadcast": (
        lambda: legalised(lambda x: op.broadcast_to(x, (4, 9)), (9,)),
        LayoutClass.FIXED,
        [()],
    ),
    "gather, constant indices": (
        lambda: legalised(lambda x: op.take(x, indices(2, 0, 2), 0), (4, 9)),
        LayoutClass.FIXED,
        [(), ()],
    ),
    "gather, indices at run time": (
        lambda: legalised(lambda x, i: op.take(x, i, 0), (4, 9), ((3,), "int64")),
        LayoutClass.FIXED,
        [(), ()],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_class_and_reduced_dimensions(name):
    make, layout_class, reduced = CASES[name]
    found = classify(make())
    assert found.layout_class is layout_class
    assert [tuple(d) for d in found.reduced[: len(reduced)]] == reduced
    assert not any(found.reduced[len(reduced) :])
    assert found.reason == ""


@pytest.mark.parametrize(
    ("func", "reason"),
    [
        (kernels.scan, "axis 'vt' runs in order"),
        (kernels.scan_of_spatial_axes, "block 'main' reads what it writes"),
        (kernels.neighbours_in_a_reduction, "reads another element that it writes"),
        (kernels.guarded_block, "block 'main' has a predicate"),
        (kernels.guarded_loop, "block 'main' has a predicate"),
        (kernels.tiled, "axis 'vi' is not one whole loop"),
        (kernels.bound_to_threads, "loop 'i' has a schedule"),
        (kernels.written_in_halves, "buffer 'Y' is written by several blocks"),
        (kernels.conditional_start, "does not initialise what it stores"),
        (kernels.no_start, "reduces without an initial value"),
        (kernels.swapped_in_place, "reads what it has just written"),
        (kernels.extern_call, "statement of kind Evaluate"),
        (kernels.scatter, "its data says where it stores"),
        (kernels.unused_loop, "has loops that no axis uses"),
        (
            kernels.pixel_shuffle.with_attr("tirx.is_scheduled", True),
            "it is scheduled by hand",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_opaque_with_its_reason(func, reason):
    found = classify(func)
    assert found.layout_class is LayoutClass.OPAQUE
    assert reason in found.reason


def test_a_reduction_over_one_element_reduces_no_dimension():
    found = classify(legalised(op.matmul, (4, 1), (1, 5)))
    assert found.layout_class is LayoutClass.ILD
    assert found.reduced == ((), (), ())
