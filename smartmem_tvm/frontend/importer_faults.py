"""Operators that TVM's ONNX importer converts to something else than ONNX defines.

Each converter below stands before the importer's own for the cases its docstring names, and hands
the others over to it. What is not worth an own conversion is refused: a model that is not compiled
is better than one that computes something else. tests/frontend/test_importer_faults.py asserts of
each that the importer is still wrong, so that an update of TVM that mends it makes a test fail and
the converter is removed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tvm import ir, relax
from tvm.relax.frontend.onnx import onnx_frontend

Upstream = Callable[..., relax.Expr]
"""The importer's own conversion of the node, or of another operator on its operands."""
Converter = Callable[[int, Any, dict[str, Any], Upstream], relax.Expr]


class Importer(onnx_frontend.ONNXGraphImporter):
    """TVM's importer with the converters of this module."""

    def _convert_operator(
        self, op_name: str, inputs: Any, attrs: dict[str, Any], opset: int
    ) -> relax.Expr:
        def upstream(name: str = op_name) -> relax.Expr:
            return super(Importer, self)._convert_operator(name, inputs, attrs, opset)

        converter = CONVERTERS.get(op_name)
        if converter is None:
            return upstream()
        tensors = type(inputs)(
            # What the importer gets by normalising each result: the type of every operand.
            self.bb.normalize(value) if isinstance(value, relax.Expr) else value
            for value in inputs
        )
        return self.bb.normalize(converter(opset, tensors, attrs, upstream))


def _batch_normalisation(_opset: int, inputs: Any, attrs: dict, upstream: Upstream) -> relax.Expr:
    """In training mode, the batch's own mean and variance normalise.

    Upstream: ``batch_norm(training=True)``, of which ``DecomposeOpsForInference`` makes the
    inference form, which normalises with the running statistics.
    """
    if not attrs.get("training_mode", 0):
        return upstream()
    data, scale, bias, running_mean, running_var = inputs[:5]
    rank, dtype = len(data.ty.shape), str(data.ty.dtype)
    compute = "float32" if dtype == "float16" else dtype
    axes = [axis for axis in range(rank) if axis != 1]

    def along_channels(tensor: relax.Expr) -> relax.Expr:
        wide = _cast(tensor, str(tensor.ty.dtype), compute)
        return relax.op.reshape(wide, [-1, *[1] * (rank - 2)])

    x = _cast(data, dtype, compute)
    mean = relax.op.mean(x, axes, keepdims=True)
    centred = relax.op.subtract(x, mean)
    variance = relax.op.mean(relax.op.multiply(centred, centred), axes, keepdims=True)
    epsilon = relax.const(attrs.get("epsilon", 1e-5), compute)
    deviation = relax.op.sqrt(relax.op.add(variance, epsilon))
    y = relax.op.multiply(relax.op.divide(centred, deviation), along_channels(scale))
    y = relax.op.add(y, along_channels(bias))
    momentum = attrs.get("momentum", 0.9)

    def running(old: relax.Expr, new: relax.Expr) -> relax.Expr:
        kind = str(old.ty.dtype)
        kept = relax.op.multiply(_cast(old, kind, compute), relax.const(momentum, compute))
        added = relax.op.multiply(new, relax.const(1 - momentum, compute))
        return _cast(relax.op.add(kept, added), compute, kind)

    statistics = [
        running(running_mean, relax.op.mean(x, axes)),
        running(running_var, relax.op.variance(x, axes)),
    ]
    return relax.Tuple([_cast(y, compute, dtype), *statistics])


def _bit_shift(_opset: int, inputs: Any, attrs: dict, upstream: Upstream) -> relax.Expr:
    """A shift by the type's width or more, or by less than nothing, leaves only the sign.

    Upstream: the shift operator of the target, which takes the amount modulo the width.
    """
    value, amount = inputs[0], inputs[1]
    if not all(isinstance(operand.ty, relax.TensorType) for operand in (value, amount)):
        return upstream()
    dtype = str(value.ty.dtype)
    signed, bits = dtype.startswith("int"), int(dtype.lstrip("uint"))
    known = _constant(amount)
    if known is not None and np.all((known >= 0) & (known < bits)):
        return upstream()
    zero, width = relax.const(0, dtype), relax.const(bits, dtype)
    within = relax.op.less(amount, width)
    if signed:
        within = relax.op.logical_and(within, relax.op.greater_equal(amount, zero))
    left = attrs["direction"] == b"LEFT"
    shift = relax.op.left_shift if left else relax.op.right_shift
    rest = zero
    if signed and not left:
        rest = relax.op.where(relax.op.less(value, zero), relax.const(-1, dtype), zero)
    return relax.op.where(within, shift(value, relax.op.where(within, amount, zero)), rest)


def _convolution_transposed(
    _opset: int, inputs: Any, attrs: dict, upstream: Upstream
) -> relax.Expr:
    """``output_shape`` decides the pads, and what they cannot take away the output padding adds.

    Upstream: the attribute is not read.
    """
    wanted = attrs.pop("output_shape", None)
    if wanted is None:
        return upstream()
    data, weight = ([int(e) for e in tensor.ty.shape.values] for tensor in inputs[:2])
    spatial = len(data) - 2
    strides = attrs.get("strides", [1] * spatial)
    dilations = attrs.get("dilations", [1] * spatial)
    more = list(attrs.get("output_padding", [0] * spatial))
    upper = attrs.pop("auto_pad", b"NOTSET") == b"SAME_UPPER"
    begins, ends = [], []
    for axis, extent in enumerate(wanted[-spatial:]):
        covered = (weight[2 + axis] - 1) * dilations[axis] + 1
        total = strides[axis] * (data[2 + axis] - 1) + more[axis] + covered - extent
        more[axis] += max(-total, 0)
        total = max(total, 0)
        begins.append(total // 2 if upper else total - total // 2)
        ends.append(total - begins[-1])
    attrs["pads"], attrs["output_padding"] = (*begins, *ends), more
    return upstream()


def _dropout(opset: int, inputs: Any, _attrs: dict, upstream: Upstream) -> relax.Expr:
    """Dropout passes its input on, and its mask is true; in training mode it is refused.

    Upstream: training mode is not read, and the mask has the type of the data.
    """
    ratio, training = inputs[1], inputs[2]
    if opset >= 12 and training is not None:
        trains, drops = _constant(training), 0.5 if ratio is None else _constant(ratio)
        if trains is None or (trains.any() and (drops is None or drops != 0)):
            raise NotImplementedError(
                "dropout draws random numbers where training_mode is true: make training_mode the "
                "constant false, as exporters do for inference."
            )
    mask = relax.op.ones_like(inputs[0], "bool" if opset >= 10 else None)
    return relax.Tuple([inputs[0], mask])


def _is_infinite(_opset: int, inputs: Any, attrs: dict, upstream: Upstream) -> relax.Expr:
    """``detect_negative`` and ``detect_positive`` choose the infinities that count.

    Upstream: the attributes are not read.
    """
    signs = [
        sign
        for sign, name in ((1, "detect_positive"), (-1, "detect_negative"))
        if attrs.get(name, 1)
    ]
    if len(signs) == 2:
        return upstream()
    if not signs:
        return relax.op.zeros_like(inputs[0], "bool")
    return relax.op.equal(inputs[0], relax.const(signs[0] * np.inf, str(inputs[0].ty.dtype)))


def _layer_normalisation(_opset: int, inputs: Any, attrs: dict, upstream: Upstream) -> relax.Expr:
    """The second and third results are the mean and the inverse standard deviation.

    Upstream: both are the scalar 0.
    """
    result = upstream()
    if attrs["tvm_custom"]["num_outputs"] == 1:
        return result
    rank, dtype = len(inputs[0].ty.shape), str(inputs[0].ty.dtype)
    stash = "float32" if attrs.get("stash_type", 1) == 1 else dtype
    x = _cast(inputs[0], dtype, stash)
    axes = list(range(attrs.get("axis", -1) % rank, rank))
    mean = relax.op.mean(x, axes, keepdims=True)
    centred = relax.op.subtract(x, mean)
    variance = relax.op.mean(relax.op.multiply(centred, centred), axes, keepdims=True)
    epsilon = relax.const(attrs.get("epsilon", 1e-5), stash)
    inverse = relax.op.divide(relax.const(1, stash), relax.op.sqrt(relax.op.add(variance, epsilon)))
    return relax.Tuple([result[0], mean, inverse])


def _modulo(_opset: int, inputs: Any, attrs: dict, upstream: Upstream) -> relax.Expr:
    """Of floats, the remainder has the divisor's sign and is exact, for an infinite divisor too.

    Upstream: ``a - floor(a / b) * b``, which is NaN for an infinite b.
    """
    tensors = all(isinstance(operand.ty, relax.TensorType) for operand in inputs)
    if attrs.get("fmod", 0) or not tensors or "float" not in str(inputs[0].ty.dtype):
        return upstream()
    zero = relax.const(0, str(inputs[0].ty.dtype))
    rest = relax.op.mod(inputs[0], inputs[1])
    negative = relax.op.less(rest, zero), relax.op.less(inputs[1], zero)
    turned = relax.op.logical_and(relax.op.not_equal(rest, zero), relax.op.logical_xor(*negative))
    return relax.op.where(turned, relax.op.add(rest, inputs[1]), rest)


def _non_maximum_suppression(
    _opset: int, _inputs: Any, _attrs: dict, _upstream: Upstream
) -> relax.Expr:
    """Refused: the number of boxes that are kept is not known before it runs.

    Upstream: as many rows as there could be, those that are no box filled with rows of others.
    """
    raise NotImplementedError(
        "the number of boxes that it keeps depends on values computed at run time: end the model "
        "before it, and select the boxes on the host."
    )


def _power(_opset: int, inputs: Any, _attrs: dict, upstream: Upstream) -> relax.Expr:
    """Of integers, a product of as many bases as the exponent counts; operands may differ in type.

    Upstream: a power of integers, which cannot be compiled, and none of operands that differ. A
    base other than -1, 0 and 1 has overflowed before the 64th factor, so that of exponents past it
    only the parity matters.
    """
    base, exponent = inputs[0], inputs[1]
    if not all(isinstance(operand.ty, relax.TensorType) for operand in (base, exponent)):
        return upstream()
    kinds = [str(operand.ty.dtype) for operand in (base, exponent)]
    if _constant(base) is not None and _constant(exponent) is not None and kinds[0] == kinds[1]:
        return upstream()
    if "float" in kinds[0]:
        return relax.op.power(base, _cast(exponent, kinds[1], kinds[0]))
    if "float" in kinds[1]:
        return _cast(relax.op.power(_cast(base, *kinds), exponent), kinds[1], kinds[0])
    dtype = str(exponent.ty.dtype)
    past = relax.op.add(
        relax.const(64, dtype), relax.op.bitwise_and(exponent, relax.const(1, dtype))
    )
    count = relax.op.where(relax.op.greater(exponent, relax.const(64, dtype)), past, exponent)
    factor = relax.op.where(
        relax.op.less(relax.const(np.arange(65), dtype), relax.op.expand_dims(count, -1)),
        relax.op.expand_dims(base, -1),
        relax.const(1, str(base.ty.dtype)),
    )
    return relax.op.prod(factor, -1)


def _reduce_log_sum_exp(_opset: int, _inputs: Any, _attrs: dict, upstream: Upstream) -> relax.Expr:
    """Where the largest element is infinite, it is the result.

    Upstream: ``log(sum(exp(x - max))) + max``, of which infinite elements make NaN.
    """
    largest = upstream("ReduceMax")
    return relax.op.where(relax.op.isinf(largest), largest, upstream())


def _region_of_interest_align(
    _opset: int, _inputs: Any, attrs: dict, upstream: Upstream
) -> relax.Expr:
    """The largest of the weighted samples is refused.

    Upstream: mode "max" takes the largest of the interpolated samples.
    """
    if attrs.get("mode", b"avg") == b"max":
        raise NotImplementedError(
            "mode 'max' takes the largest weighted corner, which is not implemented: use 'avg'."
        )
    return upstream()


def _rms_normalisation(_opset: int, inputs: Any, attrs: dict, upstream: Upstream) -> relax.Expr:
    """Normalisation over all axes, from its parts.

    Upstream: ``rms_norm`` over all axes, which cannot be compiled (its mean has no dimensions and
    is read with one).
    """
    data, scale = inputs[0], inputs[1]
    if attrs.get("axis", -1) % len(data.ty.shape):
        return upstream()
    dtype = str(data.ty.dtype)
    compute = "float32" if attrs.get("stash_type", 1) == 1 else dtype
    x = _cast(data, dtype, compute)
    square = relax.op.mean(relax.op.multiply(x, x), keepdims=True)
    epsilon = relax.const(attrs.get("epsilon", 1e-5), compute)
    y = relax.op.divide(x, relax.op.sqrt(relax.op.add(square, epsilon)))
    return relax.op.multiply(_cast(y, compute, dtype), scale)


def _space_to_depth(_opset: int, inputs: Any, attrs: dict, upstream: Upstream) -> relax.Expr:
    """In mode "CRD" the blocks of one channel follow each other.

    Upstream: the attribute is not read.
    """
    if attrs.get("mode", b"DCR") != b"CRD":
        return upstream()
    size = int(attrs["blocksize"])
    batch, channels, height, width = inputs[0].ty.shape.values
    blocks = (batch, channels, height // size, size, width // size, size)
    x = relax.op.permute_dims(relax.op.reshape(inputs[0], blocks), [0, 1, 3, 5, 2, 4])
    return relax.op.reshape(x, (batch, channels * size * size, height // size, width // size))


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": _batch_normalisation,
    "BitShift": _bit_shift,
    "ConvTranspose": _convolution_transposed,
    "Dropout": _dropout,
    "IsInf": _is_infinite,
    "LayerNormalization": _layer_normalisation,
    "Mod": _modulo,
    "NonMaxSuppression": _non_maximum_suppression,
    "Pow": _power,
    "RMSNormalization": _rms_normalisation,
    "ReduceLogSumExp": _reduce_log_sum_exp,
    "RoiAlign": _region_of_interest_align,
    "SpaceToDepth": _space_to_depth,
}
"""Converters by operator."""


def _cast(tensor: relax.Expr, source: str, target: str) -> relax.Expr:
    return tensor if source == target else relax.op.astype(tensor, target)


def _constant(expr: relax.Expr) -> np.ndarray | None:
    """Value of a constant tensor."""
    return expr.value.numpy() if isinstance(expr, ir.GenericConst) else None
