from __future__ import annotations

import numpy as np
import pytest
import tvm
from host import run_on_host
from onnx_graphs import linear
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from smartmem_tvm.errors import ModelError
from smartmem_tvm.frontend import TensorSpec, import_model, random_inputs, reference_outputs


def module(shape=("n", 4), *, result=None, name: str = "main") -> tvm.IRModule:
    """x + x, or what `result` makes of x."""
    extents = [tvm.tirx.Var(e, "int64") if isinstance(e, str) else e for e in shape]
    x = relax.Var("x", relax.TensorType(extents, "float32"))
    builder = relax.BlockBuilder()
    with builder.function(name, [x]):
        with builder.dataflow():
            y = builder.emit((result or (lambda v: relax.op.add(v, v)))(x))
            output = builder.emit_output(y)
        builder.emit_func_output(output)
    return builder.get()


def test_symbolic_module():
    imported = import_model(module())
    assert imported.inputs == [TensorSpec("x", ("n", 4), "float32")]
    assert imported.outputs == [TensorSpec("output", ("n", 4), "float32")]
    assert (imported.operators, imported.onnx_model) == (1, None)
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(run_on_host(imported, {"x": x})["output"], 2 * x)


def test_shapes_bind_symbols_and_leave_the_module_alone():
    given = module()
    before = tvm.ir.save_json(given)
    imported = import_model(given, shapes={"x": (3, 4)})
    assert (imported.inputs[0].shape, imported.outputs[0].shape) == ((3, 4), (3, 4))
    assert tvm.ir.save_json(given) == before


def test_tuple_result():
    imported = import_model(module(result=lambda x: relax.Tuple([x, relax.op.exp(x)])))
    assert [spec.name for spec in imported.outputs] == ["output_0", "output_1"]


def test_constants_are_folded():
    imported = import_model(
        module(
            (2, 4),
            result=lambda x: relax.op.add(
                x, relax.op.permute_dims(relax.const(np.ones((4, 2), np.float32)))
            ),
        )
    )
    assert imported.operators == 1


def test_parameters_in_the_attribute_are_bound():
    given = from_onnx(linear(), keep_params_in_input=True)
    assert len(given["main"].params) == 3
    imported = import_model(given)
    assert [spec.name for spec in imported.inputs] == ["x"]
    source = import_model(linear())
    inputs = random_inputs(source.inputs)
    np.testing.assert_allclose(
        run_on_host(imported, inputs)["output"],
        reference_outputs(source, inputs)["y"],
        rtol=1e-4,
        atol=1e-5,
    )


def test_no_main():
    with pytest.raises(ModelError, match=r"no Relax function 'main' \(functions: 'entry'\)"):
        import_model(module(name="entry"))
    with pytest.raises(ModelError, match="functions: none"):
        import_model(tvm.IRModule())


def test_main_of_another_kind():
    x = relax.Var("x", relax.ShapeType(ndim=2))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(x)
    with pytest.raises(ModelError, match="input 'x' is no tensor"):
        import_model(builder.get())


def test_input_of_unknown_rank():
    x = relax.Var("x", relax.TensorType(dtype="float32", ndim=-1))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        builder.emit_func_output(x)
    with pytest.raises(ModelError, match="input 'x' has no known shape"):
        import_model(builder.get())


def test_module_that_is_not_well_formed():
    given = module()
    x, y = (relax.Var(name, relax.TensorType([2], "float32")) for name in "xy")
    given["main"] = relax.Function([x], y, relax.TensorType([2], "float32"))
    with pytest.raises(ModelError, match="not well formed"):
        import_model(given)


@pytest.mark.parametrize(
    ("shape", "shapes", "message"),
    [
        (("n", 4), {"z": (1, 4)}, "the input 'z'"),
        (("n", 4), {"x": (1, 4, 1)}, "3 dimensions"),
        (("n", 4), {"x": (1, 5)}, r"fixed as \('n', 4\)"),
        (("n", "n"), {"x": (1, 2)}, "'n' two values: 1 and 2"),
        (("n", 4), {"x": (0, 4)}, "the extent 0"),
    ],
)
def test_bad_shapes(shape, shapes, message):
    with pytest.raises(ModelError, match=message):
        import_model(module(shape), shapes=shapes)
