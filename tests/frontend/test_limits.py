from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from onnx_graphs import linear, model, value

from smartmem_tvm.errors import ModelError, SmartMemError
from smartmem_tvm.frontend import check_inputs, import_model


def sum_of_two(first, second):
    return model(
        [helper.make_node("Add", ["a", "b"], ["y"], "sum")],
        [value("a", first), value("b", second)],
        [value("y", first)],
    )


def limits_of(imported):
    return dict(imported.mod["main"].attrs["tir_var_upper_bound"])


def test_a_bound_of_a_symbol():
    imported = import_model(linear("batch"), shapes={"x": ("batch<=8", 8)})
    assert imported.inputs[0].shape == ("batch", 8)
    assert imported.inputs[0].limits == (("batch", 8),)
    assert limits_of(imported) == {"batch": 8}


def test_a_bound_makes_a_static_extent_symbolic():
    imported = import_model(linear(2), shapes={"x": ("n <= 4", 8)})
    assert (imported.inputs[0].shape, limits_of(imported)) == (("n", 8), {"n": 4})


def test_a_bound_holds_for_every_input():
    imported = import_model(sum_of_two(["n", 4], ["n", 4]), shapes={"a": ("n<=3", 4)})
    assert [spec.limits for spec in imported.inputs] == [(("n", 3),), (("n", 3),)]


def test_inputs_above_the_bound():
    imported = import_model(linear("batch"), shapes={"x": ("batch<=8", 8)})
    check_inputs(imported.inputs, [np.zeros((8, 8), "float32")])
    with pytest.raises(SmartMemError, match=r"'batch' up to 8: dimension 0 is 9\. Split the input"):
        check_inputs(imported.inputs, [np.zeros((9, 8), "float32")])


def test_a_module_that_declares_its_bounds():
    mod = import_model(linear("batch"), shapes={"x": ("batch<=8", 8)}).mod
    assert import_model(mod).inputs[0].limits == (("batch", 8),)
    again = import_model(mod, shapes={"x": ("batch<=6", 8)})
    assert (again.inputs[0].limits, limits_of(again)) == ((("batch", 6),), {"batch": 6})


def test_a_bound_on_a_fixed_extent_of_a_module():
    mod = import_model(linear(2)).mod
    with pytest.raises(ModelError, match="dimension 0 of input 'x' the bound 4, but it is 2"):
        import_model(mod, shapes={"x": ("n<=4", 8)})


@pytest.mark.parametrize("extent", ["n<=0", "n<=", "<=4", "n<=x", "n<=-1", "n<=1.5"])
def test_bad_bounds(extent):
    with pytest.raises(ModelError, match="a bound is written NAME<=N"):
        import_model(linear("n"), shapes={"x": (extent, 8)})


def test_two_bounds_of_one_symbol():
    with pytest.raises(ModelError, match="'n' two "):
        import_model(sum_of_two(["n", 4], ["n", 4]), shapes={"a": ("n<=3", 4), "b": ("n<=5", 4)})
