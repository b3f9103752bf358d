"""Which tensors :class:`CastToHalf` stores as float16: flow of values through one function."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import tvm
from tvm import relax
from tvm.ir.expr import GenericConst

from ._half_rules import EXCEEDS, Kind, grows, kind_of, refusal_of_constant

END = object()  # what reads the results of a function
LIGHT = (Kind.ELEMENTWISE, Kind.VIEW)
MOVES = (Kind.VIEW, Kind.MOVE)
KEPT_OPERAND = "read by an operator that the profile keeps"
_SOFTMAX = tvm.ir.Op.get("relax.nn.softmax")


class Stored(Enum):
    """Where a tensor lies between operators.

    ``ANY`` is float32 in memory whatever is chosen, and may be rounded: an input or a result.
    """

    REGISTER = "register"
    HALF = "float16"
    SINGLE = "float32"
    ANY = "as given"


@dataclass(frozen=True)
class Value:
    """A float32 tensor: where it lies, why, and the reduction in whose kernel it may be made."""

    stored: Stored
    reason: str
    grows: bool = False
    masked: bool = False  # grows, by constants that exceed float16 and by nothing else
    root: Any = None


UNKNOWN = Value(Stored.SINGLE, "")


@dataclass
class Plan:
    """What becomes of one binding.

    Attributes
    ----------
    kind
        Kind of its operator.
    half
        Whether it reads its float32 operands as float16; what moves elements then makes float16.
    saturates
        Whether what exceeds float16 becomes its largest number.
    rounded
        Operands that it reads as float32 after they were rounded.
    """

    kind: Kind
    half: bool = False
    saturates: bool = False
    rounded: set[Any] = field(default_factory=set)


def is_single(ty: Any) -> bool:
    """Whether a type is a float32 tensor, or a tuple of nothing else."""
    if isinstance(ty, tvm.ir.TupleType):
        return bool(ty.fields) and all(is_single(item) for item in ty.fields)
    return isinstance(ty, relax.TensorType) and str(ty.dtype) == "float32"


def operands_of(value: Any) -> list[Any]:
    """Variables and constants that a bound value reads, those of a tuple one by one."""
    if isinstance(value, relax.Call):
        return [item for arg in value.args for item in operands_of(arg)]
    if isinstance(value, relax.Tuple):
        return [item for entry in value.fields for item in operands_of(entry)]
    if isinstance(value, relax.TupleGetItem):
        return operands_of(value.tuple_value)
    return [value] if isinstance(value, (relax.Var, GenericConst)) else []


class Flow:
    """Choices for the dataflow blocks of one function, made once, in the order of the bindings."""

    def __init__(self, func: relax.Function, mod: tvm.IRModule, keep: frozenset[str]) -> None:
        self._mod = mod
        self._keep = keep
        blocks = [b for b in func.body.blocks if isinstance(b, relax.DataflowBlock)]
        self._bindings = [binding for block in blocks for binding in block.bindings]
        self._position = {b.var: number for number, b in enumerate(self._bindings)}
        self._kinds = {b.var: self._kind(b.value) for b in self._bindings}
        self._readers: dict[Any, list[Any]] = {}
        for binding in self._bindings:
            for operand in operands_of(binding.value):
                self._readers.setdefault(operand, []).append(binding.var)
            if not isinstance(binding.var, relax.DataflowVar):
                self._readers.setdefault(binding.var, []).append(END)
        self._look_back(func.params)
        self.plans: dict[Any, Plan] = {}
        self.values: dict[Any, Value] = {
            param: Value(Stored.ANY, "an input of the model")
            for param in func.params
            if is_single(param.ty)
        }
        for binding in self._bindings:
            self._choose(binding)

    def _kind(self, value: Any) -> Kind:
        if isinstance(value, (relax.TupleGetItem, relax.Var)):
            return Kind.VIEW
        if isinstance(value, relax.Tuple):
            return Kind.MOVE
        if not isinstance(value, relax.Call) or self._is_kept(value):
            return Kind.OTHER
        return kind_of(value, self._mod)

    def _is_kept(self, value: Any) -> bool:
        op = getattr(value, "op", None)
        return isinstance(op, tvm.ir.Op) and op.name.removeprefix("relax.") in self._keep

    def _look_back(self, params: Any) -> None:
        """From the results: what only they need, post-dominators, what must keep its digits."""
        self._only_results: dict[Any, bool] = {}
        self._meets: dict[Any, Any] = {}  # post-dominator of each variable
        self._depth: dict[Any, int] = {END: 0}
        self._clean: dict[Any, bool] = {}  # only elementwise operators before the post-dominator
        self._pinned: dict[Any, str] = {}
        kinds = self._kinds
        for var in [*(b.var for b in reversed(self._bindings)), *params]:
            readers = self._readers.get(var, [])
            self._only_results[var] = all(
                reader is END
                or (kinds[reader] in (*LIGHT, Kind.MOVE) and self._only_results[reader])
                for reader in readers
            )
            meet = readers[0] if readers else END
            for reader in readers[1:]:
                meet = self._common(meet, reader)
            self._meets[var] = meet
            self._depth[var] = self._depth[meet] + 1
            self._clean[var] = all(self._is_clean(reader, meet) for reader in readers)
            for reader in readers:
                reason = "" if reader is END else self._pins(reader)
                if reason:
                    self._pinned[var] = reason

    def _pins(self, reader: Any) -> str:
        value = self._bindings[self._position[reader]].value
        kind = self._kinds[reader]
        if self._is_kept(value):
            return KEPT_OPERAND
        if kind is Kind.EXACT:
            return "a sort, a choice of the largest or a cast to integers depends on it"
        reason = self._pinned.get(reader, "")
        return reason if kind in (*LIGHT, Kind.MOVE) and reason != KEPT_OPERAND else ""

    def _common(self, a: Any, b: Any) -> Any:
        while a is not b and not _same(a, b):
            if self._depth[a] < self._depth[b]:
                a, b = b, a
            a = self._meets[a]
        return a

    def _is_clean(self, reader: Any, meet: Any) -> bool:
        while not _same(reader, meet):
            if self._kinds[reader] not in LIGHT or not self._clean[reader]:
                return False
            reader = self._meets[reader]
        return True

    def _is_free(self, var: Any, root: Any) -> bool:
        """Whether fusion leaves no tensor there: the value stays in a register of one kernel."""
        while True:
            if self._only_results[var]:
                return True
            meet = self._meets[var]
            if not self._clean[var] or meet is END:
                return False
            kind = self._kinds[meet]
            if kind is not Kind.VIEW:
                return kind is Kind.ELEMENTWISE or (kind is Kind.REDUCTION and root is None)
            var = meet

    def _choose(self, binding: Any) -> None:
        var, value = binding.var, binding.value
        plan = self.plans[var] = Plan(self._kinds[var])
        operands = [o for o in operands_of(value) if is_single(o.ty)]
        variables = [o for o in operands if isinstance(o, relax.Var) and o in self.values]
        root = None
        if plan.kind in (Kind.CONTRACTION, *MOVES):
            plan.half = (
                self._stored(value.tuple_value) is Stored.HALF
                if isinstance(value, relax.TupleGetItem)
                else self._reads_half(var, plan.kind, operands)
            )
            if plan.half and plan.kind in MOVES:
                if is_single(var.ty):
                    self.values[var] = Value(Stored.HALF, "moves float16")
                return
        if not plan.half:
            plan.rounded = {v for v in variables if self.values[v].stored is Stored.HALF}
            if plan.kind in (Kind.ELEMENTWISE, Kind.REDUCTION):
                plan.rounded.update(o for o in operands if self._is_table(o))
        if not is_single(var.ty):
            return
        large = self._is_large(value, operands)
        masked = large and not self._is_large(value, operands, masks=False)
        if plan.kind in LIGHT:
            root = self._shared_root(variables, plan)
        elif plan.kind is not Kind.MOVE:
            root = var
        self.values[var] = self._value(var, value, root, large, masked)
        plan.saturates = masked and self.values[var].stored is Stored.HALF

    def _reads_half(self, var: Any, kind: Kind, operands: list[Any]) -> bool:
        if kind in MOVES and (
            self._only_results[var] or var in self._pinned or not is_single(var.ty)
        ):
            return False
        in_half = [self.can_be_half(operand) for operand in operands]
        given = [self._stored(operand) for operand in operands]
        if kind is Kind.VIEW and given == [Stored.ANY]:  # an input: moved as what its readers want
            return False
        return bool(in_half) and all(in_half)

    def can_be_half(self, operand: Any) -> bool:
        """Whether a float32 operand has, or may have, a float16 form."""
        if isinstance(operand, GenericConst):
            return not refusal_of_constant(operand.value.numpy())
        return self._stored(operand) in (Stored.HALF, Stored.ANY)

    def _is_table(self, operand: Any) -> bool:
        """Whether an operand is a constant of several elements that may be float16."""
        several = isinstance(operand, GenericConst) and operand.value.numpy().size > 1
        return several and self.can_be_half(operand)

    def _stored(self, operand: Any) -> Stored | None:
        value = self.values.get(operand)
        return None if value is None else value.stored

    def _is_large(self, value: Any, operands: list[Any], masks: bool = True) -> bool:
        """Whether a result may exceed float16; without ``masks``: and not by a constant alone."""
        growing = []
        for operand in operands:
            if isinstance(operand, GenericConst):
                growing.append(masks and refusal_of_constant(operand.value.numpy()) == EXCEEDS)
            else:
                found = self.values.get(operand, UNKNOWN)
                growing.append(found.grows and (masks or not found.masked))
        return grows(value, growing) if isinstance(value, relax.Call) else any(growing)

    def _shared_root(self, variables: list[Any], plan: Plan) -> Any:
        """Reduction in whose kernel an elementwise operator is; operands of others are rounded."""
        made = [
            v
            for v in variables
            if self.values[v].root is not None and self.values[v].stored is Stored.REGISTER
        ]
        kept = max((self.values[v].root for v in made), key=self._position.get, default=None)
        for v in made:
            own = self.values[v]
            if not _same(own.root, kept) and not own.grows and v not in self._pinned:
                self.values[v] = Value(Stored.HALF, "read by the kernel of another")
                plan.rounded.add(v)
        return kept

    def _value(self, var: Any, value: Any, root: Any, large: bool, masked: bool) -> Value:
        def chosen(stored: Stored, reason: str) -> Value:
            return Value(stored, reason, large, masked, root)

        if END in self._readers.get(var, []):
            return chosen(Stored.SINGLE if large else Stored.ANY, "a result")
        if self._is_kept(value):
            return chosen(Stored.SINGLE, "the profile keeps the operator")
        if self._pinned.get(var) == KEPT_OPERAND:
            return chosen(Stored.SINGLE, KEPT_OPERAND)
        if self._is_free(var, root):
            where = "a result" if self._only_results[var] else "an operator of its own kernel"
            return chosen(Stored.REGISTER, f"goes to {where}")
        if var in self._pinned:
            return chosen(Stored.SINGLE, self._pinned[var])
        if masked and self._goes_to_softmax(var):
            return Value(Stored.HALF, "masked: saturates at 65504, where a softmax is 0 already")
        if large:
            return chosen(Stored.SINGLE, "may exceed 65504")
        return chosen(Stored.HALF, "read by other kernels")

    def _goes_to_softmax(self, var: Any) -> bool:
        readers = [r for r in self._readers.get(var, []) if r is not END]
        values = [self._bindings[self._position[reader]].value for reader in readers]
        return all(isinstance(v, relax.Call) and v.op.same_as(_SOFTMAX) for v in values)


def _same(a: Any, b: Any) -> bool:
    return a is b or (a is not END and b is not END and a is not None and a.same_as(b))
