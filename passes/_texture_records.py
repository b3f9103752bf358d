"""Records of layouts that say which tensors are images, and why others are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import tvm

from smartmem_tvm.analysis.tensor_layouts import TensorLayout, read_tensor_layouts
from smartmem_tvm.analysis.texels import SCOPE

from ._graph import Graph, Node
from ._tensors import is_constant


@dataclass(frozen=True)
class _Constant:
    """What was found of a constant.

    Its record is called after its first reader (:class:`.TensorLayout`), or, where it is stored in
    a second layout, after the first reader of the first one.
    """

    names: frozenset[str]
    readers: frozenset[str]
    why: str


@dataclass
class Placements:
    """Why each tensor is in a buffer; an empty text for one that is an image."""

    tensors: dict[str, str] = field(default_factory=dict)
    constants: list[_Constant] = field(default_factory=list)

    def note_tensor(self, buffer: Any, why: str) -> None:
        """Remember what was found of a tensor that kernels make."""
        self.tensors[buffer.name] = why

    def note_constant(self, graph: Graph, buffer: Any, readers: list[Node], why: str) -> None:
        """Remember what was found of a constant."""
        names = frozenset(_name_in(graph, node, buffer) for node in readers)
        made = frozenset(node.outputs[0].name for node in readers)
        self.constants.append(_Constant(names, made, why))

    def recorded(self, mod: tvm.IRModule) -> Iterator[TensorLayout]:
        """Records of a module, with what was found."""
        records = read_tensor_layouts(mod)
        by_name = {id(c): c for c in self.constants for r in records if _is_named(c, r)}
        others = [constant for constant in self.constants if id(constant) not in by_name]
        for record in records:
            why = self.tensors.get(record.name)
            if record.constant:
                found = [c for c in by_name.values() if _is_named(c, record)]
                found = found or [c for c in others if c.readers == _readers(record)]
                why = found[0].why if len(found) == 1 else None
            if why == "":
                record = replace(record, scope=SCOPE)
            elif why is not None:
                record = replace(record, reason=f"{record.reason}; in a buffer: {why}")
            yield record


def _is_named(constant: _Constant, record: TensorLayout) -> bool:
    return record.name in constant.names and constant.readers == _readers(record)


def _readers(record: TensorLayout) -> frozenset[str]:
    return frozenset(reading.reader for reading in record.readings)


def _name_in(graph: Graph, node: Node, buffer: Any) -> str:
    constants = [each for each in node.inputs() if is_constant(graph, each)]
    number = next(n for n, each in enumerate(constants, start=1) if each.same_as(buffer))
    return f"{node.outputs[0].name}.constant_{number}"
