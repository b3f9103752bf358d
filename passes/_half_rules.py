"""What :class:`CastToHalf` knows of Relax operators and of constants."""

from __future__ import annotations

from enum import Enum
from functools import cache
from typing import Any

import numpy as np
import tvm
from tvm import tirx
from tvm.ir.expr import GenericConst

from smartmem_tvm.analysis.layout_only import is_layout_only

LARGEST = 65504.0  # of float16
EXCEEDS = "a constant exceeds 65504"


class Kind(Enum):
    """How an operator reads and makes its tensors.

    ``CONTRACTION`` reads float16 and accumulates in float32. ``VIEW`` moves the elements of one
    tensor, ``MOVE`` takes or chooses elements of several: neither computes. ``ELEMENTWISE`` and
    ``REDUCTION`` compute in float32. ``EXACT`` chooses places by values. ``OTHER`` has no rule.
    """

    CONTRACTION = "contraction"
    VIEW = "view"
    MOVE = "move"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    EXACT = "exact"
    OTHER = "other"


_NAMES = {
    Kind.CONTRACTION: "matmul nn.conv1d nn.conv2d nn.conv3d nn.conv1d_transpose "
    "nn.conv2d_transpose nn.conv3d_transpose",
    Kind.VIEW: "reshape permute_dims expand_dims squeeze flatten nn.batch_flatten strided_slice "
    "broadcast_to flip repeat tile",
    Kind.MOVE: "concat stack split take gather_elements gather_nd nn.max_pool1d nn.max_pool2d "
    "nn.max_pool3d nn.pixel_shuffle",
    Kind.ELEMENTWISE: "abs acos acosh add asin asinh astype atan atan2 atanh ceil clip cos cosh "
    "divide equal erf exp ewise_fma floor floor_divide floor_mod greater greater_equal isfinite "
    "isinf isnan less less_equal log log_add_exp logical_and logical_not logical_or maximum "
    "minimum mod multiply negative nn.gelu nn.gelu_tanh nn.leakyrelu nn.pad nn.prelu nn.relu "
    "nn.selu nn.silu nn.softplus not_equal power round rsqrt sigmoid sign sin sinh sqrt square "
    "subtract tan tanh trunc where",
    Kind.REDUCTION: "cumprod cumsum einsum image.resize2d image.resize3d max mean min "
    "nn.adaptive_avg_pool1d nn.adaptive_avg_pool2d nn.adaptive_avg_pool3d nn.attention "
    "nn.attention_bias nn.avg_pool1d nn.avg_pool2d nn.avg_pool3d nn.batch_norm nn.group_norm "
    "nn.instance_norm nn.layer_norm nn.log_softmax nn.rms_norm nn.softmax outer prod std sum "
    "variance",
    Kind.EXACT: "argmax argmin argsort bucketize median multinomial_from_uniform nonzero sort topk "
    "unique vision.all_class_non_max_suppression vision.get_valid_counts "
    "vision.non_max_suppression",
}
# Results have no bound that the operands' would give: a sum of many, a power, an exponential.
_GROWING = "cosh cumprod cumsum einsum exp power prod sinh square sum tan variance"
# Results are as large as the largest operand, or the sum or product of operands.
_CARRYING = "abs add clip maximum minimum multiply negative nn.leakyrelu nn.relu subtract where"


@cache
def _kinds() -> dict[Any, Kind]:
    return {
        tvm.ir.Op.get(f"relax.{name}"): kind
        for kind, names in _NAMES.items()
        for name in names.split()
    }


@cache
def _ops(names: str) -> frozenset[Any]:
    return frozenset(tvm.ir.Op.get(f"relax.{name}") for name in names.split())


@cache
def _op(name: str) -> Any:
    return tvm.ir.Op.get(name)


def known_operators() -> frozenset[str]:
    """Names of all operators with a rule."""
    return frozenset(op.name for op in _kinds())


def kind_of(call: Any, mod: tvm.IRModule) -> Kind:
    """Kind of a call of an operator or of a PrimFunc."""
    if not isinstance(call.op, tvm.ir.Op):
        return Kind.OTHER
    if call.op.same_as(_op("relax.call_tir")):
        func = mod[call.args[0]]
        moves = isinstance(func, tirx.PrimFunc) and is_layout_only(func.body)
        return Kind.REDUCTION if moves else Kind.OTHER
    found = _kinds().get(call.op, Kind.OTHER)
    if call.op.same_as(_op("relax.astype")) and str(call.attrs.dtype) not in ("float32", "float16"):
        return Kind.EXACT
    return found


def grows(call: Any, operands: list[bool]) -> bool:
    """Whether elements of the result may exceed the range of float16.

    Parameters
    ----------
    call
        The call.
    operands
        For each float32 operand whether its elements may.
    """
    if not isinstance(call.op, tvm.ir.Op) or call.op in _ops(_GROWING):
        return True
    if call.op.same_as(_op("relax.multiply")) and call.args[0].same_as(call.args[1]):
        return True
    kind = _kinds().get(call.op)
    if kind in (Kind.VIEW, Kind.MOVE) or call.op in _ops(_CARRYING):
        return any(operands)
    if call.op.same_as(_op("relax.divide")):  # by a sum or by a count: as large as before the sum
        return bool(operands) and operands[0] and not operands[-1] and not is_const(call.args[1])
    return kind is None and not call.op.same_as(_op("relax.call_tir"))


def is_const(expr: Any) -> bool:
    """Whether an expression is a constant tensor."""
    return isinstance(expr, GenericConst)


def refusal_of_constant(values: np.ndarray) -> str:
    """Why a float32 constant may not be stored as float16; nothing when it may."""
    if not np.isfinite(values).all() or (values.size and np.abs(values).max() > LARGEST):
        return EXCEEDS
    half = values.astype(np.float16).astype(np.float32)
    if (values == np.round(values)).all() and (half != values).any():
        return "a constant of whole numbers that float16 cannot tell apart"
    scale = np.sqrt(np.mean(np.square(values, dtype=np.float64))) if values.size else 0.0
    if np.abs(half - values).max(initial=0.0) > 2.0**-10 * max(
        scale, np.abs(values).max(initial=0.0)
    ):
        return "a constant of numbers too small for float16"
    return ""
