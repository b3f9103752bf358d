from __future__ import annotations

import numpy as np
import pytest

from smartmem_tvm.errors import SmartMemError
from smartmem_tvm.frontend import TensorSpec, check_inputs

X = TensorSpec("x", ("n", 4), "float32")
IDS = TensorSpec("ids", ("n",), "int64", upper=10)
SPECS = [X, IDS]


def arrays(n=2, m=2):
    return {"ids": np.zeros(m, np.int64), "x": np.zeros((n, 4), np.float32)}


def test_names_come_in_the_models_order():
    given = arrays()
    assert check_inputs(SPECS, given)[0] is not given["ids"]
    assert [a.shape for a in check_inputs(SPECS, given)] == [(2, 4), (2,)]


def test_a_list_is_in_the_models_order():
    x, ids = arrays()["x"], arrays()["ids"]
    assert [a.dtype for a in check_inputs(SPECS, [x, ids])] == [np.float32, np.int64]


def test_strided_arrays_become_contiguous_and_scalars_stay_scalars():
    strided = np.arange(24, dtype=np.float32).reshape(4, 6)[:, :4]
    (checked,) = check_inputs([X], [strided])
    assert checked.flags.c_contiguous
    np.testing.assert_array_equal(checked, strided)
    (scalar,) = check_inputs([TensorSpec("s", (), "float32")], [np.float32(3)])
    assert scalar.shape == ()


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        ({"x": arrays()["x"]}, r"input 'ids' is missing; the model takes: 'x', 'ids'"),
        ({**arrays(), "y": 1}, r"no input 'y'; its inputs: 'x', 'ids'"),
        ([arrays()["x"]], r"1 inputs came and the model takes 2"),
        (arrays()["x"], r"inputs are a ndarray"),
        (None, r"inputs are a NoneType"),
        ({**arrays(), "x": np.zeros((2, 4))}, r"input 'x' has dtype float64 .* takes float32"),
        ({**arrays(), "x": np.zeros((2, 4), ">f4")}, r"input 'x' has dtype >f4"),
        ({**arrays(), "x": np.zeros((2, 5), "f")}, r"\[2, 5\] .* \[n, 4\]: dimension 1 is 5 inst"),
        ({**arrays(), "x": np.zeros((4,), "f")}, r"of 1 dimensions, .* \[n, 4\], of 2"),
        ({**arrays(), "x": np.zeros((0, 4), "f")}, r"holds no element"),
        (arrays(2, 3), r"input 'ids' .*: 'n' is 3 here and 2 in input 'x'"),
        ({**arrays(), "ids": np.array([1, 10])}, r"'ids' holds 10, .* 10 entries .* below 10"),
        ({**arrays(), "x": "text"}, r"input 'x' has dtype <U4"),
    ],
)
def test_wrong_inputs_say_what_came_and_what_is_expected(inputs, match):
    with pytest.raises(SmartMemError, match=match):
        check_inputs(SPECS, inputs)
