"""What long kernels compute again has a name; short ones stay, and all values."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
from index_kernels import ITEMS, WINDOW, repeated_index
from tvm import tirx
from tvm.ir.prim import expr as prim
from tvm_ffi import structural_walk

from smartmem_tvm.checking import check
from smartmem_tvm.passes import NameExpressions, name_expressions
from smartmem_tvm.passes.name_expressions import MOST_EXPRESSIONS, length

OPENCL = tvm.target.Target("opencl", host="llvm")


def divisions(func):
    found = []
    structural_walk(func.body, (prim.FloorMod, found.append))
    return len(found)


def test_a_long_function_computes_each_index_once():
    func = repeated_index(400)
    assert length(func) > MOST_EXPRESSIONS
    assert divisions(func) == 800
    named = NameExpressions()(tvm.IRModule({"main": func}))["main"]
    assert divisions(named) == 1
    assert length(named) < length(func) / 2


def test_short_functions_stay_beside_a_long_one():
    short, long = repeated_index(20), repeated_index(400)
    assert length(short) <= MOST_EXPRESSIONS
    mod = NameExpressions()(tvm.IRModule({"short": short, "long": long}))
    assert mod["short"].same_as(short)
    assert not mod["long"].same_as(long)
    mod = tvm.IRModule({"short": short})
    assert NameExpressions()(mod).same_as(mod)


def test_the_number_of_a_work_item_counts_as_its_text():
    func = repeated_index(2)
    var = func.body.node.var
    loop = tirx.PrimFunc(func.params, tirx.For(var, 0, ITEMS, tirx.ForKind.SERIAL, func.body.body))
    assert length(func) - length(loop) >= 2 * 10  # five in each of two stores


@pytest.mark.device
@pytest.mark.parametrize("copies", [2, 400])
def test_numbers_and_the_length_of_the_source(copies, opencl_device):
    mod = tvm.IRModule({"main": repeated_index(copies)})
    built = tvm.compile(mod, target=OPENCL, tir_pipeline="smartmem")
    assert len(built.mod.imports[0].inspect_source()) < 60 * 1024
    x = np.random.default_rng(0).random(8192, "float32")
    y = tvm.runtime.empty((ITEMS, copies), "float32", opencl_device)
    built["main"](tvm.runtime.tensor(x, opencl_device), y)
    i, j = np.ogrid[:ITEMS, :copies]
    place = i * 7 % 13 * 300 + i * 11 // 3
    np.testing.assert_array_equal(y.numpy(), x[place + j % WINDOW] + x[place + j])


@pytest.mark.device
@pytest.mark.parametrize(("model", "device"), [("vit", "adreno-740"), ("convnext", "cpu")])
def test_models_whose_every_kernel_is_named(model, device, monkeypatch, opencl_device):
    """Images, vectors, conditions and local memory, although no micro model has a long kernel."""
    monkeypatch.setattr(name_expressions, "MOST_EXPRESSIONS", 0)
    named = []
    monkeypatch.setattr(name_expressions, "length", lambda func: named.append(func) or 1)
    result = check(f"zoo:{model}/micro", device, repeats=1)
    assert result.passed
    assert len(named) > 10
