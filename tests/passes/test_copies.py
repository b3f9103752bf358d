"""Second copies: made by the launch that makes the tensor, where readers disagree enough."""

from __future__ import annotations

import numpy as np
from relax_graphs import STAGE, apply, assert_same_values, const, graph, kernels
from tvm.relax import op

from smartmem_tvm.analysis.layouts import LAYOUTS, Layout
from smartmem_tvm.analysis.tensor_layouts import read_tensor_layouts
from smartmem_tvm.analysis.transactions import Memory
from smartmem_tvm.devices import resolve_profile
from smartmem_tvm.passes import RewriteLayouts, SelectLayouts, _copies
from smartmem_tvm.passes._emit import rewrite_blocks
from smartmem_tvm.passes._layout_problem import ProblemBuilder

RNG = np.random.default_rng(2)
CPU = resolve_profile("cpu")


def two_directions(x):
    """A tensor that one reader goes along by rows and another by columns."""
    made = op.matmul(x, const(RNG.standard_normal((64, 96))))
    rows = op.nn.softmax(made, axis=1)
    columns = op.nn.softmax(made, axis=0)
    return rows, columns


def joined():
    return apply(graph(two_directions, [80, 64]), *STAGE)


def with_costs(mod, change):
    """The module after copies were added under changed costs, and the copies."""
    found = []

    def select(graph_):
        stated = ProblemBuilder(mod, Memory.of(CPU)).state(graph_)
        chosen = {buffer: layouts[0] for buffer, layouts in stated.tensors.items()}
        for choice in stated.kernels:
            change(choice)
        found.extend(_copies.add_copies(graph_, stated, chosen))

    return rewrite_blocks(mod, select, in_place=True), found


def prefer(layout, price):
    """Readers along columns gain a lot from a layout; writing it costs `price`."""

    def change(choice):
        for operand in choice.free:
            column = operand.layouts.index(layout)
            if choice.node.outputs[0] is operand.buffer:
                operand.costs[:, column] = price
            elif any(int(a.extent) == 96 for a in choice.node.stages[0].axes if not a.reduced):
                operand.costs[:, :] = 1e9
                operand.costs[:, column] = 1.0

    return change


def test_a_copy_is_one_more_output_of_the_launch():
    before = joined()
    after, copies = with_costs(before, prefer(Layout((1, 0)), 10.0))
    (copy,) = copies
    assert copy.layout == Layout((1, 0))
    assert len(kernels(after)) == len(kernels(before))
    maker = kernels(after)[0]
    assert [str(m) for m in maker.attrs[LAYOUTS] if m is not None] == [
        str(Layout((1, 0)).index_map())
    ]
    rewritten = apply(after, RewriteLayouts)
    assert [96, 80] in [[int(d) for d in p.shape] for p in kernels(rewritten)[0].params]
    assert_same_values(before, rewritten)


def test_no_copy_where_writing_it_costs_more():
    before = joined()
    after, copies = with_costs(before, prefer(Layout((1, 0)), 1e12))
    assert copies == []
    assert_same_values(before, after)


def test_no_copy_of_a_tensor_with_one_reader():
    def body(x):
        made = op.matmul(x, const(RNG.standard_normal((64, 96))))
        return op.nn.softmax(made, axis=0)

    mod = apply(graph(body, [80, 64]), *STAGE)
    _, copies = with_costs(mod, prefer(Layout((1, 0)), 0.0))
    assert copies == []


def test_records_name_what_was_chosen():
    selected = apply(joined(), SelectLayouts(CPU))
    assert all(record.reason for record in read_tensor_layouts(selected))
